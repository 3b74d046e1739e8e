"""build_engines with TensorRT of several versions: what is asked of it, and what is recorded."""

# ruff: noqa: F811  (fixtures are imported, and asked for by their names)
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from build_stage import (  # noqa: F401
    GPU,
    GRAPHS,
    VERSIONS,
    Play,
    build,
    change,
    compile_library,
    left_over,
    library,
    play,
    toy,
    toy_made,
    with_plugins,
)
from fake_builder import F16, F32, Layer
from toy_bundle import make_bundle

from aim_edge.cli import main
from aim_edge.export import EngineBuildError, TrtOptions
from aim_edge.runtime import Bundle, BundleError
from aim_edge.runtime.bundle import read_manifest, sha256_of
from aim_edge.runtime.manifest import Manifest


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_are_built_and_recorded(version: str, toy: Path, play: Play) -> None:
    world = play(version)
    told: list[tuple[str, int, int]] = []
    record = build(toy, progress=lambda *step: told.append(step))
    release = ".".join(version.split(".")[:2])
    assert Bundle.open(toy).manifest.engines == {"trt:sm90": record}
    assert (record.library, record.version, record.sms) == ("TensorRT", version, ("sm90",))
    assert (record.gpu, record.driver, record.flags, record.plugin) == (GPU, "13.0", (), None)
    assert (record.batch, record.length, record.level) == (((1, 1, 8),), (1, 6, 12), -1 if release == "8.5" else 3)
    assert tuple(record.graphs) == GRAPHS and world.parsed == [f"{graph}.onnx" for graph in GRAPHS]
    step = record.graphs["step"]
    assert step.file == f"engines/trt-{release}/sm90/step.engine"
    assert step.source_sha256 == read_manifest(toy).files["step.onnx"].sha256
    assert step.layers["float16"] >= 1 and step.layers["float32"] >= 1 and step.plugins == {}
    assert step.device_bytes == 4096
    detail = json.loads((toy / step.file).with_suffix(".layers.json").read_text())
    assert [(layer["name"], layer["type"]) for layer in detail["layers"]][1:2] == [("product", "float16")]
    assert told[-1] == ("recording", 100, 100) and left_over(toy) == []
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("prefer", [False, True])
def test_what_the_builder_is_asked(version: str, prefer: bool, toy: Path, play: Play) -> None:
    world = play(version)
    modern = int(version.split(".")[0]) >= 10
    if modern and prefer:
        with pytest.raises(ValueError, match="prefer_precision is of TensorRT 8 and 9; networks are strongly typed"):
            build(toy, options=TrtOptions(prefer_precision=True))
        return
    build(toy, options=TrtOptions(prefer_precision=prefer, workspace=64), graphs=["step"], batch=(1, 2, 4))
    config, network = world.configs["step"], world.networks["step"]
    wish = "PREFER_PRECISION_CONSTRAINTS" if prefer else "OBEY_PRECISION_CONSTRAINTS"
    assert config.flags == (set() if modern else {"FP16", wish})  # TF32 is off
    assert config.sources == (None if modern else 0)
    assert config.limits == {"WORKSPACE": 64 << 20}
    assert config.profiling_verbosity.name == "DETAILED"
    assert network.flags == (2 if modern else 1)
    assert network.parser_flags == (1 if version == "9.3.0" else 0)  # normalisation: layers, no plugins
    asked = {layer.name: layer.asked for layer in network.all if layer.asked}
    if modern:
        assert asked == {}
        return
    assert asked["product"] == {"precision": F16, "output 0": F16}
    assert asked["sum"] == {"precision": F32}  # its output is the network's, whose type stands already
    assert asked["state_0"] == {"precision": F16}
    assert not {"weight", "scale", "narrow", "widen", "shape", "best"} & set(asked)


def test_a_float32_bundle_needs_no_constraints(toy: Path, play: Play) -> None:
    for state, flags in (("float16", {"FP16", "OBEY_PRECISION_CONSTRAINTS"}), ("float32", set())):
        contract = read_manifest(make_bundle(toy.parent / state, state_dtype=state)).contract
        change(toy, precision="float32", state_dtype=state, contract=contract)
        world = play("8.6.0", dtype="float32")
        record = build(toy, graphs=["step"])
        assert world.configs["step"].flags == flags
        assert ("float16" in record.graphs["step"].layers) is bool(flags)


