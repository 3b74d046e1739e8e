"""Class agreement and class score by the classifier that ships, and CLIP's score."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from needs import missing
from PIL import Image
from test_quality import pictures, save

from aim_edge.aim.checkpoint import DEMO
from aim_edge.export.quality import Settings
from aim_edge.export.quality_classes import Classifier, class_score, mean_row, score_row
from aim_edge.export.quality_clip import WEIGHTS_SHA256, ClipScore
from aim_edge.runtime import BackendMissingError

Run = Callable[..., tuple[int, str, str]]


def test_the_classifier_that_ships_is_the_demos() -> None:
    classifier = Classifier.load()
    assert list(classifier.class_names) == json.loads((DEMO / "config.json").read_text())["class_names"]
    assert classifier.weight.shape == (256, 10) and 0.7 < classifier.held_out < 1
    rows = np.random.default_rng(0).normal(size=(40, 256))
    logits = classifier.logits(rows)
    best = [classifier.class_names[i] for i in logits.argmax(1)]
    assert classifier.agreement(logits, best).all()
    turned = [classifier.class_names[(i + 1) % 10] for i in logits.argmax(1)]
    assert not classifier.agreement(logits, turned).any()
    with pytest.raises(ValueError, match=r"labels hold .*'dragons'.* for 40 images; expected faces"):
        classifier.agreement(logits, ["dragons"] * 40)
    with pytest.raises(ValueError, match="None"):
        classifier.agreement(logits, [None] * 40)


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    classifier = Classifier.load()
    classifier.save(tmp_path / "c.npz")
    again = Classifier.load(tmp_path / "c.npz")
    assert again.class_names == classifier.class_names and again.held_out == classifier.held_out
    np.testing.assert_array_equal(again.weight, classifier.weight)


def test_class_score_knows_its_ends() -> None:
    sure = np.eye(4).repeat(5, 0) * 50
    assert class_score(sure) == pytest.approx(4, rel=1e-9)
    assert class_score(np.tile(sure[:1], (20, 1))) == pytest.approx(1, rel=1e-9)
    assert class_score(np.zeros((20, 4))) == pytest.approx(1, rel=1e-9)


def test_rows_hold_the_mean_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(400) < 0.8).astype(float), (rng.random(400) < 0.5).astype(float)
    figures = mean_row("m", a, b, paired=False, settings=Settings(resamples=200)).figures
    assert figures["A"].value == a.mean() and figures["B - A"].value == pytest.approx(b.mean() - a.mean())
    # Of a share p of n images the interval is 2 x 1.96 sqrt(p (1 - p) / n) wide.
    width = 2 * 1.96 * np.sqrt(a.mean() * (1 - a.mean()) / 400)
    assert figures["A"].high - figures["A"].low == pytest.approx(width, rel=0.25)  # type: ignore[operator]
    assert figures["B - A"].high < 0  # type: ignore[operator]
    same = mean_row("m", a, a, paired=True, settings=Settings(resamples=40)).figures["B - A"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    logits = rng.normal(size=(50, 3))
    assert score_row("s", logits, logits, paired=True, settings=Settings(resamples=40)).figures["B - A"].high == 0


def test_bundles_and_marked_files_agree_with_their_class_and_others_say_why_not(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    report, drawn = tmp_path / "report.json", tmp_path / "drawn"
    run("quality", bundle, bundle, "--count", 20, "--resamples", 40, "--json", report)
    rows = {row["name"]: row["figures"] for row in json.loads(report.read_text())["rows"]}
    assert rows["vq-class-agreement"]["A"]["value"] >= 0.7 and rows["vq-class-agreement"]["B - A"]["value"] == 0
    assert 1 < rows["vq-class-score"]["A"]["value"] < 10
    for name in ("faces", "flags"):
        assert run("generate", bundle, "--class", name, "--count", 6, "--out", drawn)[0] == 0
    _, out, err = run("quality", drawn, bundle, "--resamples", 40, "--json", report)
    rows = {row["name"]: row["figures"] for row in json.loads(report.read_text())["rows"]}
    assert rows["vq-class-agreement"]["A"]["value"] >= 0.7, out
    assert "names 77% of held-out pictures rightly" in " ".join(err.split()) and "no Inception score" in err
    marked = sorted(drawn.glob("*_0.png"))[0]
    pixels = np.asarray(Image.open(marked)).copy()
    Image.fromarray(pixels).save(marked)
    _, out, err = run("quality", drawn, bundle, "--resamples", 40)
    assert "vq-class-agreement" not in out and "no class agreement: every image needs" in " ".join(err.split())


def make_clip(folder: Path) -> Path:
    """A CLIP model of random weights with a tokenizer of single letters, as transformers saves it."""
    try:
        import transformers
    except ImportError as error:
        missing(f"transformers ({error})")
    import torch

    folder.mkdir()
    ends = ["<|startoftext|>", "<|endoftext|>"]
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *ends]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 77, "bos_token_id": 52, "eos_token_id": 53,
            "pad_token_id": 53}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=sizes | text, vision_config=sizes | {"image_size": 32, "patch_size": 8}, projection_dim=16
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_scores_images_by_their_classes(bundle: Path, tmp_path: Path, run: Run) -> None:
    folder, report = make_clip(tmp_path / "clip"), tmp_path / "report.json"
    score = ClipScore(folder)
    images = pictures(40, 0)
    names = ["faces", "flags"] * 20
    found = score(images, names)
    assert found.shape == (40,) and (found >= 0).all() and (found <= 100).all()
    # By hand: the cosine of image and prompt, of any batch.
    one = score(images[3:4], names[3:4])
    np.testing.assert_allclose(one, found[3:4], atol=1e-3)
    best = int(found.argmax())
    assert found[best] > 0 and np.ptp(score(images[best : best + 1].repeat(2, 0), ["faces", "flags"])) > 0
    with pytest.raises(ValueError, match="names has 1 entries; expected one for each of 40"):
        score(images, ["faces"])
    with pytest.raises(ValueError, match=r"expected one \{\}"):
        ClipScore(folder, "a picture")
    arguments = ("quality", bundle, bundle, "--count", 4, "--resamples", 40, "--json", report)
    _, out, _ = run(*arguments, "--clip", folder, "--clip-prompt", "an emoji of {}")
    row = next(row for row in json.loads(report.read_text())["rows"] if row["name"] == "clip-score")
    assert "clip-score" in out and row["figures"]["B - A"]["value"] == 0
    plain = save(tmp_path / "plain", images[:4])
    status, _, err = run("quality", plain, plain, "--clip", folder)
    assert status == 2 and "4 images of" in err and "do not say their class" in " ".join(err.split())


def test_a_clip_model_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    plain, empty = save(tmp_path / "plain", pictures(4, 0)), tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    status, _, err = run("quality", plain, plain, "--clip", empty)
    said = " ".join(err.split())
    assert status == 2 and "lacks vocab.json, merges.txt, model.safetensors or pytorch_model.bin" in said
    for part in (WEIGHTS_SHA256, "openai/clip-vit-base-patch32", "class agreement takes its place"):
        assert part in said, part
    for name in ("vocab.json", "merges.txt", "model.safetensors"):
        (empty / name).write_bytes(b"{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackendMissingError, match=r'pip install "aim-edge\[clip\]"'):
        ClipScore(empty)
