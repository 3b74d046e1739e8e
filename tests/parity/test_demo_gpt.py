"""The bundled Transformer: the demo's codes and tokenizer, about as many parameters, and a bundle held to PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aim_edge.aim import GptModel, load_checkpoint
from aim_edge.aim.checkpoint import DEMO, DEMO_GPT
from aim_edge.cli import main
from aim_edge.export import export_bundle, validate

pytestmark = pytest.mark.skipif(
    not (DEMO_GPT / "model.safetensors").is_file(),
    reason=f"not run: {DEMO_GPT.parent.name}/{DEMO_GPT.name}/ has no checkpoint yet; aim_edge.aim.train_gpt trains it",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle("demo-gpt", tmp_path_factory.mktemp("demo-gpt") / "gpt")


def test_it_shares_what_is_not_compared() -> None:
    gpt, aim = load_checkpoint("demo-gpt"), load_checkpoint("demo")
    assert isinstance(gpt.aim, GptModel)
    assert gpt.class_names == aim.class_names and gpt.sampling == aim.sampling and gpt.vq.config == aim.vq.config
    sizes = [sum(p.numel() for p in one.aim.parameters()) for one in (gpt, aim)]
    assert 0.8 < sizes[0] / sizes[1] < 1.25
    assert (DEMO_GPT / "model.safetensors").stat().st_size < (DEMO / "model.safetensors").stat().st_size


def test_its_figures_are_beside_it() -> None:
    metrics, demo = (json.loads((folder / "metrics.json").read_text()) for folder in (DEMO_GPT, DEMO))
    held_out = metrics["gpt"]["held_out"]
    assert held_out["below_unigram"] > 0.4, "it has learned the codes' order, not their frequencies alone"
    # The same held-out codes: AiM's figure, computed beside it, is the demo's own.
    ours, theirs = (one["aim"]["held_out"]["cross_entropy"] for one in (metrics, demo))
    assert ours == pytest.approx(theirs, abs=0.01)


def test_the_bundle_is_the_model(bundle: Path) -> None:
    report = validate(bundle, state_every=64)
    assert report.passed, report.failures


def test_compared_with_the_demo_on_real_codes(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aim = export_bundle("demo", tmp_path / "aim")
    status = main([
        "ab", str(aim), str(bundle), "--gpu-hour", "1", "--batch", "4", "--repeats", "2", "--quality", "100",
        "--json", str(tmp_path / "ab.json"), "--out", str(tmp_path / "ab.md"),
    ])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    found = json.loads((tmp_path / "ab.json").read_text())
    assert found["rows"][0]["codes"] == 256 and found["quality"]["n"] == 100
    assert "(AiM)" in said.out and "(Transformer)" in said.out and "## Quality" in said.out