def test_a_cast_of_8_5_is_an_identity(toy: Path, play: Play) -> None:
    world = play("8.5.2")
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        narrow = Layer("IDENTITY", "narrow", ["class_embedding"], [("x16", F32)], output_type=F16)
        return [narrow if layer.name == "narrow" else layer for layer in whole(graph)]

    world.layers = layers
    build(toy, graphs=["step"])
    assert world.networks["step"].all[4].asked == {"precision": F16, "output 0": F16}


def test_profiles_and_options(toy: Path, play: Play) -> None:
    world = play("8.6.0")
    options = TrtOptions(level=1, tactic_sources="default", version_compatible=True, hardware_compatible=True)
    record = build(toy, batch=[(1, 1, 1), (8, 8, 8)], length=(1, 2, 3), options=options, graphs=["scan"])
    assert record.batch == ((1, 1, 1), (8, 8, 8)) and record.level == 1
    assert record.flags == ("version-compatible", "hardware-compatible")
    config = world.configs["scan"]
    assert config.sources is None and "VERSION_COMPATIBLE" in config.flags and world.host_code is True
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    first, second = config.profiles
    assert first["tokens"] == ((1, 1), (1, 2), (1, 3)) and second["tokens"] == ((8, 1), (8, 2), (8, 3))
    assert second["class_embedding"][2] == (16, 8)


def test_a_profile_of_one_batch_alone_fixes_sizes(toy: Path, play: Play) -> None:
    """TensorRT 8.6 then tells the sizes of its best shapes where the network's are open."""
    world = play("8.6.0")
    world.port_shapes["logits"] = (2, read_manifest(toy).contract.dims.vocab_size)
    assert build(toy, graphs=["step"], batch=[(1, 1, 1), (64, 64, 64)]).batch == ((1, 1, 1), (64, 64, 64))
    world.port_shapes["logits"] = (2, 3)
    with pytest.raises(EngineBuildError, match=r"logits is .*3.*expected"):
        build(toy, graphs=["step"], batch=[(1, 1, 1)])


