"""Engine files, told by their heads, and bundles that record some: what is refused, and why in words."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_bundle import make_bundle

from aim_edge.runtime import Bundle, BundleError, Manifest
from aim_edge.runtime.bundle import read_manifest, sha256_of, write_manifest
from aim_edge.runtime.engines import TENSORRT_RTX, EngineHeader, read_engine_header
from aim_edge.runtime.manifest import EngineFile, EngineRecord, PluginRecord

VERSION = (1, 7, 1, 116)
# The first 64 bytes of real engines: of TensorRT-RTX 1.6.1.120 for sm86, and of 1.7.1.116 for sm89 and sm120.
REAL = (
    ("7674727400000000" "0200000000000000" "b4bc260000000000" "01060178" "76747274" "04000000", "1.6.1.120", ("sm86",)),
    ("7674727400000000" "0200000000000000" "74bd260000000000" "01070174" "76747274" "18000000", "1.7.1.116",
     ("sm89", "sm120")),
)  # fmt: skip


def engine(version: tuple[int, ...] = VERSION, bits: int = 4, body: bytes = b"body") -> bytes:
    """A file that is an engine by its head."""
    size = 64 + len(body)
    head = struct.pack("<4sIQQ4B4sI", b"vtrt", 0, 2, size, *version, b"vtrt", bits)
    return head.ljust(64, b"\0") + body


@pytest.mark.parametrize(("head", "version", "sms"), REAL)
def test_heads_of_real_engines(head: str, version: str, sms: tuple[str, ...], tmp_path: Path) -> None:
    path, size = tmp_path / "a.engine", int.from_bytes(bytes.fromhex(head)[16:24], "little")
    path.write_bytes(bytes.fromhex(head).ljust(size, b"\0"))
    assert read_engine_header(path) == EngineHeader(version, sms, size)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"begins with b''; expected b'vtrt', an engine of TensorRT-RTX"),
        (b"ptrt" + engine()[4:], r"begins with b'ptrt'; expected b'vtrt'"),
        (engine()[:-3], r"65 bytes found, 68 expected by its head; build it again"),
        (engine() + b"x", r"69 bytes found, 68 expected"),
        (engine(bits=0), r"format 2 for GPUs 0x0; expected format 2"),
        (engine(bits=64), r"GPUs 0x40; expected format 2 and GPUs of sm75, sm80, sm86, sm89, sm120, sm121"),
        (engine()[:8] + b"\3" + engine()[9:], r"format 3 .*expected format 2"),
    ],
)
def test_what_is_no_engine_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=rf"a\.engine: .*{message}"):
        read_engine_header(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle")


NAME = "engines/rtx-1.7/sm86/step.engine"


def record(root: Path, **changes: Any) -> EngineRecord:
    """Has the manifest record NAME as the engine of step."""
    manifest = read_manifest(root)
    path = root / NAME
    file = EngineFile(NAME, path.stat().st_size, sha256_of(path), manifest.files["step.onnx"].sha256)
    values: dict[str, Any] = {
        "target": "rtx:sm86", "library": TENSORRT_RTX, "version": "1.7.1.116", "sms": ("sm86",),
        "precision": "float32", "batch": ((1, 1, 8),), "length": (1, 6, 12), "graphs": {"step": file},
    }  # fmt: skip
    made = EngineRecord(**(values | changes))
    write_manifest(root, replace(manifest, engines={"rtx:sm86": made}))
    return made


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(made, tmp_path / "bundle"))
    (root / NAME).parent.mkdir(parents=True)
    (root / NAME).write_bytes(engine())
    record(root)
    return root


def test_what_is_recorded_is_read_back(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    assert list(manifest.engine_files()) == [NAME]
    assert manifest.engines["rtx:sm86"].batch == ((1, 1, 8),)


def test_an_altered_cut_off_or_missing_engine_is_refused(bundle: Path) -> None:
    (bundle / NAME).write_bytes(engine(body=b"bodY"))
    with pytest.raises(BundleError, match=rf"{NAME}: altered; SHA-256 \w+ found, \w+ expected"):
        Bundle.open(bundle)
    Bundle.open(bundle, verify=False)
    (bundle / NAME).write_bytes(engine()[:-1])
    with pytest.raises(BundleError, match=rf"{NAME}: truncated; 67 bytes found, 68 expected"):
        Bundle.open(bundle)
    (bundle / NAME).unlink()
    with pytest.raises(BundleError, match=rf"{NAME}: missing; expected 68 bytes"):
        Bundle.open(bundle)
    Bundle.open(bundle, engines=False)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (engine((1, 6, 1, 120)), {}, "built by TensorRT-RTX 1.6.1.120; 1.7.1.116 expected"),
        (engine(bits=8), {}, "built for sm89; sm86 expected"),
        (engine(bits=12), {}, "built for sm86, sm89; sm86 expected"),
        (engine(), {"library": "Tensor"}, "an engine of 'Tensor'; expected one of TensorRT and TensorRT-RTX"),
        (b"no engine" * 9, {"library": "TensorRT"}, "begins with b'no e'; expected b'ftrt' or the like, an engine of"),
        (b"no engine" * 9, {}, "begins with b'no e'; expected b'vtrt'"),
    ],
)
def test_an_engine_of_another_version_or_gpu_is_refused(
    data: bytes, changes: dict[str, Any], message: str, bundle: Path
) -> None:
    (bundle / NAME).write_bytes(data)
    record(bundle, **changes)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert f"\n  {NAME}: {message}" in str(caught.value)


def test_an_engine_of_another_graph_is_refused(bundle: Path) -> None:
    file = EngineFile(NAME, 68, sha256_of(bundle / NAME), "0" * 64)
    record(bundle, graphs={"step": file})
    with pytest.raises(BundleError, match=rf"{NAME}: built for rtx:sm86 from a graph with SHA-256 0+; \w+ expected"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e.update(colour=1), "unknown keys ['colour']"),
        (lambda e: e.update(batch=[[2, 1, 8]]), "batch is [[2, 1, 8]]; expected a list of one or more [min, opt, max]"),
        (lambda e: e.update(batch=[2, 1, 8]), "batch is [2, 1, 8]; expected a list of one or more [min, opt, max]"),
        (lambda e: e.update(batch=[]), "batch is []"),
        (lambda e: e.update(precision="int8"), "precision is 'int8'; allowed: float32, float16"),
        (lambda e: e.update(flags=["fast"]), "flags are ['fast']; allowed: version-compatible, hardware-compatible"),
        (lambda e: e.update(level=6, gpu=1), "gpu is 1; expected a text; level is 6; expected an integer from -1 to 5"),
        (lambda e: e.update(sms="sm86"), "sms is 'sm86'; expected a list of texts"),
        (
            lambda e: e["graphs"]["step"].update(layers={"float16": -1}, device_bytes=-1),
            "step: layers is {'float16': -1}; expected counts >= 1 by name; device_bytes is -1",
        ),
        (
            lambda e: e.update(plugin={"file": "a", "bytes": 1, "sha256": "0" * 64, "version": 0}),
            "plugin: version is 0",
        ),
        (
            lambda e: e.update(plugin={"file": "../a", "bytes": 1, "sha256": "0" * 64, "version": 1}),
            "engine file '../a' leaves the bundle",
        ),
        (lambda e: e.update(length=[0, 1, 1]), "length is [0, 1, 1]"),
        (lambda e: e.update(graphs={}), "graphs are []"),
        (lambda e: e["graphs"].update(draw=e["graphs"]["step"]), "graphs are ['draw', 'step']"),
        (lambda e: e["graphs"]["step"].update(sha256="x"), "sha256 is 'x'"),
        (lambda e: e["graphs"]["step"].update(source_sha256=1), "sha256 is 1"),
        (lambda e: e["graphs"]["step"].update(file="../step.engine"), "engine file '../step.engine' leaves the bundle"),
        (lambda e: e.update(target="rtx:sm89"), "the engines of rtx:sm86 are recorded as those of rtx:sm89"),
    ],
)
def test_bad_records_are_named(bundle: Path, change: Callable[[dict[str, Any]], object], expected: str) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    change(values["engines"]["rtx:sm86"])
    (bundle / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert expected in str(caught.value)


def test_a_plan_of_tensorrt_with_its_plugin_library(bundle: Path) -> None:
    """Of a plan only the first bytes are known; the plugin library beside it is checked like every file."""
    (bundle / NAME).write_bytes(b"ftrt and more")
    library = bundle / "engines/rtx-1.7/sm86/libaim_edge_tensorrt.so"
    library.write_bytes(b"library")
    plugin = PluginRecord(library.relative_to(bundle).as_posix(), 7, sha256_of(library), 100)
    record(bundle, library="TensorRT", plugin=plugin)
    manifest = Bundle.open(bundle).manifest
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    assert set(manifest.engine_files()) == {NAME, plugin.file}
    library.write_bytes(b"librarY")
    with pytest.raises(BundleError, match=r"sm86/libaim_edge_tensorrt\.so: altered; SHA-256"):
        Bundle.open(bundle)
    library.unlink()
    with pytest.raises(BundleError, match=r"libaim_edge_tensorrt\.so: missing; expected 7 bytes"):
        Bundle.open(bundle, verify=False)


def test_a_manifest_is_not_written_over_engines_that_are_not_there(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    (bundle / NAME).unlink()
    with pytest.raises(BundleError, match=rf"{NAME}: missing"):
        write_manifest(bundle, manifest)
