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
import torch
from PIL import Image

from aim_edge.aim import Checkpoint, GptConfig, GptModel, VqConfig, VqModel
from aim_edge.cli import app
from aim_edge.cli.demo import first_difference
from aim_edge.cli.drawing import choose_classes
from aim_edge.export import Gates, export_bundle
from aim_edge.runtime import BackendMissingError, Bundle, Generator, NonFiniteError
from aim_edge.runtime.bundle import read_manifest
from aim_edge.runtime.contract import LOWERINGS

Run = Callable[..., tuple[int, str, str]]
IMPOSSIBLE = Gates(cosine=1.1)


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
        (["demo", "--fused-convolutions"], "needs lowering 'plugin-fused' or 'plugin-layers' and precision 'float16'"),
        (["./nowhere"], "nowhere is no file, no folder and no hub id (owner/name); 'demo' is the bundled one"),
    ],
)
def test_export_refuses(arguments: list[str], message: str, tmp_path: Path, run: Run) -> None:
    status, _, err = run("export", *arguments[:1], tmp_path / "b", *arguments[1:])
    assert status == 2 and message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--transformer", "B"], "--transformer needs --tokenizer, the weight file of its tokenizer"),
        (["--transformer", "huge", "--tokenizer", "vq.pt"], "preset 'huge' is unknown; allowed: ['b', 'demo', 'l', "),
        (["--transformer", "B", "--tokenizer", "vq.pt", "--tokens", "200"], "num_tokens is 200; must be a square"),
        (["--transformer", "B", "--tokenizer", "vq.pt"], "c2i.pt is no file; expected a weight file"),
        (["--tokens", "576"], "--tokenizer and --tokens are of a Transformer; give --transformer too"),
    ],
)
def test_export_of_a_transformer_refuses(options: list[str], message: str, tmp_path: Path, run: Run) -> None:
    status, _, err = run("export", tmp_path / "c2i.pt", tmp_path / "b", *options)
    assert status == 2 and message in err
    assert not (tmp_path / "b").exists()


def test_export_of_a_transformer(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small = GptConfig(d_model=32, n_layer=1, nheads=2, vocab_size=24, num_classes=3, num_tokens=9)
    vq = VqModel(VqConfig(n_embed=24, ch=32, ch_mult=(1, 1), z_channels=32, num_res_blocks=1)).eval()
    given: list[Any] = []

    def load(weights: str, config: GptConfig, tokenizer: Path) -> Checkpoint:
        given.extend((weights, config, tokenizer))
        return Checkpoint(GptModel(small).eval(), vq, None, {}, weights, "0" * 64)

    monkeypatch.setattr("aim_edge.aim.load_gpt_checkpoint", load)
    chosen = ("--transformer", "XL", "--tokenizer", "vq.pt", "--tokens", "576", "--lowering", "plugin-fused")
    status, said, _ = run("export", "c2i.pt", tmp_path / "b", *chosen)
    assert status == 0 and "plugin-fused, float32" in said and "validate" not in said
    assert given == ["c2i.pt", GptConfig.preset("XL", num_tokens=576), Path("vq.pt")]
    assert Bundle.open(tmp_path / "b").manifest.family == "gpt"


def test_export_with_fused_convolutions(tiny: Path, tmp_path: Path, run: Run) -> None:
    chosen = ("--lowering", "plugin-fused", "--precision", "float16", "--fused-convolutions")
    assert run("export", tiny, tmp_path / "b", *chosen)[0] == 0
    assert read_manifest(tmp_path / "b").fused_convolutions
    assert "fused convolutions" in run("inspect", tmp_path / "b")[1]


def test_export_with_lazy_states(tiny: Path, tmp_path: Path, run: Run) -> None:
    assert run("export", tiny, tmp_path / "b", "--lowering", "plugin-fused", "--lazy-states")[0] == 0
    assert read_manifest(tmp_path / "b").lazy_states
    assert "lazily folded" in run("inspect", tmp_path / "b")[1]
    status, _, err = run("export", tiny, tmp_path / "c", "--lazy-states")
    assert status == 2 and "lazy_states is True with lowering 'primitive'; it needs 'plugin-fused'" in err


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
