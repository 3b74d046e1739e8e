"""The TensorRT backend's own code on a fake driver and a fake TensorRT: what is drawn, and that nothing is left."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from fake_cuda import ALLOCATIONS, MEMCPY, FakeCuda
from toy_bundle import DIMS, ToyModel, make_weights
from trt_case import Make, make_case  # noqa: F401

from aim_edge.runtime import BackendMissingError, EngineError, Generator, NonFiniteError
from aim_edge.runtime.backends import trt_loop
from aim_edge.runtime.cuda import DeviceMemoryError
from aim_edge.runtime.images import read_pixels
from aim_edge.runtime.sampler import SamplingConfig

T, V = DIMS.num_tokens, DIMS.vocab_size
LABELS = np.array([2, 0, 3], np.int32)
DRAW: dict[str, Any] = {"seed": 5, "temperature": 0.9, "top_k": 7, "top_p": 0.95}
STYLES = [
    {"version": "8.6.1"}, {"version": "10.3.0"}, {"version": "11.4.0.106", "aliases": True},
    {"layout": ("float16", True)}, {"step": {"capturable": False}},
]  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("options", [{}, {"sampler": "host"}, {"cuda_graph": "off"}])
def test_it_draws_what_onnx_runtime_draws(make: Make, style: dict[str, Any], options: dict[str, Any]) -> None:
    case = make(**style)
    with Generator.open(case.root, threads=1) as other:
        wanted_images, wanted = other.generate(LABELS, **DRAW)
    generator = case.generator(**options)
    for _ in range(2):  # the second time with the session of the first
        images, tokens = generator.generate(LABELS, **DRAW)
        np.testing.assert_array_equal(tokens, wanted)
        np.testing.assert_array_equal(images, wanted_images)
    generator.close()
    generator.close()
    assert case.cuda.is_clean


@pytest.mark.parametrize("kept", [1, 5, 7, 11])
@pytest.mark.parametrize("style", STYLES[:3])
def test_a_prefix_is_scanned_in_pieces_and_continued(make: Make, kept: int, style: dict[str, Any]) -> None:
    generator = make(**style).generator()
    _, tokens = generator.generate([1, 3], seed=8)
    np.testing.assert_array_equal(generator.generate([1, 3], seed=8, prefix_tokens=tokens[:, :kept])[1], tokens)


@pytest.mark.parametrize("via", ["step", "scan"])
@pytest.mark.parametrize("length", [1, 7, T])
def test_forced_logits_are_the_models(make: Make, via: str, length: int) -> None:
    labels = np.array([4, 1], np.int32)
    tokens = np.random.default_rng(1).integers(0, V, (2, length))
    model = ToyModel(make_weights(), labels)
    fed = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    wanted = np.stack([model.step(fed[:, t], t) for t in range(length)])
    found = make().generator().decode_logits(labels, tokens, via=via)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_snapshots_are_canonical_and_bring_a_state_back(make: Make, style: dict[str, Any]) -> None:
    case = make(**style)
    session = case.backend().session(2)
    labels = np.array([1, 3], np.int32)
    model = ToyModel(make_weights(), labels)
    session.set_condition(labels)
    for t in range(3):
        session.step([t, t], t)
        model.step(np.array([t, t]), t)
    taken = session.snapshot()
    tolerance = 5e-3 if "layout" in style else 1e-5
    np.testing.assert_allclose(taken["ssm_state_1"], model.ssm[1], atol=tolerance)
    np.testing.assert_allclose(taken["conv_state_0"], model.conv[0], atol=tolerance)
    first = session.step([5, 6], 3).copy()
    assert not np.array_equal(session.step([6, 5], 4), first)
    session.restore(taken)
    np.testing.assert_array_equal(session.step([5, 6], 3), first)
    session.reset()
    assert all(not state.any() for state in session.snapshot().values())
    with pytest.raises(ValueError, match="conv_state_0 is missing"):
        session.restore({})


@pytest.mark.parametrize("style", STYLES)
def test_a_prepared_loop_leaves_state_and_codes_at_their_beginning(make: Make, style: dict[str, Any]) -> None:
    session = make(**style).backend().session(2)
    for state in session.snapshot().values():
        assert not state.any()
    arena, stream = session._arena, session._stream
    assert arena is not None and stream is not None
    for name in ("tokens", "token", "position", "status"):
        array = np.ones(arena.size[name], np.uint8)
        stream.copy_out(array, arena.at[name])
        stream.synchronize()
        assert not array.any(), name


def test_steps_allocate_nothing_copy_nothing_and_wait_for_nothing(make: Make) -> None:
    case = make()
    session = case.backend().session(3)
    session.set_condition(LABELS)
    session.reset()
    before = case.cuda.calls.copy()
    session.launch_steps(T)
    made = case.cuda.calls - before
    assert made["cuGraphLaunch"] == T
    assert not any(made[name] for name in (*ALLOCATIONS, *MEMCPY, "cuMemsetD8Async", "cuStreamSynchronize"))
    session.synchronize()
    assert session.graph_nodes() == [{"kernel": 2}, {"kernel": 2}]
    with pytest.raises(ValueError, match=r"count is 1; allowed: 0..0"):
        session.launch_steps(1)


@pytest.mark.parametrize(
    ("most_steps", "most_nodes", "every", "launches"),
    # T is 12, and a graph of one step has two nodes.
    [(4, 256, T, 3), (5, 256, T, 3), (16, 9, T, 3), (16, 3, T, T), (16, 256, T, T), (4, 256, 5, 6), (4, 256, 1, T)],
)
def test_several_steps_are_one_graph(
    make: Make, monkeypatch: pytest.MonkeyPatch, most_steps: int, most_nodes: int, every: int, launches: int
) -> None:
    def draw(case: Any) -> tuple[np.ndarray, int]:
        session = case.backend().session(3)
        session.set_condition(LABELS)
        tokens = np.full((3, T), -1, np.int32)
        before = case.cuda.calls["cuGraphLaunch"]
        for _ in session.decode(SamplingConfig(), 3, np.arange(3, dtype=np.uint64), tokens, 0, every):
            pass
        session.close()
        return tokens, case.cuda.calls["cuGraphLaunch"] - before

    wanted, single = draw(make())
    assert single == T
    monkeypatch.setattr(trt_loop, "MOST_STEPS", most_steps)
    monkeypatch.setattr(trt_loop, "MOST_NODES", most_nodes)
    found, made = draw(make())
    np.testing.assert_array_equal(found, wanted)
    assert made == launches


def test_the_host_waits_where_decode_yields_only(make: Make) -> None:
    case = make()
    session = case.backend().session(3)
    assert session.stride == 16
    session.set_condition(LABELS)
    tokens = np.full((3, T), -1, np.int32)
    stream = session.decode(SamplingConfig(), 3, np.arange(3, dtype=np.uint64), tokens, 0, 5)
    seen = []
    before = case.cuda.calls["cuStreamSynchronize"]
    for known in stream:
        seen.append(known)
        assert (tokens[:, :known] >= 0).all() and (tokens[:, known:] == -1).all()
    assert seen == [5, 10, T]
    assert case.cuda.calls["cuStreamSynchronize"] - before == len(seen)


def test_streams_show_growing_images_and_progress_is_told(make: Make) -> None:
    generator = make().generator()
    images, tokens = generator.generate([1, 3], seed=8)
    previews = list(generator.stream([1, 3], every=5, seed=8))
    assert [preview.step for preview in previews] == [5, 10, T]
    np.testing.assert_array_equal(previews[-1].tokens, tokens)
    np.testing.assert_array_equal(previews[-1].images, images)
    told: list[tuple[int, int]] = []
    generator.generate([0], progress=lambda known, total: told.append((known, total)))
    assert told == [(T, T)]  # every 16th of 12, and the last


def test_two_sessions_keep_to_themselves(make: Make) -> None:
    case = make()
    backend = case.backend()
    index = np.arange(2, dtype=np.uint64)
    alone, loops = [], []
    for labels in ([0, 1], [2, 3]):
        session = backend.session(2)
        session.set_condition(labels)
        tokens = np.empty((2, T), np.int32)
        list(session.decode(SamplingConfig(2.0), 9, index, tokens, 0, T))
        alone.append(tokens)
    mixed = [np.empty((2, T), np.int32) for _ in alone]
    for labels, tokens in zip(([0, 1], [2, 3]), mixed, strict=True):
        session = backend.session(2)
        session.set_condition(labels)
        loops.append(session.decode(SamplingConfig(2.0), 9, index, tokens, 0, 1))
    for _ in range(T):
        for loop in loops:
            next(loop)
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_array_equal(mixed, alone)


def test_a_session_may_go_on_in_another_thread(make: Make) -> None:
    case = make()
    generator = case.generator()
    wanted = generator.generate([1], seed=4)[1]
    found: list[Any] = []
    case.cuda.current = None
    worker = threading.Thread(target=lambda: found.append(generator.generate([1], seed=4)[1]))
    worker.start()
    worker.join()
    assert case.cuda.current is not None
    np.testing.assert_array_equal(found[0], wanted)


def test_a_session_that_another_batch_replaces_is_freed_first(make: Make) -> None:
    case = make()
    generator = case.generator()
    sizes = []
    for batch in (6, 1, 6):
        generator.generate(np.arange(batch) % 4)
        sizes.append(generator.backend.memory()["states"])
    assert sizes[0] == sizes[2] > sizes[1]


def test_a_stream_that_is_dropped_frees_its_session(make: Make) -> None:
    case = make()
    generator = case.generator()
    stream = generator.stream([1, 2], every=3)
    next(stream)
    assert generator.backend.memory()["states"]
    stream.close()  # type: ignore[attr-defined]
    assert not generator.backend.memory().get("states")


@pytest.mark.parametrize(("batch", "profile"), [(1, 0), (2, 0), (3, 1), (6, 1)])
def test_the_profile_with_the_nearest_best_batch_is_taken(make: Make, batch: int, profile: int) -> None:
    assert make().backend().profile_of(batch) == profile


def test_a_batch_outside_every_profile_is_refused(make: Make) -> None:
    backend = make().backend()
    for batch in (7, 100):
        with pytest.raises(ValueError, match=rf"batch is {batch}; .* are 1:1:2, 2:4:6;"):
            backend.session(batch)
    backend.session(6)


def test_without_memory_a_session_says_what_it_wanted_and_a_smaller_one_works(make: Make) -> None:
    case = make()
    backend = case.backend()
    whole = backend.session(6)
    wanted = sum(whole.memory().values())
    whole.close()
    case.cuda.limit = case.cuda.used + wanted - 1
    before = case.cuda.used, len(case.cuda.streams)
    message = (
        r"a session of batch 6 \(condition .*, states .*, logits .*, sampling .*, scratch .*\) needs .* are free; "
        "a smaller batch needs less"
    )
    with pytest.raises(DeviceMemoryError, match=message) as caught:
        backend.session(6)
    assert (caught.value.asked, caught.value.free) == (wanted, wanted - 1)
    assert (case.cuda.used, len(case.cuda.streams)) == before
    session = backend.session(1)
    session.set_condition([1])
    assert session.step([0], 0).shape == (2, V)


def test_an_engine_that_finds_no_memory_for_its_weights_is_told_and_may_be_loaded_later(make: Make) -> None:
    case = make()
    backend = case.backend()
    case.module.out_of_memory = True
    with pytest.raises(
        DeviceMemoryError, match=r"step.engine: TensorRT 8.6.1 cannot load it: .*out of memory.*are free"
    ):
        backend.session(1)
    case.module.out_of_memory = False
    backend.session(1)


def test_without_memory_for_images_a_later_call_works(make: Make) -> None:
    case = make()
    generator = case.generator()
    _, tokens = generator.generate([0, 1, 2, 3, 0, 1])
    generator.backend._images["vq_decode"].close()  # type: ignore[attr-defined]
    case.cuda.limit = case.cuda.used + 5000
    with pytest.raises(DeviceMemoryError, match="vq_decode of 6 images"):
        generator.decode_tokens(tokens)
    case.cuda.limit = 1 << 30
    assert len(generator.decode_tokens(tokens)) == 6


@pytest.mark.parametrize("count", [1, 3, 6, 7, 20])
@pytest.mark.parametrize("sampler", ["device", "host"])
def test_images_go_through_in_batches_that_the_profiles_hold(make: Make, count: int, sampler: str) -> None:
    case = make()
    generator = case.generator(sampler=sampler)
    assert generator.backend.vq_batch == 6
    codes = np.random.default_rng(0).integers(0, V, (count, T))
    images = generator.decode_tokens(codes)
    with Generator.open(case.root, threads=1) as other:
        np.testing.assert_array_equal(images, other.decode_tokens(codes))
    np.testing.assert_array_equal(generator.encode_images(images), codes)
    floats = generator.backend.vq_decode(codes.astype(np.int32).reshape(count, DIMS.grid_height, DIMS.grid_width))
    assert floats.shape == (count, DIMS.image_channels, DIMS.image_height, DIMS.image_width)


def test_infinity_is_told_with_image_and_step(make: Make) -> None:
    generator = make(step={"poison": "logits"}).generator()
    with pytest.raises(NonFiniteError, match=r"row 0 \(image index 7\): the largest guided logit of step 0 is not"):
        generator.generate([1], image_index=[7])


@pytest.mark.parametrize("sampler", ["device", "host"])
def test_an_image_with_nan_is_told(make: Make, sampler: str) -> None:
    generator = make(vq_decode={"poison": "image"}).generator(sampler=sampler)
    with pytest.raises(NonFiniteError, match=r"image (0 )?holds NaN"):
        generator.decode_tokens(np.zeros((2, T), int))


def test_an_engine_that_cannot_be_captured_is_enqueued_or_refused(make: Make) -> None:
    case = make(step={"capturable": False})
    backend = case.backend()
    backend.session(1)
    assert "no CUDA graphs: it cannot be captured" in backend.describe()
    backend.close()
    strict = case.backend(cuda_graph="on")
    used = case.cuda.used
    with pytest.raises(EngineError, match="cuda_graph is 'on', but the step cannot be captured"):
        strict.session(1)
    assert case.cuda.used == used


def test_a_backend_describes_itself(make: Make) -> None:
    case = make()
    backend = case.backend()
    assert backend.describe() == "TensorRT 8.6.1 on Fake GPU (sm90), sampler on the device, CUDA graphs auto"
    backend.session(1)
    assert backend.describe().endswith("sampler on the device, CUDA graphs")
    assert "sampler on the host, no CUDA graphs" in case.backend(sampler="host").describe()


def test_layers_are_timed_in_their_order(make: Make) -> None:
    layers = make().backend().profile_step(2, repeats=3)
    assert layers == [("first", pytest.approx(1.0)), ("second", pytest.approx(2.0)), ("first", pytest.approx(3.0))]


def test_what_a_closed_session_is_asked_for_is_refused(make: Make) -> None:
    case = make()
    backend = case.backend()
    session = backend.session(1)
    session.set_condition([0])
    logits = session.step([0], 0)
    backend.close()
    assert logits.shape == (2, V) and case.cuda.is_clean
    for call in (lambda: session.step([0], 1), session.snapshot, session.reset, session.synchronize):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    with pytest.raises(RuntimeError, match="closed"):
        backend.session(1)


def test_order_of_calls_is_kept(make: Make) -> None:
    session = make().backend().session(1)
    for call in (lambda: session.step([0], 0), lambda: session.launch_steps(1), lambda: session.scan([[0]], 0)):
        with pytest.raises(RuntimeError, match="set_condition comes before"):
            call()


def test_a_driver_that_fails_is_named_and_all_is_freed(make: Make) -> None:
    case = make()
    backend = case.backend()
    session = backend.session(1)
    session.set_condition([0])
    case.cuda.fail["cuGraphLaunch"] = 719
    with pytest.raises(EngineError, match="cuGraphLaunch: error 719: unspecified launch failure"):
        session.launch_steps(1)
    case.cuda.fail.clear()
    backend.close()
    assert case.cuda.is_clean


def test_a_gpu_without_a_driver_function_is_named(make: Make) -> None:
    cuda = FakeCuda()
    del cuda.library.cuGraphInstantiateWithFlags
    with pytest.raises(BackendMissingError, match=r"no cuGraphInstantiateWithFlags: it is older than CUDA 11.4"):
        make(cuda=cuda).backend()


def test_the_command_line_draws_with_it(make: Make, run: Run, tmp_path: Path) -> None:
    case = make()
    options = ["--backend", "tensorrt", "--option", "cuda_graph=off", "--option", "device_id=0", "--seed", 5]
    status, out, _ = run("generate", case.root, "-c", "b", "--count", 2, *options, "-o", tmp_path / "drawn")
    assert status == 0
    assert "TensorRT 8.6.1 on Fake GPU (sm90), sampler on the device, no CUDA graphs: cuda_graph is 'off'" in out
    run("generate", case.root, "-c", "b", "--count", 2, "--seed", 5, "-o", tmp_path / "wanted")
    for name in ("b_00000_5.png", "b_00001_5.png"):
        drawn, wanted = (read_pixels(tmp_path / folder / name) for folder in ("drawn", "wanted"))
        np.testing.assert_array_equal(drawn, wanted)
    status, _, error = run("generate", case.root, "-c", "b", "--backend", "tensorrt", "--threads", 2)
    assert status != 0 and "option 'threads=2' is none of tensorrt's; allowed: device_id=..." in error
    assert case.cuda.is_clean


def test_the_doctor_lists_it(make: Make, run: Run) -> None:
    make()
    _, out, _ = run("doctor")
    assert "TensorRT 8.6.1 on Fake GPU (sm90), driver for CUDA 12.8" in out
