"""`aim-edge ab` of AiM against a Transformer at two numbers of codes, from exported bundles to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aim_edge.aim import AimConfig, AimModel, Checkpoint, GptConfig, GptModel, VqConfig, VqModel
from aim_edge.cli import main
from aim_edge.export import export_bundle
from aim_edge.runtime import Bundle, Generator

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, FOLDER)
try:
    import random_bundle
finally:
    sys.path.remove(FOLDER)

LENGTHS = (16, 36)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By family and codes: random weights and one tokenizer, whose images are 16 and 24 pixels wide."""
    folder = tmp_path_factory.mktemp("lengths")
    torch.manual_seed(0)
    vq = VqModel(VqConfig(48, ch=16, ch_mult=(1, 1, 2), z_channels=16, num_res_blocks=1, norm_groups=4)).eval()
    found = {}
    for codes in LENGTHS:
        common = {"n_layer": 2, "vocab_size": 48, "num_classes": 5, "num_tokens": codes}
        aim = AimModel(AimConfig(d_model=16, d_state=8, headdim=4, **common)).eval()  # type: ignore[arg-type]
        gpt = GptModel(GptConfig(d_model=32, nheads=2, **common)).eval()  # type: ignore[arg-type]
        torch.nn.init.normal_(gpt.output.weight, std=0.5)
        for name, model in (("aim", aim), ("gpt", gpt)):
            out = folder / f"{name}-{codes}"
            found[f"{name}{codes}"] = export_bundle(Checkpoint(model, vq, None, {}, f"random {name}", "0" * 64), out)
    return found


def test_from_bundles_to_the_report(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = f"{bundles['aim36']},{bundles['aim16']}"
    b = f"{bundles['gpt16']},{bundles['gpt36']}"
    out = tmp_path / "ab.md"
    status = main([
        "ab", a, b, "--gpu-hour", "1", "--batch", "1,4", "--repeats", "2", "--out", str(out), "--html",
        str(tmp_path / "ab.html"), "--json", str(tmp_path / "ab.json"), "--quality", "104", "--codes", "16",
        "--language", "ja",
    ])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    # Pair by pair, in A's order, and the kept reports are named by their codes.
    order = [said.err.index(f"{side}: opening {bundles[name]}") for side, name in
             (("A", "aim36"), ("B", "gpt36"), ("A", "aim16"), ("B", "gpt16"))]  # fmt: skip
    assert order == sorted(order)
    kept = {name: json.loads((tmp_path / f"ab_{name}.json").read_text()) for name in ("a_16", "a_36", "b_16", "b_36")}
    assert kept["b_36"]["bundle"]["family"] == "gpt" and kept["a_16"]["bundle"]["dims"]["num_tokens"] == 16
    # k and v, two layers, two rows: 32 numbers of four bytes a position.
    assert kept["b_36"]["bundle"]["state_bytes_per_image"] == 2 * 2 * 2 * 32 * 36 * 4
    assert kept["b_36"]["bundle"]["weight_bytes"] == 4 * (2 * (4 * 32 + 3 * 256) * 32 + 48 * 32)
    assert kept["a_16"]["bundle"]["state_bytes_per_image"] == kept["a_36"]["bundle"]["state_bytes_per_image"]
    found = json.loads((tmp_path / "ab.json").read_text())
    assert [(row["codes"], row["batch"]) for row in found["rows"]] == [(16, 1), (16, 4), (36, 1), (36, 4)]
    assert found["codes"] == 16 and found["quality"]["n"] == 104 and found["quality"]["paired"]["pairs"] == 104
    text = out.read_text(encoding="utf-8")
    assert "A (AiM)" in text and "B (Transformer)" in text and "## 画質, 符号 16 個" in text and "各 104 枚" in text

    again = [f"{tmp_path}/ab_{name}.json" for name in ("a_36", "a_16", "b_16", "b_36")]
    sides = [",".join(again[:2]), ",".join(again[2:])]
    assert main(["ab", *sides, "--gpu-hour", "1", "--codes", "16", "--language", "ja"]) == 0
    assert capsys.readouterr().out.split("## 画質")[0].split("## 前提")[0].strip() == text.split("## 画質")[0].strip()


def test_a_model_against_itself_is_as_good(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = str(bundles["gpt16"])
    status = main(["ab", same, same, "--gpu-hour", "1", "--batch", "8", "--repeats", "1", "--no-pixels", "--quality",
                   "104", "--out", str(tmp_path / "ab.md")])  # fmt: skip
    said = capsys.readouterr().out
    assert status == 0 and "B's images are as good as A's" in said and "codes only, without the image decoder" in said


def test_the_benchmark_from_weights_to_the_page(tmp_path: Path) -> None:
    """benchmarks/ab_gpu.sh on the CPU, where it builds no engines; a length that cannot be is told."""
    environment = os.environ | {
        "PYTHON": sys.executable, "PYTHON_TRT": sys.executable, "BACKEND": "ort-cpu", "REPEATS": "2",
        "OUT": str(tmp_path / "out"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", f"{FOLDER}/ab_gpu.sh", "--codes", "16,17,36", "--batch", "1,2", "--preset", "demo", "--lowering",
         "primitive"], env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "num_tokens is 17; must be a square" in done.stdout, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "ab.json").read_text())
    assert [(row["codes"], row["batch"], row["part"]) for row in found["rows"]] == [
        (n, batch, "tokens") for n in (16, 36) for batch in (1, 2)
    ]
    assert [one["family"] for one in found["sides"]["B"]] == ["gpt", "gpt"]
    for name, says in (("ab.html", "Who is faster"), ("ab_ja.md", "どちらが速いか")):
        assert says in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_random_bundles_for_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that differ by position and class, finite, and images of 16 pixels a code."""
    tiny = {
        "aim": AimConfig(d_model=64, n_layer=2, headdim=16, d_state=16, vocab_size=64, num_classes=5),
        "gpt": GptConfig(d_model=64, n_layer=2, nheads=1, vocab_size=64, num_classes=5),
    }
    monkeypatch.setattr("aim_edge.aim.config.PRESETS", {"b": tiny["aim"]})
    monkeypatch.setattr("aim_edge.aim.gpt_config.PRESETS", {"b": tiny["gpt"]})
    for family, codes in (("aim", 16), ("gpt", 36)):
        out = tmp_path / family
        random_bundle.main([str(out), "--family", family, "--codes", str(codes)])
        manifest = Bundle.open(out).manifest
        dims = manifest.contract.dims
        assert (manifest.family, dims.num_tokens, manifest.precision, manifest.state_dtype) == (
            family, codes, "float16", "float16"
        )  # fmt: skip
        assert dims.image_height == 16 * int(codes**0.5)
        with Generator.open(out) as generator:
            images, tokens = generator.generate([0, 3], seed=1)
            logits = generator.decode_logits([0, 3], tokens)
        assert images.shape == (2, dims.image_height, dims.image_width, 3) and logits.std(axis=-1).min() > 1e-4
        assert abs(logits[1, 0] - logits[1, 1]).max() > 1e-4 and abs(logits[2] - logits[1]).max() > 1e-4
    with pytest.raises(ValueError, match="family is 'rnn'; allowed: aim, gpt"):
        random_bundle.random_model("rnn", "B", 16)
    with pytest.raises(ValueError, match="vq is 'large'; allowed: tiny, f16"):
        random_bundle.random_vq("large", 64)
