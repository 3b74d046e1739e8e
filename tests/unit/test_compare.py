"""`validate --against`: two bundles, each on a backend, without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bundle
from toy_bundle import DIMS, make_bundle, make_contract, make_manifest, make_weights, write_graphs
from trt_case import Make, make_case  # noqa: F401

from aim_edge.export import GATES, Side, compare_bundles
from aim_edge.export.report import render_report
from aim_edge.runtime import Generator, NonFiniteError
from aim_edge.runtime.bundle import new_bundle, read_manifest, record_files, write_manifest

Run = Callable[..., tuple[int, str, str]]
Weights = dict[str, np.ndarray]


def changed(out: Path, change: Callable[[Weights], None]) -> Path:
    """The toy with other weights."""
    contract, weights = make_contract(), make_weights()
    change(weights)
    with new_bundle(out) as folder:
        write_graphs(folder, contract, weights)
        write_manifest(folder, make_manifest(contract, files=record_files(folder)))
    return out


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("compare") / "toy")


def test_equal_bundles_pass(toy: Path, tmp_path: Path, run: Run) -> None:
    other = make_bundle(tmp_path / "turned", transposed=True)  # the snapshots are canonical
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    before = [(path / "manifest.json").read_bytes() for path in (toy, other)]
    options = ("--option", "threads=1", "--against-option", "threads=2", "--state-every", 4, "--json", report)
    status, said, told = run("validate", toy, "--against", other, *options, "--html", page)
    assert status == 0, said + told
    for text in (f"{toy} on ort-cpu (onnxruntime ", f" against {other} on ort-cpu (onnxruntime ", "parity PASS",
                 "primitive float32 on ort-cpu against primitive float32 on ort-cpu", "all 12",
                 "states of 2 layers at 4 steps", "greedy codes part: none", "NaN or infinity: none"):  # fmt: skip
        assert text in said
    assert "warning" not in said and "PyTorch" not in said + told
    values = json.loads(report.read_text())
    assert values["passed"] and values["image_max_abs"] == 0 and values["gates"]["cosine"] == GATES["float32"].cosine
    assert values["against"]["bundle"] == str(other) and values["against"]["backend"] == "ort-cpu"
    assert values["codes"] == f"{other} on ort-cpu" and values["warnings"] == [] and len(values["states"]) == 16
    text = page.read_text()
    assert "PASS" in text and text.count("data:image/png") == 6 and f"against {other} on ort-cpu" in text
    assert f"by {other} on ort-cpu" in text and "PyTorch" not in text
    assert [(path / "manifest.json").read_bytes() for path in (toy, other)] == before


def test_the_first_bad_state_is_named(toy: Path, tmp_path: Path, run: Run) -> None:
    tokens = compare_bundles(Side(toy), Side(toy), images=1).tokens[0]
    fed = next(t for t in range(2, DIMS.num_tokens) if tokens[t - 1] not in tokens[: t - 1])

    def change(weights: Weights) -> None:
        weights["token_table"][tokens[fed - 1]] += 1  # the reference draws, so that it is not fed any earlier

    other = changed(tmp_path / "other", change)
    report = tmp_path / "r.json"
    arguments = ("validate", other, "--against", toy, "--images", 1, "--state-every", 100, "--json", report)
    status, said, _ = run(*arguments, "--html", tmp_path / "r.html")
    assert status == 1 and "parity FAIL" in said and f"the first {fed}, the worst" in said
    assert f"the first state outside the gates is conv_state_0 at step {fed}, with cosine" in said
    assert "only where the reference is PyTorch" in said
    values = json.loads(report.read_text())
    assert not values["passed"] and values["diagnosis"]["findings"][0]["where"] == "conv_state_0"
    assert f"at step {fed}" in (tmp_path / "r.html").read_text()


def test_a_layer_and_the_logits_alone(toy: Path, tmp_path: Path) -> None:
    def layer(weights: Weights) -> None:
        weights["state_1"] *= 1.01

    def position(weights: Weights) -> None:
        weights["position_table"][5] *= -1  # which only the logits see

    found = compare_bundles(Side(changed(tmp_path / "layer", layer)), Side(toy)).report
    assert found.diagnosis is not None and found.diagnosis.findings[0].where == "ssm_state_1"
    assert "at step 0" in found.diagnosis.findings[0].text and any(f.startswith("states") for f in found.failures)
    found = compare_bundles(Side(changed(tmp_path / "position", position)), Side(toy)).report
    assert found.diagnosis is not None and found.diagnosis.findings[0].where == "logits"
    assert "at step 5" in found.diagnosis.findings[0].text
    assert [s.step for s in found.steps if s.max_abs > 1e-3] == [5]


@pytest.mark.parametrize("both", [False, True])
def test_what_is_not_finite_is_told_of_its_side(toy: Path, tmp_path: Path, both: bool) -> None:
    def change(weights: Weights) -> None:
        weights["position_table"][3] = np.inf

    broken = changed(tmp_path / "broken", change)
    found = compare_bundles(Side(toy if not both else broken), Side(broken)).report
    assert [(f.step, f.where) for f in found.reference_non_finite] == [(3, "logits")]
    assert len(found.non_finite) == both and "not finite: NaN or infinity at step 3 in logits of the reference" in (
        found.failures
    )
    assert found.codes.startswith("chance" if both else str(toy))
    found = compare_bundles(Side(broken), Side(toy)).report
    assert [(f.step, f.where) for f in found.non_finite] == [(3, "logits")] and not found.reference_non_finite
    assert found.codes.startswith(str(toy))


@pytest.mark.parametrize(("lost", "pictures"), [({"wanted"}, 1), ({"drawn"}, 1), ({"wanted", "drawn"}, 0)])
def test_a_side_without_images(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: set[str], pictures: int
) -> None:
    """Neither image passes a gate where one is lost, and the page says which."""
    reference, decode = make_bundle(tmp_path / "reference"), Generator.decode_tokens

    def fail(generator: Generator, tokens: np.ndarray) -> np.ndarray:
        if ("drawn" if generator.bundle.path == toy else "wanted") in lost:
            raise NonFiniteError("a decoded image holds NaN or infinity")
        return decode(generator, tokens)

    monkeypatch.setattr(Generator, "decode_tokens", fail)
    found = compare_bundles(Side(toy), Side(reference), images=1)
    report = found.report
    assert {name for name in ("wanted", "drawn") if getattr(found, name) is None} == lost and not report.passed
    assert np.isnan(report.image_max_abs) and any(f.startswith("image_max_abs: nan") for f in report.failures)
    assert (len(report.non_finite), len(report.reference_non_finite)) == ("drawn" in lost, "wanted" in lost)
    assert report.diagnosis is not None and report.diagnosis.findings[0].where == "vq_decode"
    page = render_report(found)
    assert page.count("data:image/png") == pictures
    assert ("The bundle's image holds NaN" in page) == ("drawn" in lost)
    assert (f"The image of {reference} on ort-cpu holds NaN" in page) == ("wanted" in lost)


def test_gates_are_those_of_the_less_precise(toy: Path, tmp_path: Path) -> None:
    half = make_bundle(tmp_path / "half", state_dtype="float16")
    for side, against in ((half, toy), (toy, half)):
        found = compare_bundles(Side(side), Side(against), steps=4).report
        assert found.gates == GATES["float16"] and len(found.steps) == 4
    assert found.passed and found.against is not None and found.against.state_dtype == "float16"


def test_another_model_is_refused(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(toy_bundle, "DIMS", replace(DIMS, n_layer=3, vocab_size=29))
    other = make_bundle(tmp_path / "other")
    status, said, told = run("validate", toy, "--against", other)
    assert status == 2 and not said and "not the same model: n_layer is 2 and 3, vocab_size is 23 and 29" in told


def test_another_checkpoint_is_a_warning(toy: Path, tmp_path: Path, run: Run) -> None:
    other = make_bundle(tmp_path / "tuned")
    manifest = read_manifest(other)
    write_manifest(other, replace(manifest, checkpoint=replace(manifest.checkpoint, source="tuned", sha256="1" * 64)))
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    status, said, _ = run("validate", toy, "--against", other, "--json", report, "--html", page)
    assert status == 0 and "warning: the checkpoints differ: " in said
    values = json.loads(report.read_text())
    assert len(values["warnings"]) == 1 and "1" * 64 in values["warnings"][0]
    assert (values["checkpoint_sha256"], values["against"]["checkpoint_sha256"]) == ("0" * 64, "1" * 64)
    assert "the checkpoints differ" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against-backend", "ort-cpu"], "--against-option say how a bundle of --against runs"),
        (["--against-option", "threads=1"], "--against-option say how a bundle of --against runs"),
        (["--against", "TOY", "--record"], "--record keeps the comparison with PyTorch"),
        (["--against", "TOY", "--checkpoint", "demo"], "both name the reference"),
        (["--against", "TOY", "--against-option", "colour=red"], "option 'colour=red' is none of ort-cpu's"),
        (["--against", "TOY", "--option", "threads=many"], "option threads is 'many'"),
        (["--against", "TOY", "--against-backend", "cuda"], "backend is 'cuda'; known"),
        (["--against", "TOY", "--steps", "13"], "allowed: >= 1, and 1..12"),
        (["--against", "demo"], "but the bundle was exported from"),
        (["--against", "demo", "--against-backend", "ort-cpu"], "say how a bundle of --against runs"),
        (["--against", "nowhere"], "manifest.json"),
    ],
)
def test_bad_arguments(toy: Path, arguments: list[str], message: str, run: Run) -> None:
    status, said, told = run("validate", toy, *[str(toy) if a == "TOY" else a for a in arguments])
    assert status == 2 and not said and message in told and "Traceback" not in told


def test_bad_settings(toy: Path) -> None:
    with pytest.raises(ValueError, match="images is 0"):
        compare_bundles(Side(toy), Side(toy), images=0)
    with pytest.raises(ValueError, match="state_every is 0"):
        compare_bundles(Side(toy), Side(toy), state_every=0)


def test_tensorrt_against_onnx_runtime(make: Make, tmp_path: Path, run: Run) -> None:
    """On the fake TensorRT, one bundle on two backends, and its two samplers."""
    case = make()
    report = tmp_path / "r.json"
    status, said, told = run("validate", case.root, "--backend", "tensorrt", "--against", case.root, "--json", report)
    assert status == 0, said + told
    assert f"{case.root} on tensorrt (TensorRT 8.6.1" in said and "on ort-cpu (onnxruntime" in said
    values: dict[str, Any] = json.loads(report.read_text())
    assert (values["backend"], values["against"]["backend"]) == ("tensorrt", "ort-cpu")
    two = ("--against-backend", "tensorrt", "--against-option", "sampler=host")
    status, said, told = run("validate", case.root, "--backend", "tensorrt", "--against", case.root, *two)
    assert status == 0 and "sampler on the device" in said and "sampler on the host" in said, said + told


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnx_ir", "jinja2", "safetensors", "huggingface_hub", "tomli"):
            raise ImportError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
from aim_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_runs_without_what_exports(toy: Path, tmp_path: Path) -> None:
    def start(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCKED, "validate", str(toy), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = start("--against", toy, "--json", tmp_path / "r.json")
    assert done.returncode == 0 and "parity PASS" in done.stdout, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["passed"]
    done = start("--against", toy, "--html", tmp_path / "r.html")
    assert done.returncode == 2 and "jinja2" in done.stderr and 'pip install "aim-edge[export]"' in done.stderr
    assert not done.stdout and not (tmp_path / "r.html").exists()
    done = start()
    assert done.returncode == 2 and "this command needs torch" in done.stderr
