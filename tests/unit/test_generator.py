"""The decode loop on the toy: seeds, batches, prefixes, previews, forced logits, argument checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import CELL, DIMS, ToyModel, make_bundle, make_weights

from aim_edge.runtime import Bundle, Generator, NonFiniteError, Sampler

T, V = DIMS.num_tokens, DIMS.vocab_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="module")
def generator(folder: Path) -> Iterator[Generator]:
    with Generator.open(folder, threads=1) as opened:
        yield opened


def test_generate_draws_what_the_model_and_sampler_give_by_hand(generator: Generator) -> None:
    labels = np.array([2, 0, 3], np.int32)
    images, tokens = generator.generate(labels, seed=5, temperature=0.9, top_k=7, top_p=0.95)
    assert images.shape == (3, DIMS.image_height, DIMS.image_width, 3) and images.dtype == np.uint8
    assert tokens.shape == (3, T) and tokens.dtype == np.int32
    config = generator.bundle.manifest.sampling_defaults.override(temperature=0.9, top_k=7, top_p=0.95)
    assert config.guidance_scale == 2.0  # the bundle's default
    model, sampler = ToyModel(make_weights(), labels), Sampler(V, 3, config)
    previous = np.zeros(3, np.int32)
    for t in range(T):
        previous = sampler.draw(model.step(previous, t), 5, np.arange(3, dtype=np.uint64), t)
        np.testing.assert_array_equal(tokens[:, t], previous)
    cells = tokens.reshape(3, DIMS.grid_height, DIMS.grid_width)
    wanted = np.rint(cells / (V - 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(images[:, ::CELL, ::CELL, 0], wanted)


def test_the_same_seed_gives_the_same_image_in_any_batch(generator: Generator) -> None:
    labels = [0, 1, 2, 3, 0, 1, 2]
    images, tokens = generator.generate(labels, seed=2**64 - 1)
    for i in (0, 3, 6):
        alone, codes = generator.generate([labels[i]], seed=2**64 - 1, image_index=[i])
        np.testing.assert_array_equal(codes[0], tokens[i])
        np.testing.assert_array_equal(alone[0], images[i])
    assert not np.array_equal(generator.generate(labels, seed=0)[1], tokens)
    assert not np.array_equal(tokens[0], tokens[4])  # the same class, another image


def test_top_k_1_is_greedy_and_labels_may_be_a_column(generator: Generator) -> None:
    first = generator.generate([[1], [2]], seed=1, top_k=1)[1]
    np.testing.assert_array_equal(generator.generate([1, 2], seed=99, top_k=1)[1], first)


def test_more_images_than_one_decoding_chunk(generator: Generator) -> None:
    images, tokens = generator.generate(np.arange(37) % 4, seed=3)
    np.testing.assert_array_equal(images[36:], generator.decode_tokens(tokens[36:]))


@pytest.mark.parametrize("kept", [0, 1, 5, 11])
def test_a_prefix_of_codes_is_kept_and_continued_as_if_drawn(generator: Generator, kept: int) -> None:
    _, tokens = generator.generate([1, 3], seed=8)
    _, continued = generator.generate([1, 3], seed=8, prefix_tokens=tokens[:, :kept])
    np.testing.assert_array_equal(continued, tokens)


def test_a_prefix_longer_than_one_scan(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aim_edge.runtime.generator._PREFIX_CHUNK", 4)
    _, tokens = generator.generate([1, 3], seed=8)
    np.testing.assert_array_equal(generator.generate([1, 3], seed=8, prefix_tokens=tokens[:, :11])[1], tokens)


def test_the_top_rows_of_an_image_are_kept(generator: Generator) -> None:
    images, tokens = generator.generate([1, 3], seed=8)
    np.testing.assert_array_equal(generator.encode_images(images), tokens)
    continued, codes = generator.generate([1, 3], seed=8, prefix_image=images, prefix_rows=2)
    np.testing.assert_array_equal(codes, tokens)
    np.testing.assert_array_equal(continued, images)
    other = generator.generate([1, 3], seed=9, prefix_image=images, prefix_rows=2)[1]
    kept = 2 * DIMS.grid_width
    np.testing.assert_array_equal(other[:, :kept], tokens[:, :kept])
    assert not np.array_equal(other, tokens)


def test_progress_is_told_after_each_step(generator: Generator) -> None:
    told: list[tuple[int, int]] = []
    generator.generate([0], prefix_tokens=[[1, 2, 3]], progress=lambda known, total: told.append((known, total)))
    assert told == [(known, T) for known in range(4, T + 1)]


def test_stream_shows_growing_images_and_ends_as_generate(generator: Generator) -> None:
    images, tokens = generator.generate([1, 3], seed=8)
    previews = list(generator.stream([1, 3], every=5, seed=8))
    assert [preview.step for preview in previews] == [5, 10, T]
    np.testing.assert_array_equal(previews[-1].tokens, tokens)
    np.testing.assert_array_equal(previews[-1].images, images)
    early = previews[0]
    np.testing.assert_array_equal(early.tokens[:, :5], tokens[:, :5])
    assert (early.tokens[:, 5:] == -1).all()
    assert early.images is not None
    # Five codes of rows of three: one whole row of cells, two cells of the next; the rest is grey.
    np.testing.assert_array_equal(early.images[:, :CELL], images[:, :CELL])
    np.testing.assert_array_equal(early.images[:, CELL : 2 * CELL, : 2 * CELL], images[:, CELL : 2 * CELL, : 2 * CELL])
    assert (early.images[:, CELL : 2 * CELL, 2 * CELL :] == 128).all() and (early.images[:, 2 * CELL :] == 128).all()


def test_stream_without_pictures_still_ends_with_one(generator: Generator) -> None:
    previews = list(generator.stream([2], every=6, images=False))
    assert previews[0].images is None and previews[-1].images is not None


def test_a_waiting_stream_keeps_its_state_while_others_draw(generator: Generator) -> None:
    wanted = generator.generate([1, 3], seed=8)[1]
    stream = generator.stream([1, 3], every=4, seed=8)
    next(stream)
    generator.generate([0, 2], seed=77)
    generator.decode_logits([0, 2], np.zeros((2, T), int))
    np.testing.assert_array_equal(list(stream)[-1].tokens, wanted)


@pytest.mark.parametrize("via", ["step", "scan"])
@pytest.mark.parametrize("length", [1, 7, T])
def test_forced_logits_are_the_models(generator: Generator, via: str, length: int) -> None:
    labels = np.array([4, 1], np.int32)  # 4 is the null label
    tokens = np.random.default_rng(1).integers(0, V, (2, length))
    model = ToyModel(make_weights(), labels)
    fed = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    wanted = np.stack([model.step(fed[:, t], t) for t in range(length)])
    found = generator.decode_logits(labels[:, None], tokens, via=via)
    assert found.dtype == np.float32 and found.shape == (length, 4, V)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_session_by_hand_branches_from_a_snapshot(generator: Generator) -> None:
    session = generator.session(1)
    session.set_condition([2])
    session.step([0], 0)
    taken = session.snapshot()
    first = session.step([5], 1).copy()
    assert not np.array_equal(session.step([6], 2), first)
    session.restore(taken)
    np.testing.assert_array_equal(session.step([5], 1), first)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"class_ids": [0, 4]}, ValueError, r"class_ids\[1\] is 4; allowed: 0..3"),
    ({"class_ids": [-1]}, ValueError, r"class_ids\[0\] is -1"),
    ({"class_ids": []}, ValueError, "class_ids is empty"),
    ({"class_ids": [[0, 1]]}, ValueError, "class_ids has shape"),
    ({"class_ids": 3}, ValueError, "class_ids has shape"),
    ({"class_ids": [0.5]}, TypeError, "class_ids has dtype float64"),
    ({"class_ids": ["cat"]}, TypeError, "class_ids has dtype"),
    ({"class_ids": [True]}, TypeError, "class_ids has dtype bool"),
    ({"seed": -1}, ValueError, "seed is -1"),
    ({"seed": 2**64}, ValueError, "seed is 18446744073709551616"),
    ({"seed": 1.5}, TypeError, "seed is 1.5"),
    ({"seed": True}, TypeError, "seed is True"),
    ({"guidance_scale": -1}, ValueError, "guidance_scale is -1"),
    ({"guidance_scale": float("nan")}, ValueError, "guidance_scale is nan"),
    ({"temperature": 0}, ValueError, "temperature is 0"),
    ({"top_k": -1}, ValueError, "top_k is -1"),
    ({"top_p": 0}, ValueError, "top_p is 0"),
    ({"top_p": 1.5, "top_k": 0.5}, ValueError, "top_p is 1.5.*top_k is 0.5"),
    ({"image_index": [0, 1]}, ValueError, "image_index has shape"),
    ({"image_index": [-1]}, ValueError, "image_index holds -1"),
    ({"image_index": [0.5]}, TypeError, "image_index has dtype"),
    ({"prefix_tokens": [[0, 23]]}, ValueError, r"prefix_tokens\[0, 1\] is 23; allowed: 0..22"),
    ({"prefix_tokens": [[0], [1]]}, ValueError, "prefix_tokens has shape"),
    ({"prefix_tokens": [[0] * T]}, ValueError, "prefix_tokens has 12 columns; allowed: 0..11"),
    ({"prefix_tokens": [[0]], "prefix_image": np.zeros((1, 12, 9, 3), np.uint8)}, ValueError, "both given"),
    ({"prefix_image": np.zeros((1, 12, 9, 3), np.uint8)}, ValueError, "go together"),
    ({"prefix_rows": 1}, ValueError, "go together"),
    ({"prefix_image": np.zeros((1, 12, 9, 3), np.uint8), "prefix_rows": 4}, ValueError, "prefix_rows is 4"),
    ({"prefix_image": np.zeros((1, 9, 9, 3), np.uint8), "prefix_rows": 1}, ValueError, "prefix_image has shape"),
    ({"prefix_image": np.zeros((1, 12, 9, 3)), "prefix_rows": 1}, TypeError, "prefix_image has dtype float64"),
]


@pytest.mark.parametrize(("values", "error", "expected"), BAD)
def test_bad_arguments_are_named_before_anything_runs(
    generator: Generator, values: dict[str, Any], error: type[Exception], expected: str
) -> None:
    arguments = {"class_ids": [0], **values}
    for call in (generator.generate, generator.stream):
        with pytest.raises(error, match=expected):
            call(**arguments)


def test_bad_arguments_of_decode_logits_and_stream(generator: Generator) -> None:
    with pytest.raises(ValueError, match=r"labels\[0\] is 5; allowed: 0..4"):
        generator.decode_logits([5], [[0]])
    with pytest.raises(ValueError, match=r"tokens\[0, 0\] is -1; allowed: 0..22"):
        generator.decode_logits([0], [[-1]])
    with pytest.raises(ValueError, match="tokens has 13 columns"):
        generator.decode_logits([0], [[0] * 13])
    with pytest.raises(ValueError, match="via is 'magic'"):
        generator.decode_logits([0], [[0]], via="magic")
    with pytest.raises(ValueError, match="every is 0"):
        generator.stream([0], every=0)


def test_an_engine_that_overflows_draws_nothing(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    session = generator.session(1)
    monkeypatch.setattr(session, "step", lambda token, position: np.full((2, V), np.nan, np.float32))
    monkeypatch.setattr(generator.backend, "session", lambda batch: session)
    monkeypatch.setattr(generator, "_idle", None)
    with pytest.raises(NonFiniteError, match="row 0"):
        generator.generate([0])


def test_a_closed_generator_says_so(folder: Path) -> None:
    with Generator.open(Bundle.open(folder)) as generator:
        pass
    for call in (lambda: generator.generate([0]), lambda: generator.session(1),
                 lambda: generator.decode_logits([0], [[0]]), lambda: generator.stream([0])):  # fmt: skip
        with pytest.raises(RuntimeError, match="closed"):
            call()
