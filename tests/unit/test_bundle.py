"""Opening bundles: what is refused, and that the message says what and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_bundle import make_bundle, make_contract, make_manifest

from aim_edge.runtime import Bundle, BundleError, FileRecord, Manifest, SamplingConfig
from aim_edge.runtime.bundle import read_manifest, record_files, write_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    change(values)
    (bundle / "manifest.json").write_text(json.dumps(values))


def test_open_reads_what_was_written(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest.contract == make_contract()
    assert opened.manifest.class_names == ("a", "b", "c", "d")
    assert opened.manifest.sampling_defaults == SamplingConfig(guidance_scale=2.0)
    assert set(opened.manifest.files) == {f"{g}.onnx" for g in opened.manifest.contract.graphs}
    assert opened.graph_path("step") == bundle / "step.onnx"
    assert Manifest.from_dict(json.loads(json.dumps(opened.manifest.to_dict()))) == opened.manifest


def test_missing_truncated_and_altered_files_are_all_named(bundle: Path) -> None:
    (bundle / "scan.onnx").unlink()
    step = (bundle / "step.onnx").read_bytes()
    (bundle / "step.onnx").write_bytes(step[:-1])
    altered = bytearray((bundle / "condition.onnx").read_bytes())
    altered[len(altered) // 2] ^= 1
    (bundle / "condition.onnx").write_bytes(altered)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert "scan.onnx: missing" in message
    assert f"step.onnx: truncated; {len(step) - 1} bytes found, {len(step)} expected" in message
    assert "condition.onnx: altered; SHA-256" in message
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle, verify=False)
    assert "step.onnx" in str(caught.value) and "condition.onnx" not in str(caught.value)


def test_unlisted_graphs_and_weights_are_refused_other_files_are_not(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    Bundle.open(bundle)
    (bundle / "sub").mkdir()
    for name in ("sub/other.onnx", "weights.data"):
        (bundle / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=r"(?s)sub/other.onnx: lies in.*weights.data: lies in"):
        Bundle.open(bundle)


def test_a_graph_that_files_does_not_list_is_refused(bundle: Path) -> None:
    edit(bundle, lambda v: v["files"].pop("step.onnx"))
    with pytest.raises(BundleError, match=r"step.onnx: is a graph"):
        Bundle.open(bundle)


@pytest.mark.parametrize("version", [2, 0, "1", None, 1.0])
def test_another_schema_is_refused_with_found_and_supported(bundle: Path, version: object) -> None:
    edit(bundle, lambda v: v.update(schema_version=version, something_new=1))
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert f"schema version {version!r} found, 1..1 supported" in str(caught.value)


def test_unknown_and_missing_keys_are_all_named(bundle: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["extra"] = 1
        del values["precision"], values["parity"]

    edit(bundle, change)
    with pytest.raises(BundleError, match=r"unknown keys \['extra'\], missing keys \['parity', 'precision'\]"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v.update(format="zip"), "format is 'zip'"),
        (lambda v: v.update(precision="int8"), "precision is 'int8'"),
        (lambda v: v.update(lowering="magic"), "lowering is 'magic'"),
        (lambda v: v.update(class_names=["a"]), "class_names has 1 entries"),
        (lambda v: v.update(class_names=3), "manifest.json: "),
        (lambda v: v["sampling_defaults"].update(top_p=7), "top_p is 7"),
        (lambda v: v["sampling_defaults"].update(beam=2), "unknown keys ['beam']"),
        (lambda v: v["contract"]["dims"].update(d_state="5"), "d_state"),
        (lambda v: v["contract"]["dims"].update(num_tokens=11), "num_tokens is 11"),
        (lambda v: v["contract"]["graphs"].pop("scan"), "the contract's graphs are"),
        (lambda v: v["files"]["step.onnx"].update(sha256="ABC"), "sha256 is 'ABC'"),
        (lambda v: v["files"]["step.onnx"].update(bytes=-1), "bytes is -1"),
        (lambda v: v.update(files=[1]), "manifest.json: "),
    ],
)
def test_bad_values_are_named(bundle: Path, change: Callable[[dict[str, Any]], object], expected: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["../out.onnx", "/etc/passwd", "a/../../b", "c:/x", "a\\b", "", ".", "a//b", "./a"])
def test_names_that_leave_the_bundle_are_refused(bundle: Path, name: str) -> None:
    edit(bundle, lambda v: v["files"].update({name: v["files"]["step.onnx"]}))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(bundle)
    edit(bundle, lambda v: (v["files"].pop(name), v["contract"]["graphs"]["scan"].update(file=name)))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        Bundle.open(tmp_path / "absent")
    (tmp_path / "manifest.json").write_text("{ half")
    with pytest.raises(BundleError, match="not JSON"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(BundleError, match="JSON list; expected an object"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="no readable"):
        Bundle.open(tmp_path)


def test_write_manifest_adds_parity_and_refuses_what_does_not_fit(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, parity={"cosine": 1.0}))
    assert Bundle.open(bundle).manifest.parity == {"cosine": 1.0}
    assert record_files(bundle) == manifest.files
    wrong = replace(manifest, files=manifest.files | {"absent.onnx": FileRecord(3, "0" * 64)})
    with pytest.raises(BundleError, match=r"absent.onnx: missing"):
        write_manifest(bundle, wrong)
    assert Bundle.open(bundle).manifest.parity == {"cosine": 1.0}


def test_a_manifest_is_checked_when_made() -> None:
    with pytest.raises(BundleError, match="precision is 'bfloat16'"):
        make_manifest(make_contract(), precision="bfloat16")
