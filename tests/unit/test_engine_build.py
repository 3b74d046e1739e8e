"""build_engines with the real TensorRT-RTX, which needs no GPU: what it writes, what it refuses, what a kill leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from needs import rtx_version
from onnx import TensorProto, helper

from aim_edge.cli import main
from aim_edge.export import TrtOptions, build_engines, export_bundle
from aim_edge.export import bundle as bundle_module
from aim_edge.export.engines import RTX_TARGETS, parse_targets
from aim_edge.export.engines_common import EngineBuildError, Job
from aim_edge.export.engines_rtx import RtxBuilder
from aim_edge.runtime import BackendMissingError, Bundle, BundleError, Manifest
from aim_edge.runtime.contract import GRAPHS
from aim_edge.runtime.engines import read_engine_header
from golden.cases import load_case


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(load_case("mamba2_mlp").checkpoint(), tmp_path_factory.mktemp("engines") / "bundle")


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def rtx() -> str:
    return rtx_version()


def silent(share: float, more: str) -> None:
    pass


def left_over(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.iterdir() if path.name.startswith("."))


def test_the_demo_for_three_gpus(rtx: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance: engines of the demo, built by the command, recorded, and re-opened by the check of their heads."""
    path = export_bundle("demo", tmp_path / "demo")
    assert main(["build", str(path), "--target", "rtx:sm86,sm89,sm120", "--batch", "1:1:8"]) == 0
    told = capsys.readouterr()
    for sm in ("sm86", "sm89", "sm120"):
        assert f"rtx:{sm}: TensorRT-RTX {rtx}, float32, batch 1:1:8, length 1:128:256" in told.out
    assert "12 engines in " in told.out
    assert all(f"building {graph} for sm89" in told.err for graph in ("condition", "step", "scan", "vq_decode"))
    manifest = Bundle.open(path).manifest
    assert list(manifest.engines) == ["rtx:sm86", "rtx:sm89", "rtx:sm120"]
    for target, engines in manifest.engines.items():
        sm = target.removeprefix("rtx:")
        assert (engines.version, engines.sms, engines.batch) == (rtx, (sm,), ((1, 1, 8),))
        assert list(engines.graphs) == ["condition", "step", "scan", "vq_decode"]
        for graph, file in engines.graphs.items():
            assert file.file == f"engines/rtx-{rtx[:3]}/{sm}/{graph}.engine"
            assert file.source_sha256 == manifest.files[f"{graph}.onnx"].sha256
            header = read_engine_header(path / file.file)
            assert (header.version, header.sms, header.bytes) == (rtx, (sm,), file.bytes)
            assert file.bytes > manifest.files[f"{graph}.onnx"].bytes  # the weights are in it
    assert left_over(path) == []
    step = path / manifest.engines["rtx:sm89"].graphs["step"].file
    data = bytearray(step.read_bytes())
    data[25] = 6
    step.write_bytes(data)
    with pytest.raises(BundleError, match=r"sm89/step.engine: altered"):
        Bundle.open(path)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_graph_in_both_precisions(precision: str, rtx: str, tmp_path: Path) -> None:
    checkpoint = load_case("mamba2_mlp").checkpoint()
    path = export_bundle(checkpoint, tmp_path / "b", precision=precision, state_dtype=precision)
    told: list[tuple[int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        told.append((done, total))

    built = build_engines(path, ["rtx:sm80"], graphs=GRAPHS, batch=(1, 2, 3), progress=progress)
    assert set(built["rtx:sm80"].graphs) == set(GRAPHS)
    assert built["rtx:sm80"].precision == precision
    assert Bundle.open(path).manifest.engines == built
    assert told == sorted(told) and told[-1] == (100, 100) and len(told) > 2 * len(GRAPHS)


def test_weights_beside_the_graphs(rtx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "EXTERNAL_ABOVE", 0)
    path = export_bundle(load_case("mamba2_mlp").checkpoint(), tmp_path / "b")
    assert (path / "weights.data").is_file()
    built = build_engines(path, ["rtx:sm86"], graphs=["step"])
    assert built["rtx:sm86"].graphs["step"].bytes > 100_000


def test_targets_add_up_and_are_replaced(bundle: Path, rtx: str) -> None:
    build_engines(bundle, ["rtx:sm86"], graphs=["condition", "vq_decode"])
    build_engines(bundle, ["rtx:sm89"], graphs=["condition"])
    build_engines(bundle, ["rtx:sm86"], graphs=["condition"], batch=(1, 2, 4))
    engines = Bundle.open(bundle).manifest.engines
    assert {target: list(record.graphs) for target, record in engines.items()} == {
        "rtx:sm89": ["condition"], "rtx:sm86": ["condition"],
    }  # fmt: skip
    assert engines["rtx:sm86"].batch == ((1, 2, 4),)
    files = sorted(path.parent.name for path in (bundle / "engines").rglob("*.engine"))
    assert files == ["sm86", "sm89"]


def test_an_altered_engine_is_built_anew(bundle: Path, rtx: str) -> None:
    name = build_engines(bundle, ["rtx:sm86"], graphs=["condition"])["rtx:sm86"].graphs["condition"].file
    (bundle / name).write_bytes(b"x")
    with pytest.raises(BundleError, match="truncated"):
        Bundle.open(bundle)
    build_engines(bundle, ["rtx:sm86"], graphs=["condition"])
    Bundle.open(bundle)


KILLED = """
import os, signal, sys
from aim_edge.export import build_engines, engines
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
build_engines(sys.argv[1], ["rtx:sm86,sm89"], graphs=["condition", "vq_decode"], progress=progress)
"""


MOMENTS = ("building vq_decode for sm86", "building condition for sm89", "recording", "putting")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("before", [False, True])
def test_a_killed_build_records_nothing(moment: str, before: bool, bundle: Path, rtx: str) -> None:
    if before:
        build_engines(bundle, ["rtx:sm86", "rtx:sm120"], graphs=["condition"])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle), moment], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    engines = Bundle.open(bundle).manifest.engines
    assert "rtx:sm89" not in engines
    assert list(engines) == ([] if not before else ["rtx:sm120"] if moment == "putting" else ["rtx:sm86", "rtx:sm120"])
    assert len(left_over(bundle)) == 1
    build_engines(bundle, ["rtx:sm86", "rtx:sm89"], graphs=["condition"])
    assert left_over(bundle) == []
    assert {"rtx:sm86", "rtx:sm89"} <= set(Bundle.open(bundle).manifest.engines)


