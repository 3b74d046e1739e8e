"""The command line: exit codes, messages and what each command leaves behind."""

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
from PIL import Image
from test_checkpoint import write as write_checkpoint

from aim_edge.cli import app, main
from aim_edge.cli.demo import first_difference
from aim_edge.cli.drawing import choose_classes
from aim_edge.export import Gates, export_bundle
from aim_edge.runtime import BackendMissingError, Generator, NonFiniteError
from aim_edge.runtime.bundle import read_manifest
from aim_edge.runtime.contract import LOWERINGS
from aim_edge.runtime.images import save_png
from aim_edge.runtime.provenance import Provenance

Run = Callable[..., tuple[int, str, str]]
IMPOSSIBLE = Gates(cosine=1.1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint, exported. Tests leave it as it is."""
    return export_bundle("demo", tmp_path_factory.mktemp("cli") / "bundle", lowering="onnx")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained checkpoint of three classes and 16 codes, in place of the bundled one."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    monkeypatch.setattr("aim_edge.aim.checkpoint.DEMO", write_checkpoint(folder))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line and gives its exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_version(run: Run) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("aim-edge ")


@pytest.mark.parametrize("arguments", [["paint"], ["export"], ["generate", "somewhere"], ["export", "--colour"]])
def test_wrong_usage(arguments: list[str], run: Run) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert "Usage" in err


def test_every_command_has_help(run: Run) -> None:
    names = [command.callback.__name__ for command in app.registered_commands if command.callback is not None]
    assert {"export", "generate", "validate", "verify", "inspect", "doctor", "demo"} <= set(names)
    for name in names:
        status, out, _ = run(name, "--help")
        assert status == 0 and "Usage" in out


PLUGINS_THERE = """
import importlib.machinery, sys, types, typer
plugins = types.ModuleType("aim_edge.cli.plugins")
plugins.__spec__ = importlib.machinery.ModuleSpec("aim_edge.cli.plugins", None)
plugins.app = typer.Typer()
plugins.app.command("list")(lambda: None)
plugins.app.command("build")(lambda: None)
sys.modules["aim_edge.cli.plugins"] = plugins
from aim_edge.cli import main
sys.exit(main(["plugins", "list"]))
"""


def test_plugins_are_a_command_where_they_are_there() -> None:
    command = [sys.executable, "-c", PLUGINS_THERE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_export(tiny: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "b"
    status, said, told = run("export", tiny, out, "--lowering", "onnx", "--precision", "float16")
    assert status == 0
    assert f"{out}: onnx, float16, states float32, 5 graphs" in said
    assert "onnx: writing step (2/6)" in told
    assert read_manifest(out).precision == "float16"
    status, _, err = run("export", tiny, out)
    assert status == 2 and f"{out} exists" in err and "Traceback" not in err
    status, _, _ = run("export", "demo", out, "--overwrite", "--state-dtype", "float16")
    assert status == 0
    assert (read_manifest(out).lowering, read_manifest(out).state_dtype) == ("primitive", "float16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--lowering", "tensor"], "lowering is 'tensor'; allowed: primitive"),
        (["demo", "--precision", "int8"], "precision is 'int8'; allowed"),
        (["./nowhere"], "nowhere is no file, no folder and no hub id (owner/name); 'demo' is the bundled one"),
    ],
)
def test_export_refuses(arguments: list[str], message: str, tmp_path: Path, run: Run) -> None:
    status, _, err = run("export", *arguments[:1], tmp_path / "b", *arguments[1:])
    assert status == 2 and message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_export_help_names_the_lowerings(run: Run) -> None:
    _, out, _ = run("export", "--help")
    assert all(name in out for name in LOWERINGS)


def test_generate_draws_what_the_api_draws_in_any_batch(bundle: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "images"
    common = ("generate", bundle, "-c", "Flags,0", "--class", "faces", "--seed", 3, "--temperature", 0.9, "--top-k", 50)
    status, said, _ = run(*common, "--count", 2, "--out", out)
    assert status == 0 and "4 images in" in said and "images/s" in said
    names = ["faces_00002_3.png", "faces_00003_3.png", "flags_00000_3.png", "flags_00001_3.png", "grid.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    with Generator.open(bundle) as generator:
        images, _ = generator.generate([9, 9, 0, 0], seed=3, temperature=0.9, top_k=50)
    for i, name in enumerate(names[2:4] + names[:2]):
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), images[i])
    width, height = Image.open(out / "grid.png").size
    assert height > 2 * 64 and width > 2 * 64
    assert run(*common, "--count", 2, "--out", tmp_path / "alone", "--batch", 1)[0] == 0
    for name in names:
        assert (tmp_path / "alone" / name).read_bytes() == (out / name).read_bytes()


def test_generate_continues_an_image_and_shows_previews(bundle: Path, tmp_path: Path, run: Run) -> None:
    top = tmp_path / "top.png"
    Image.new("RGB", (80, 100), (250, 10, 10)).save(top)
    out = tmp_path / "out"
    arguments = ("generate", bundle, "-c", 4, "--count", 2, "--out", out, "--prefix-image", top)
    status, _, _ = run(*arguments, "--prefix-rows", 12, "--preview-every", 32, "--first-index", 7)
    assert status == 0
    pixels = np.asarray(Image.open(out / "food_00008_0.png")).astype(int)
    assert abs(pixels[:32].mean(axis=(0, 1)) - (250, 10, 10)).max() < 30
    assert [path.name for path in (out / "previews").iterdir()] == ["00007_0224.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "dragons", "-c", "10"], "no class 'dragons', '10'; allowed: 'all', 0..9 or one of faces"),
        (["--class=-1"], "no class '-1'"),
        (["-c", "0", "--guidance-scale", "nan"], "guidance_scale"),
        (["-c", "0", "--temperature", "-1"], "temperature"),
        (["-c", "0", "--top-k", "-1"], "top_k"),
        (["-c", "0", "--top-p", "1.5"], "top_p"),
        (["-c", "0", "--seed", "-1"], "seed"),
        (["-c", "0", "--prefix-rows", "3"], "--prefix-image"),
        (["-c", "0", "--prefix-image", "nowhere.png"], "nowhere.png"),
        (["-c", "0", "--backend", "abacus"], "backend is 'abacus'; known"),
        (["-c", "0", "--threads", "-1"], "threads"),
    ],
)
def test_generate_refuses(arguments: list[str], message: str, bundle: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("generate", bundle, *arguments, "--out", tmp_path / "out")
    assert status == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_generate_marks_every_image_and_verify_finds_it(bundle: Path, tmp_path: Path, run: Run) -> None:
    top = tmp_path / "top.png"
    Image.new("RGB", (64, 64), (250, 10, 10)).save(top)
    out = tmp_path / "out"
    drawn = ("generate", bundle, "-c", 4, "--count", 2, "--out", out, "--first-index", 7, "--temperature", 0.7)
    assert run(*drawn, "--prefix-image", top, "--prefix-rows", 12, "--preview-every", 32)[0] == 0
    single = [out / "food_00007_0.png", out / "food_00008_0.png"]
    several = [out / "grid.png", out / "previews" / "00007_0224.png"]
    status, said, _ = run("verify", *single, *several, "--bundle", bundle)
    assert status == 0 and said.count(": ok: text and XMP agree") == 4 and said.count("digest matches") == 4
    for text in ("compositeWithTrainedAlgorithmicMedia", "food", "0.7", "AI-generated image: several"):
        assert text in said
    status, said, _ = run("verify", *single, "--bundle", bundle, "--redraw")
    assert status == 0 and said.count("drawn anew on ort-cpu, the pixels are the same") == 2
    status, said, _ = run("verify", several[0], "--bundle", bundle, "--redraw")
    assert status == 1 and "NOT redrawn" in said


def test_generate_without_provenance_says_so(bundle: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("generate", bundle, "-c", 0, "--count", 1, "--no-provenance", "--out", tmp_path)
    assert status == 0 and "the images are unmarked" in err
    for name in ("faces_00000_0.png", "grid.png"):
        status, said, _ = run("verify", tmp_path / name)
        assert status == 1 and "FAILED: no marks of aim-edge were found" in said


def test_verify_fails_what_was_altered(bundle: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    assert run("generate", bundle, "-c", 0, "--count", 1, "--out", tmp_path)[0] == 0
    image = tmp_path / "faces_00000_0.png"
    found = Provenance.read(image)
    assert found is not None
    pixels = np.asarray(Image.open(image)).copy()
    assert run("verify", image, "--bundle", export_bundle(tiny, tmp_path / "other"))[0] == 1
    # Marks that fit each other and the pixels: only the bundle, or drawing it anew, tells.
    for change, problem in (
        ({"seed": 5}, "pixels differ, by up to"),
        ({"image_index": 2**70}, "cannot be drawn anew"),
        ({"class_id": 77}, "class_id is 77; the bundle has 0..9"),
        ({"class_name": "\x1b[31mpeople"}, "not what the bundle says: class"),
        ({"licence": "MIT"}, "not what the bundle says: licence"),
        ({"bundle": "0" * 64}, "another bundle drew it"),
        ({}, "have shape (64, 64, 3); the file's have (32, 64, 3)"),
    ):
        save_png(image, pixels if change else pixels[:32], replace(found, **change))
        assert run("verify", image)[0] == 0
        status, said, _ = run("verify", image, "--bundle", bundle, "--redraw")
        assert status == 1 and problem in said and "\x1b" not in said
    save_png(image, pixels, found)
    pixels[0, 0] ^= 1
    info = found.to_png_info()
    info.add_text("Title", ":cat:\x1b[31m")
    Image.fromarray(pixels).save(image, pnginfo=info)
    status, said, _ = run("verify", image)
    assert status == 1 and "the pixels were altered" in said and "not as aim-edge writes them: Title" in said
    assert ":cat:\\u001b" in said and "\x1b" not in said


def test_verify_refuses(bundle: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "text.png").write_text("no image")
    save_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    for arguments, message in (
        (["nowhere.png"], "nowhere.png"),
        ([tmp_path / "text.png"], "text.png"),
        ([tmp_path / "a.png", "--redraw"], "give --bundle too"),
        ([tmp_path / "a.png", "--bundle", tmp_path], "manifest.json"),
        ([tmp_path / "a.png", "--bundle", bundle, "--redraw", "--backend", "abacus"], "backend is 'abacus'"),
    ):
        status, _, err = run("verify", *arguments)
        assert status == 2 and message in err and "Traceback" not in err


def test_a_policy_is_exported_enforced_and_recorded(tiny: Path, tmp_path: Path, run: Run) -> None:
    policy, path, out = tmp_path / "rules.json", tmp_path / "b", tmp_path / "out"
    values = {"denied_classes": ["b"], "notice": "for tests", "licence": "MIT", "require_provenance": True}
    policy.write_text(json.dumps(values))
    assert run("export", tiny, path, "--policy", policy)[0] == 0
    assert json.loads((path / "policy.json").read_text()) == values
    assert export_bundle(tiny, tmp_path / "c", policy=values).joinpath("policy.json").read_bytes() == (
        path / "policy.json"
    ).read_bytes()
    assert "policy.json" in read_manifest(path).files
    assert "policy.json" not in read_manifest(export_bundle(tiny, tmp_path / "free")).files
    status, _, err = run("generate", path, "-c", "all", "--out", out)
    assert status == 2 and "class 1 (b) is denied by the usage policy" in err
    status, _, err = run("generate", path, "-c", "a", "--no-provenance", "--out", out)
    assert status == 2 and "its usage policy requires provenance" in err
    assert not out.exists()
    assert run("generate", path, "-c", "a", "--count", 1, "--out", out)[0] == 0
    found = Provenance.read(out / "a_00000_0.png")
    assert found is not None and (found.notice, found.licence) == ("for tests", "MIT")
    assert found.policy == read_manifest(path).files["policy.json"].sha256
    assert run("verify", out / "a_00000_0.png", "--bundle", path, "--redraw")[0] == 0


@pytest.mark.parametrize("text", ['{"denied_classes": ["dragons"]}', '{"deny": []}', "no JSON", None])
def test_export_refuses_a_bad_policy(text: str | None, tiny: Path, tmp_path: Path, run: Run) -> None:
    policy = tmp_path / "rules.json"
    if text is not None:
        policy.write_text(text)
    status, _, err = run("export", tiny, tmp_path / "b", "--policy", policy)
    assert status == 2 and ("policy: " in err or "rules.json" in err) and "Traceback" not in err
    assert not (tmp_path / "b").exists()


def test_classes_by_number_name_and_all(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert choose_classes(["9, hands", "FACES", "9"], manifest) == [9, 2, 0]
    assert choose_classes(["hands", "all"], manifest) == [2, 0, 1, 3, 4, 5, 6, 7, 8, 9]
    commas = replace(manifest, class_names=("tench, Tinca tinca", *map(str, range(20, 29))))
    assert choose_classes(["Tench, tinca tinca", "25,1"], commas) == [0, 6, 1]


@pytest.mark.parametrize("command", ["generate", "validate", "inspect"])
def test_a_checkpoint_is_no_bundle(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    extra = ["-c", "0"] if command == "generate" else []
    status, _, err = run(command, "demo", *extra)
    assert status == 2 and "aim-edge export demo" in err
    status, _, err = run(command, "empty", *extra)
    assert status == 2 and "manifest.json" in err
    assert not list(tmp_path.iterdir())


def test_validate(bundle: Path, tmp_path: Path, run: Run) -> None:
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    before = (bundle / "manifest.json").read_bytes()
    files = ("--json", report, "--html", page)
    status, out, _ = run("validate", bundle, "--images", 1, "--steps", 20, "--state-every", 8, *files)
    assert status == 0
    for text in ("cosine", "norm ratio", "max |diff|", "top-1", "top-5", "KL", "all 20", "gate", "parity PASS",
                 "states of 6 layers at 4 steps", "greedy codes part: none", "NaN or infinity: none", "SSIM 1.0"):
        assert text in out
    values = json.loads(report.read_text())
    assert values["passed"] and len(values["steps"]) == 20
    assert {s["step"] for s in values["states"]} == {0, 8, 16, 19} and values["diagnosis"] is None
    assert "PASS" in page.read_text() and "Diagnosis" not in page.read_text()
    assert (bundle / "manifest.json").read_bytes() == before
    _, every, _ = run("validate", bundle, "--images", 1, "--steps", 20, "--all-steps")
    assert len(every.splitlines()) > len(out.splitlines()) + 10


def test_validate_fails_and_records_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    path = export_bundle(tiny, tmp_path / "b")
    assert "not recorded" in run("inspect", path)[1]
    assert run("validate", path, "--record")[0] == 0
    assert "passed on ort-cpu" in run("inspect", path)[1]
    monkeypatch.setitem(sys.modules["aim_edge.export.parity"].GATES, "float32", IMPOSSIBLE)
    status, out, _ = run("validate", path, "--checkpoint", tiny, "--record")
    assert status == 1 and "parity FAIL" in out and "failed gate: cosine: 16 of 16 steps outside 1.1" in out
    assert "FAILED: cosine" in run("inspect", path)[1]


def test_validate_writes_no_report_where_it_cannot(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    status, _, err = run("validate", bundle, "--html", tmp_path / "nowhere" / "report.html")
    assert status == 2 and "there is no folder" in err
    monkeypatch.delitem(sys.modules, "aim_edge.export.report", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, _, err = run("validate", bundle, "--html", tmp_path / "report.html")
    assert status == 2 and 'pip install "aim-edge[export]"' in err
    assert not list(tmp_path.iterdir())


def test_validate_refuses_another_checkpoint(bundle: Path, tiny: Path, run: Run) -> None:
    status, _, err = run("validate", bundle, "--checkpoint", tiny)
    assert status == 2 and "was exported from" in err


def test_inspect(bundle: Path, run: Run) -> None:
    status, out, _ = run("inspect", bundle)
    assert status == 0
    for text in ("626,688 bytes a row", "com.microsoft", "faces", "vq_encode.onnx", "class_ids int32 (batch)", "MB"):
        assert text in out
    status, out, _ = run("inspect", bundle, "--json")
    values = json.loads(out)
    assert status == 0 and values["state_bytes_per_image"] == 2 * 626_688
    assert values["nodes"]["step"]["operators"]["com.microsoft::LinearAttention"] == 6


def test_inspect_counts_no_nodes_without_onnx(bundle: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, out, _ = run("inspect", bundle)
    assert status == 0 and "not counted" in out
    status, out, _ = run("inspect", bundle, "--json")
    assert status == 0 and json.loads(out)["nodes"]["step"] is None


def test_inspect_refuses_what_was_altered(tiny: Path, tmp_path: Path, run: Run) -> None:
    path = export_bundle(tiny, tmp_path / "b")
    (path / "step.onnx").write_bytes((path / "step.onnx").read_bytes()[:-1])
    status, _, err = run("inspect", path)
    assert status == 2 and "step.onnx: truncated" in err


def test_doctor(run: Run) -> None:
    status, out, _ = run("doctor")
    assert status == 0
    for text in ("ort-cpu", "backends that work here: ort-cpu", "Python", "NumPy", "ONNX Runtime", "TensorRT",
                 "TensorRT-RTX", "CUDA driver", "nvcc", "npm", "PyTorch"):  # fmt: skip
        assert text in out


def test_doctor_when_nothing_works(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def missing(name: str) -> str:
        raise BackendMissingError(f'{name} needs onnxruntime; pip install "aim-edge[ort]"')

    monkeypatch.setattr("aim_edge.runtime.backends.check_backend", missing)
    status, out, _ = run("doctor")
    assert status == 1
    assert 'pip install "aim-edge[ort]"' in out and "backends that work here: none" in out


def test_doctor_trusts_no_cuda_library_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["aim_edge.cli.doctor"]
    monkeypatch.setattr("aim_edge.runtime.backends.check_backend", lambda name: f"{name} loads")
    monkeypatch.setattr(module, "cuda_driver", lambda: module.Finding("CUDA driver", False, "no libcuda"))
    found = {finding.name: finding for finding in module.find_backends()}
    assert found["ort-cpu"].found
    assert not found["ort-cuda"].found and "no libcuda" in found["ort-cuda"].detail


def test_demo(tiny: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "demo"
    status, said, _ = run("demo", "--out", out)
    assert status == 0
    assert said.count("parity PASS") == 2 and "tokens the same: primitive and onnx" in said
    assert (out / "grid.png").is_file() and len(list((out / "images").glob("*.png"))) == 12
    assert run("verify", *(out / "images").glob("*.png"), out / "grid.png", "--bundle", out / "onnx")[0] == 0
    values = json.loads((out / "parity.json").read_text())
    assert values["passed"] and set(values["bundles"]) == {"primitive", "onnx"}
    for lowering in ("primitive", "onnx"):
        parity = read_manifest(out / lowering).parity
        assert parity is not None and parity["passed"]
    assert run("demo", "--out", out)[0] == 0, "a second demo replaces the first"


def test_demo_fails_with_a_gate(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setitem(sys.modules["aim_edge.export.parity"].GATES, "float32", IMPOSSIBLE)
    status, said, _ = run("demo", "--out", tmp_path / "demo")
    assert status == 1 and said.count("parity FAIL") == 2
    assert not json.loads((tmp_path / "demo" / "parity.json").read_text())["passed"]


def test_first_difference() -> None:
    codes = np.arange(12, dtype=np.int32).reshape(3, 4)
    other = codes.copy()
    other[1, 2:] += 1
    assert first_difference(codes, codes) is None
    assert first_difference(codes, other) == "1 of 3 images; image 1 first at step 2: primitive drew 6, onnx 7"


@pytest.mark.parametrize(("wrong", "expected"), [(1, 0), (3, 1)])
def test_demo_fails_where_many_images_differ(
    wrong: int, expected: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Of 12 images one may part by rounding; three mean that one of the bundles is another model."""
    from aim_edge.runtime import Generator

    generate, parted = Generator.generate, 0

    def other(self: Generator, *args: Any, **options: Any) -> Any:
        nonlocal parted
        images, tokens = generate(self, *args, **options)
        if self.bundle.manifest.lowering == "primitive" and "image_index" in options and parted < wrong:
            parted += 1
            tokens[0, -1] = (tokens[0, -1] + 1) % 2
        return images, tokens

    monkeypatch.setattr(Generator, "generate", other)
    status, said, _ = run("demo", "--out", tmp_path / "demo")
    assert status == expected and f"tokens DIFFER: {wrong} of 12 images" in said
    values = json.loads((tmp_path / "demo" / "parity.json").read_text())
    assert values["passed"] == (expected == 0) and values["same_images"] < 1 and values["difference"]


@pytest.mark.parametrize("way", ["option", "environment"])
def test_debug_shows_the_traceback(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    if way == "environment":
        monkeypatch.setenv("AIM_EDGE_DEBUG", "1")
    status, _, err = run(*(["--debug"] if way == "option" else []), "inspect", tmp_path)
    assert status == 2 and "Traceback" in err and "aim-edge: " in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad"), 2), (TypeError("bad"), 2), (RuntimeError("bad"), 2),
        (OSError(28, "No space left on device"), 2),
        (BackendMissingError("bad"), 2), (NonFiniteError("bad"), 2), (KeyError("bad"), 3), (AssertionError("bad"), 3),
        (ImportError("bad", name="aim_edge.lost"), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_which_errors_are_bugs(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("aim_edge.runtime.Bundle.open", broken)
    found, _, err = run("inspect", tmp_path)
    assert found == status
    assert ("Traceback" in err) == ("internal error" in err) == (status == 3)
    assert status == 3 or err == f"aim-edge: {error}\n"


@pytest.mark.parametrize(
    ("module", "arguments", "fix"),
    [
        ("torch", ["export", "demo", "out"], 'pip install "aim-edge[export]"'),
        ("onnxruntime", ["generate", "BUNDLE", "-c", "0"], 'pip install "aim-edge[ort]"'),
    ],
)
def test_a_missing_package_is_named(
    module: str, arguments: list[str], fix: str, bundle: Path, tmp_path: Path
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from aim_edge.cli import main; sys.exit(main())"
    given = [str(bundle) if argument == "BUNDLE" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60
    )
    assert done.returncode == 2
    assert module in done.stderr and fix in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
