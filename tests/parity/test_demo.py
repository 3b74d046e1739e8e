"""The bundled checkpoint: what it promises, and that every engine draws its images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aim_edge.aim import Checkpoint, decode_logits, load_checkpoint
from aim_edge.aim.checkpoint import DEMO
from aim_edge.export import export_bundle, validate
from aim_edge.export.parity import compare_steps
from aim_edge.runtime import Generator, SamplingConfig
from parity.reference import draw_tokens

LOWERINGS = ("primitive", "onnx", "plugin", "plugin-fused", "plugin-layers")
CLASSES = np.array([8, 0, 3, 1, 9, 2, 6])
SAMPLING = {"guidance_scale": 2.0, "temperature": 1.0, "top_k": 300, "top_p": 0.95}


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load_checkpoint("demo")


@pytest.fixture(scope="module", params=LOWERINGS)
def generator(
    request: pytest.FixtureRequest, demo: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Generator]:
    path = export_bundle(demo, tmp_path_factory.mktemp("demo") / "bundle", lowering=request.param)
    with Generator.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def drawn(demo: Checkpoint) -> np.ndarray:
    return draw_tokens(demo.aim, CLASSES, 5, SamplingConfig(**SAMPLING))  # type: ignore[arg-type]


def test_size_and_figures() -> None:
    metrics = json.loads((DEMO / "metrics.json").read_text())
    assert sum(f.stat().st_size for f in DEMO.iterdir()) <= 10_000_000
    assert metrics["vq"]["held_out"]["psnr"] >= 22
    held_out = metrics["aim"]["held_out"]
    assert held_out["cross_entropy"] <= 0.75 * held_out["unigram_entropy"]
    assert metrics["seconds"] <= 20 * 60


def test_config_can_tell_a_transposed_state(demo: Checkpoint) -> None:
    config = demo.aim.config
    assert len({config.headdim, config.d_state, config.nheads}) == 3
    assert config.adaln_group and config.layer == "Mamba2"
    assert demo.class_names is not None and len(demo.class_names) == config.num_classes == 10


def test_pytorch_draws_the_same_alone_and_in_a_batch(demo: Checkpoint, drawn: np.ndarray) -> None:
    config = SamplingConfig(**SAMPLING)  # type: ignore[arg-type]
    for i in (0, 4):
        alone = draw_tokens(demo.aim, CLASSES[i : i + 1], 5, config, first_image=i)
        np.testing.assert_array_equal(alone[0], drawn[i])


def test_engines_draw_pytorchs_tokens_alone_and_in_a_batch(generator: Generator, drawn: np.ndarray) -> None:
    images, tokens = generator.generate(CLASSES, seed=5, **SAMPLING)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tokens, drawn)
    for i in (0, 4):
        image, alone = generator.generate(CLASSES[i : i + 1], seed=5, image_index=[i], **SAMPLING)  # type: ignore[arg-type]
        np.testing.assert_array_equal(alone[0], drawn[i])
        assert np.abs(image[0].astype(int) - images[i].astype(int)).max() <= 1


def test_whole_sequence_and_greedy_tokens(generator: Generator, demo: Checkpoint, drawn: np.ndarray) -> None:
    reference = decode_logits(demo.aim, CLASSES, drawn)
    for via in ("step", "scan"):
        logits = generator.decode_logits(CLASSES, drawn, via=via)
        assert np.abs(logits - reference).max() <= 1e-3
        np.testing.assert_array_equal(logits.argmax(-1), reference.argmax(-1))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("state_dtype", ["float32", "float16"])
def test_float16(lowering: str, state_dtype: str, demo: Checkpoint, drawn: np.ndarray, tmp_path: Path) -> None:
    path = export_bundle(demo, tmp_path / "b", lowering=lowering, precision="float16", state_dtype=state_dtype)
    labels, tokens = CLASSES[:2], drawn[:2]
    reference = decode_logits(demo.aim, labels, tokens)
    with Generator.open(path) as generator:
        for step in compare_steps(reference, generator.decode_logits(labels, tokens)):
            assert step.cosine >= 0.9999 and abs(step.norm_ratio - 1) <= 0.01, step
        images = generator.decode_tokens(drawn)
    assert images.std() > 20, "no blank images"


def test_validate_passes(demo: Checkpoint, tmp_path: Path) -> None:
    report = validate(export_bundle(demo, tmp_path / "b", lowering="onnx"), demo, images=2)
    assert report.passed, report.failures


def test_prefix_is_kept_and_continued(generator: Generator, drawn: np.ndarray) -> None:
    """Given an image's own first codes, the same seed draws the rest of it."""
    images, tokens = generator.generate(CLASSES, seed=5, prefix_tokens=drawn[:, :100], **SAMPLING)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tokens, drawn)
    _, continued = generator.generate(CLASSES, seed=6, prefix_image=images, prefix_rows=8, **SAMPLING)  # type: ignore[arg-type]
    np.testing.assert_array_equal(continued[:, :128], generator.encode_images(images)[:, :128])
    assert (continued[:, 128:] != drawn[:, 128:]).any()