@pytest.mark.parametrize("at", [0, 1])
def test_what_progress_raises_ends_the_build(at: int, bundle: Path, rtx: str) -> None:
    seen: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        seen.append(what)
        if seen.count("building step for sm86") > at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, ["rtx:sm86"], graphs=["step", "scan"], progress=progress)
    assert "building scan for sm86" not in seen
    assert Bundle.open(bundle).manifest.engines == {} and left_over(bundle) == []
    assert not (bundle / "engines").exists()


def test_a_full_disk_records_nothing(bundle: Path, rtx: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        build_engines(bundle, ["rtx:sm86"], graphs=["condition"])
    assert Bundle.open(bundle).manifest.engines == {} and left_over(bundle) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ["tensorrt:sm90"]}, r"target is 'tensorrt:sm90'; known: rtx:sm80, rtx:sm86"),
        ({"targets": ["rtx:sm86,sm90"]}, r"target is 'rtx:sm86,sm90'; known: rtx:sm80"),
        ({"targets": ["rtx"]}, "target is 'rtx'; known"),
        ({"targets": []}, "no target is given; known"),
        ({"targets": ["trt:90"]}, r"target is 'trt:90'; known: .*trt:SM, such as trt:sm90, .* tensorrt"),
        ({"options": TrtOptions(level=1)}, r"options are TrtOptions\(level=1.*; they are TensorRT's, .* rtx:sm86"),
        ({"batch": ()}, "batch is empty; expected"),
        ({"batch": ((1, 1, 1), (2, 1, 1))}, r"batch is \(2, 1, 1\)"),
        ({"batch": ((1, 1, 1), 4)}, "batch is 4; expected"),
        ({"graphs": ["step", "draw"]}, r"graphs are \['step', 'draw'\]; expected one or more of condition, step"),
        ({"graphs": []}, r"graphs are \[\]"),
        ({"batch": (1, 9, 8)}, r"batch is \(1, 9, 8\); expected \(min, opt, max\), each >= 1, none below"),
        ({"batch": (0, 1, 1)}, r"batch is \(0, 1, 1\)"),
        ({"batch": (1, 2)}, r"batch is \(1, 2\)"),
        ({"length": (1, 2, 10_000)}, r"length is \(1, 2, 10000\); expected .* at most \d+"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str, made: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_engines(made, **({"targets": ["rtx:sm86"]} | arguments))


@pytest.mark.parametrize("lowering", ["onnx", "plugin"])
def test_refuses_other_lowerings(lowering: str, tmp_path: Path) -> None:
    path = export_bundle(load_case("mamba2_mlp").checkpoint(), tmp_path / "b", lowering=lowering)
    with pytest.raises(ValueError, match=rf"is of the lowering '{lowering}'; .*--lowering primitive$"):
        build_engines(path, ["rtx:sm86"])


def test_targets() -> None:
    assert parse_targets(["rtx:sm89,sm86", "trt:sm90", "rtx:sm86"]) == ["rtx:sm89", "rtx:sm86", "trt:sm90"]
    assert RTX_TARGETS == ("rtx:sm80", "rtx:sm86", "rtx:sm89", "rtx:sm120", "rtx:sm121")


def test_without_tensorrt_rtx(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(BackendMissingError, match=r'needs TensorRT-RTX .*pip install "aim-edge\[tensorrt-rtx\]"'):
        build_engines(made, ["rtx:sm86"])
    assert main(["build", str(made), "--target", "rtx:sm86"]) == 2
    assert 'pip install "aim-edge[tensorrt-rtx]"' in capsys.readouterr().err


@pytest.mark.parametrize(("batch", "target"), [("1:8", "rtx:sm86"), ("1:x:8", "rtx:sm86"), ("1:1:8", "gpu")])
def test_the_command_refuses(batch: str, target: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(made), "--target", target, "--batch", batch]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert (f"--batch is '{batch}'" in err) or (f"target is '{target}'; known" in err)


def test_the_parsers_errors_are_named(made: Path, tmp_path: Path, rtx: str) -> None:
    spec = Manifest.from_dict(Bundle.open(made).manifest.to_dict()).contract.graphs["condition"]
    path = tmp_path / "odd.onnx"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in "xy"]
    node = helper.make_node("Det", ["x"], ["y"], name="odd")
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), path)
    build = RtxBuilder().build
    with pytest.raises(EngineBuildError, match=rf"odd\.onnx: TensorRT-RTX {rtx} does not parse it: node 0 .*Det"):
        build(Job("condition", path, spec, "sm86", ((1, 1, 1),), (1, 1, 1)), silent)
    with pytest.raises(EngineBuildError, match=r"step\.onnx: its tensors are not the contract's: .*token is"):
        build(Job("condition", made / "step.onnx", spec, "sm86", ((1, 1, 1),), (1, 1, 1)), silent)


def test_the_builders_errors_are_named(made: Path, rtx: str) -> None:
    """TensorRT-RTX has no float32 product for sm75, which is why it is no target."""
    spec = Bundle.open(made).manifest.contract.graphs["condition"]
    job = Job("condition", made / "condition.onnx", spec, "sm75", ((1, 1, 1),), (1, 1, 1))
    with pytest.raises(EngineBuildError, match=r"condition\.onnx: .* builds no engine for sm75: .*FP32 GEMM"):
        RtxBuilder().build(job, silent)


def test_several_profiles(bundle: Path, rtx: str) -> None:
    assert main(["build", str(bundle), "--target", "rtx:sm86", "--graph", "condition", "--batch", "1:1:1,4:4:8"]) == 0
    record = Bundle.open(bundle).manifest.engines["rtx:sm86"]
    assert record.batch == ((1, 1, 1), (4, 4, 8))
    assert (record.gpu, record.driver, record.flags, record.level, record.plugin) == ("", "", (), -1, None)