def test_weights_are_stripped_from_10_on(toy: Path, play: Play) -> None:
    world = play("10.3.0.26")
    record = build(toy, options=TrtOptions(strip_weights=True), graphs=["step"])
    assert record.flags == ("weight-stripped",) and "STRIP_PLAN" in world.configs["step"].flags
    play("8.5.2")
    with pytest.raises(ValueError) as caught:
        build(toy, options=TrtOptions(strip_weights=True, level=2, version_compatible=True))
    assert str(caught.value) == (
        "TensorRT 8.5.2: level needs TensorRT 8.6 or later; version_compatible needs TensorRT 8.6 or later; "
        "strip_weights needs TensorRT 10.0 or later"
    )


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0.26"])
def test_the_plugin_library_lies_beside(
    version: str, toy: Path, play: Play, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_plugins(toy)
    world = play(version, plugin=True)
    monkeypatch.setenv("AIM_EDGE_PLUGINS", str(library))
    record = build(toy)
    assert world.libraries == [str(library)]
    assert world.parsed == ["condition.onnx", "step.trt.onnx", "scan.trt.onnx", "vq_decode.onnx"]
    assert record.plugin is not None and record.plugin.version == 203
    assert record.plugin.file == f"engines/trt-{'.'.join(version.split('.')[:2])}/sm90/libaim_edge_tensorrt.so"
    assert record.plugin.sha256 == sha256_of(library) == sha256_of(toy / record.plugin.file)
    states = len(read_manifest(toy).contract.states)
    assert (
        record.graphs["step"].plugins
        == {"SelectiveScan": states}
        == {"SelectiveScan": record.graphs["step"].layers["plugin"]}
    )
    assert record.graphs["condition"].plugins == {}
    (toy / record.plugin.file).write_bytes(b"another")
    with pytest.raises(BundleError, match=r"libaim_edge_tensorrt\.so: (truncated|altered)"):
        Bundle.open(toy)


def test_a_plugins_state_has_the_states_type(toy: Path, play: Play, library: Path) -> None:
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    scan = next(layer for layer in world.networks["step"].all if layer.name == "scan_0")
    assert scan.asked == {"output 0": F16}  # a plugin has no precision, and its state is the network's output


def test_a_transformers_scan_has_no_plugins(
    toy: Path, play: Play, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_plugins(toy)
    play("8.6.0")
    options = TrtOptions(plugins=library)
    with pytest.raises(EngineBuildError, match=r"scan\.trt\.onnx: TensorRT 8\.6\.0 made no plugin of its operators"):
        build(toy, graphs=["scan"], options=options)
    monkeypatch.setattr(Manifest, "family", "gpt")
    assert build(toy, graphs=["scan"], options=options).graphs["scan"].plugins == {}
    with pytest.raises(EngineBuildError, match=r"step\.trt\.onnx: TensorRT 8\.6\.0 made no plugin of its operators"):
        build(toy, graphs=["step"], options=options)


def test_a_plugins_residual_stays_float32(toy: Path, play: Play, library: Path) -> None:
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        outputs = [("x", F32), ("residual", F32)]
        norm = Layer("PLUGIN_V2", "norm", ["y16", "y32"], outputs, operator="AdaLnNorm")
        return [*whole(graph), norm, Layer("ELEMENTWISE", "after", ["residual"], [("after", F32)])]

    world.layers = layers
    build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    asked = {layer.name: layer.asked for layer in world.networks["step"].all}
    assert asked["norm"] == {"output 0": F16, "output 1": F32} and asked["after"]["precision"] == F32


def test_what_an_embedding_gives_is_as_its_table(toy: Path, play: Play, library: Path) -> None:
    """Its first input of floats is float32, and so is the residual."""
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        inputs = ["token", "position", "class_embedding", "w", "w", "modulation", "s"]
        norm = Layer("PLUGIN_V2", "norm", inputs, [("x", F32), ("residual", F32)], operator="EmbedNorm")
        return [*whole(graph), norm, Layer("ELEMENTWISE", "after", ["residual"], [("after", F32)])]

    world.layers = layers
    build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    asked = {layer.name: layer.asked for layer in world.networks["step"].all}
    assert asked["norm"] == {"output 0": F16, "output 1": F32} and asked["after"]["precision"] == F32


def test_logits_straight_from_their_product_are_float32(toy: Path, play: Play, library: Path) -> None:
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        norm = Layer("PLUGIN_V2", "norm", ["y16", "y32"], [("x", F32)], operator="FinalNorm")
        head = Layer("PLUGIN_V2", "head", ["x"], [("sums", F32)], operator="LinearFloat32")
        return [*whole(graph), norm, head, Layer("ELEMENTWISE", "after", ["sums"], [("after", F32)])]

    world.layers = layers
    build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    asked = {layer.name: layer.asked for layer in world.networks["step"].all}
    assert asked["norm"] == {"output 0": F16} and asked["head"] == {"output 0": F32}
    assert asked["after"]["precision"] == F32


def test_a_sum_of_images_is_as_the_images(toy: Path, play: Play, library: Path) -> None:
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        norm = Layer("PLUGIN_V2", "norm", ["y16"], [("y", F32), ("sum", F32)], operator="AddGroupNormSilu")
        return [*whole(graph), norm, Layer("ELEMENTWISE", "after", ["sum"], [("after", F32)])]

    world.layers = layers
    build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    asked = {layer.name: layer.asked for layer in world.networks["step"].all}
    assert asked["norm"] == {"output 0": F16, "output 1": F16} and asked["after"]["precision"] == F16


def test_what_convolutions_give_beside_images_is_float32(toy: Path, play: Play, library: Path) -> None:
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        conv = Layer("PLUGIN_V2", "conv", ["y16"], [("image", F32), ("affine", F32)], operator="NormConv")
        up = Layer("PLUGIN_V2", "up", ["image"], [("large", F32), ("affine2", F32)], operator="UpsampleConv")
        last = Layer("PLUGIN_V2", "last", ["large"], [("whole", F32)], operator="NormConvImage")
        return [*whole(graph), conv, up, last]

    world.layers = layers
    build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    asked = {layer.name: layer.asked for layer in world.networks["step"].all}
    assert asked["conv"] == asked["up"] == {"output 0": F16, "output 1": F32}
    assert asked["last"] == {"output 0": F32}


def test_an_older_library_is_taken_and_named(toy: Path, play: Play, tmp_path: Path) -> None:
    play("8.6.0")
    old = compile_library(tmp_path, "int nothing(void) { return 0; }")
    told: list[str] = []
    record = build(
        toy, graphs=["condition"], options=TrtOptions(plugins=old), progress=lambda what, *_: told.append(what)
    )
    assert record.plugin is not None and record.plugin.version == 1
    assert f"{old}: has no aim_version(); it is older than this aim-edge" in told


def test_plugins_that_are_there_already_are_not_loaded_again(toy: Path, play: Play, library: Path) -> None:
    world = play("10.3.0.26", creators={"SelectiveScan"})
    build(toy, graphs=["condition"], options=TrtOptions(plugins=library))
    assert world.libraries == []


def test_no_plugin_library(toy: Path, play: Play, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_plugins(toy)
    world = play("8.6.0", plugin=True)
    with pytest.raises(ValueError, match=r"use plugins, and no library of them is found; aim-edge plugins build"):
        build(toy)
    with pytest.raises(ValueError, match=r"plugins is 'absent\.so'; no such file"):
        build(toy, options=TrtOptions(plugins="absent.so"))
    monkeypatch.setenv("AIM_EDGE_PLUGINS", "gone.so")
    with pytest.raises(ValueError, match=r"AIM_EDGE_PLUGINS is 'gone\.so'; no such file"):
        build(toy)
    world.refuses_library = True
    with pytest.raises(EngineBuildError, match=r"libours\.so: TensorRT 8\.6\.0 does not load it as a plugin library"):
        build(toy, options=TrtOptions(plugins=library))
    assert Bundle.open(toy).manifest.engines == {} and left_over(toy) == []


def test_timings_are_kept_and_used_again(toy: Path, play: Play, tmp_path: Path) -> None:
    world = play("8.6.0")
    build(toy, graphs=["condition", "step"])
    kept = tmp_path / "cache" / "aim-edge" / "timing-8.6.0-nvidia-h100-80gb-hbm3.cache"
    assert kept.read_bytes() == b"timings:condition+step"
    assert world.configs["condition"].cache is world.configs["step"].cache
    world = play("8.6.0")
    build(toy, graphs=["scan"])
    assert world.configs["scan"].cache.data == b"timings:condition+step"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_timings_that_do_not_fit_or_cannot_be_kept(toy: Path, play: Play, tmp_path: Path) -> None:
    world = play("8.6.0")
    file = tmp_path / "mine.cache"
    file.write_bytes(world.stale_cache)
    told: list[str] = []
    build(toy, graphs=["step"], options=TrtOptions(timing_cache=file), progress=lambda what, *_: told.append(what))
    assert f"{file}: timings of another TensorRT or GPU, or damaged; they are made anew" in told
    assert file.read_bytes() == b"timings:step"
    (tmp_path / "cache").write_text("in the way")
    told.clear()
    build(toy, graphs=["step"], progress=lambda what, *_: told.append(what))
    assert any("the timings are not kept" in line for line in told)
    with pytest.raises(OSError, match=r"Not a directory|exists"):
        build(toy, graphs=["step"], options=TrtOptions(timing_cache=tmp_path / "cache" / "x"))
    with pytest.raises(ValueError, match=r"timing_cache is .*, a folder; expected a file"):
        build(toy, options=TrtOptions(timing_cache=tmp_path))


def test_engines_of_targets_lie_side_by_side(toy: Path, play: Play) -> None:
    play("8.6.0")
    build(toy, graphs=["condition", "step"])
    play("10.3.0.26")
    record = build(toy, graphs=["condition"])
    assert Bundle.open(toy).manifest.engines == {"trt:sm90": record}
    left = sorted(path.relative_to(toy).as_posix() for path in (toy / "engines").rglob("*") if path.is_file())
    assert left == ["engines/trt-10.3/sm90/condition.engine", "engines/trt-10.3/sm90/condition.layers.json"]


def test_a_monitor_and_seconds_tell_how_far_it_is(toy: Path, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(monitor: Any) -> None:
        monitor.phase_start("all", None, 4)
        monitor.phase_start("part", "all", 9)
        assert monitor.step_complete("all", 2) and monitor.step_complete("part", 1)
        monitor.phase_finish("all")

    play("10.3.0.26", during=steps)
    told: list[tuple[str, int]] = []
    build(toy, graphs=["condition", "step"], progress=lambda what, done, total: told.append((what, done)))
    assert ("building condition for sm90", 25) in told and ("building step for sm90", 75) in told

    monkeypatch.setattr("aim_edge.export.engines_trt._TICK", 0.01)
    said: list[str] = []

    def until_told(monitor: Any) -> None:
        assert monitor is None
        while not any(line.startswith("building step for sm90, ") for line in said):
            pass

    play("8.6.0", during=until_told)
    build(toy, graphs=["step"], progress=lambda what, *_: said.append(what))


def test_what_progress_raises_ends_the_build(toy: Path, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(monitor: Any) -> None:
        monitor.phase_start("all", None, 4)
        assert not monitor.step_complete("all", 1)

    def progress(what: str, done: int, total: int) -> None:
        if done > 0 or ", " in what:
            raise KeyboardInterrupt

    play("10.3.0.26", during=step)
    with pytest.raises(KeyboardInterrupt):
        build(toy, graphs=["step"], progress=progress)
    monkeypatch.setattr("aim_edge.export.engines_trt._TICK", 0.01)
    play("8.6.0", during=lambda monitor: threading_settles())
    with pytest.raises(KeyboardInterrupt):
        build(toy, graphs=["step"], progress=progress)
    assert Bundle.open(toy).manifest.engines == {} and left_over(toy) == []


def threading_settles() -> None:
    """Waits until the thread that tells the seconds has ended: its word was answered with an exception."""
    import threading

    while threading.active_count() > 1 and any("tick" in thread.name for thread in threading.enumerate()):
        pass


def test_what_the_inspector_cannot_tell_is_unknown(toy: Path, play: Play) -> None:
    told: list[str] = []
    play("8.6.0", reshape=lambda graph, layers: "no JSON")
    record = build(toy, graphs=["step"], progress=lambda what, *_: told.append(what))
    assert record.graphs["step"].layers == {} and record.graphs["step"].plugins == {}
    assert "step: TensorRT 8.6.0 does not tell its layers' types in a form known here" in told


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from fake_builder import World, model_layers
from fake_builder_module import make_module
from aim_edge.runtime.bundle import read_manifest
world = World(read_manifest(sys.argv[1]).contract, lambda graph: model_layers((("ssm_state_0", "ssm_state_out_0"),)))
sys.modules["tensorrt"] = make_module("8.6.0", world)
from aim_edge.export import engines
from build_stage import Hand
engines.Device = Hand
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def progress(what, done, total):
    if what.startswith(sys.argv[2]):
        die()
def put_one(folder, target, put=engines.put_in_place):
    put(folder, target)
    if sys.argv[2] == "putting":
        die()
engines.put_in_place = put_one
engines.build_engines(sys.argv[1], ["tensorrt"], graphs=["condition", "step"], progress=progress)
"""


@pytest.mark.parametrize("moment", ["building step for sm90", "recording", "putting"])
def test_a_killed_build_records_nothing(moment: str, toy: Path, play: Play) -> None:
    play("8.6.0")
    before = build(toy, graphs=["condition"])
    command = [sys.executable, "-c", KILLED, str(toy), moment, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Bundle.open(toy).manifest.engines == ({} if moment == "putting" else {"trt:sm90": before})
    assert len(left_over(toy)) == 1
    build(toy, graphs=["condition", "step"])
    assert left_over(toy) == []
    assert list(Bundle.open(toy).manifest.engines["trt:sm90"].graphs) == ["condition", "step"]


def test_the_command(toy: Path, play: Play, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = play("8.6.0")
    arguments = [
        "build",
        str(toy),
        "--target",
        "trt:sm90",
        "--batch",
        "1:1:1,8:8:8",
        "--level",
        "2",
        "--plugins",
        str(library),
    ]
    assert main([*arguments, "--prefer-precision", "--graph", "step", "--timing-cache", str(toy.parent / "t")]) == 0
    out = capsys.readouterr().out
    assert (
        f"trt:sm90: TensorRT 8.6.0, on {GPU}, driver 13.0, float16, batch 1:1:1, 8:8:8, length 1:6:12, level 2" in out
    )
    assert "plugin library version 203" in out and "1 engines in " in out and "float16" in out
    assert "PREFER_PRECISION_CONSTRAINTS" in world.configs["step"].flags
    assert main(["inspect", str(toy)]) == 0
    out = capsys.readouterr().out
    assert "layers compute in" in out and "trt:sm90: TensorRT 8.6.0" in out
    assert main(["build", str(toy), "--target", "tensorrt", "--level", "9", "--tactic-sources", "all"]) == 2
    err = capsys.readouterr().err
    assert (
        "level is 9; allowed: an integer from 0 to 5, or None; tactic_sources is 'all'; allowed: none, default" in err
    )


def test_options_name_every_bad_field() -> None:
    wrong: dict[str, Any] = {"level": 6, "workspace": 0, "tactic_sources": "x", "strip_weights": 1, "plugins": 3}
    with pytest.raises(ValueError) as caught:
        TrtOptions(**wrong)
    assert all(f"{name} is {value!r}; allowed: " in str(caught.value) for name, value in wrong.items())
