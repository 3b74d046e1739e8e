"""A demo that is trained for a few steps only is told from the demo by its images: `aim-edge quality` says "worse"."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from aim_edge.aim import AimModel, demo_data, load_checkpoint
from aim_edge.aim.checkpoint import DEMO, read_state_dict
from aim_edge.aim.train_aim import AimOptions, cross_entropies, train_aim
from aim_edge.aim.train_data import DemoData
from aim_edge.aim.train_vq import encode_rows
from aim_edge.cli import main
from aim_edge.export import export_bundle
from aim_edge.export.quality_features import draw_set
from aim_edge.runtime import Generator

PICTURES = Path(__file__).parents[2] / "build" / "emoji.npz"
# The demo itself had 2658 steps of 128 pictures.
SHORT = AimOptions(steps=30, batch=8, warmup=5)
COUNT, CLASSES, REAL_OF_A_CLASS = 200, 10, 20


@pytest.fixture(scope="module")
def pictures() -> Path:
    """What the demo was trained on, 74 MB that are fetched once and kept in build/."""
    if not PICTURES.is_file():
        PICTURES.parent.mkdir(exist_ok=True)
        try:
            demo_data.main([str(PICTURES)])
        except RuntimeError as error:
            pytest.skip(f"not run: the demo's pictures can't be fetched: {error}")
    return PICTURES


@dataclass(frozen=True)
class Trained:
    """The checkpoint, and held-out nats a code of the demo and of it."""

    checkpoint: Path
    demo_nats: float
    nats: float


@pytest.fixture(scope="module")
def half(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The demo's AiM trained anew on the demo's pictures and tokenizer, from random weights, and not for long."""
    demo, data = load_checkpoint("demo"), DemoData.load(pictures, torch.device("cpu"))
    held_out = data.rows(held_out=True)
    data.labels[held_out[torch.arange(len(held_out)) % 8 > 0]] = demo_data.UNCLASSED  # an eighth is enough to look at
    torch.manual_seed(1)
    aim = AimModel(demo.aim.config)
    train_aim(aim, demo.vq, data, SHORT, evaluate=False)
    folder = tmp_path_factory.mktemp("half")
    weights = {key: value for key, value in read_state_dict(DEMO / "model.safetensors").items() if "vqvae." in key}
    for key, value in aim.state_dict().items():
        if key != "lm_head.weight":  # tied
            weights[f"mamba.{key}"] = value.half().contiguous()
    save_file(weights, folder / "model.safetensors")
    shutil.copy(DEMO / "config.json", folder)
    rows = data.rows(held_out=True)
    labels, codes = data.labels[rows], encode_rows(demo.vq, data, rows)
    nats = [float(cross_entropies(model, labels, codes).mean()) for model in (demo.aim, load_checkpoint(folder).aim)]
    return Trained(folder, *nats)


@pytest.fixture(scope="module")
def images(pictures: Path, half: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: real, training pictures; demo and half, pairs; again, the demo's with another seed."""
    root = tmp_path_factory.mktemp("images")
    data, rng = np.load(pictures), np.random.default_rng(0)
    chosen: list[int] = []
    for label in range(CLASSES):
        rows = np.flatnonzero((data["labels"] == label) & ~data["held_out"])
        weights = data["weights"][rows]
        chosen += rng.choice(rows, REAL_OF_A_CLASS, replace=False, p=weights / weights.sum()).tolist()
    _save(root / "real", data["images"][chosen], [f"{row}.png" for row in chosen])
    for source, sets in (("demo", {"demo": 0, "again": 1}), (half.checkpoint, {"half": 0})):
        bundle = export_bundle(source, root / f"{next(iter(sets))}-bundle", lowering="onnx")
        with Generator.open(bundle, threads=1) as generator:
            for name, seed in sets.items():
                drawn = draw_set(generator, range(CLASSES), COUNT, seed, batch=50)
                _save(root / name, drawn.images, [f"{part}.png" for part in drawn.names])
    return root


def _save(folder: Path, images: np.ndarray, names: Sequence[str]) -> None:
    folder.mkdir()
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image).save(folder / name, compress_level=1)


def _quality(images: Path, b: str, *options: object) -> tuple[int, dict[str, Any]]:
    """Exit status and report of the demo's images against another folder's."""
    report = images / f"{b}.json"
    arguments = ("quality", images / "demo", images / b, *options, "--resamples", 100, "--json", report)
    status = main([str(argument) for argument in arguments])
    return status, json.loads(report.read_text())


def test_it_has_learned_something_and_less_than_the_demo(half: Trained) -> None:
    assert half.demo_nats + 1 < half.nats < math.log(512) - 0.3, half  # of 512 codes, untrained


def test_half_trained_is_worse(images: Path) -> None:
    status, found = _quality(images, "half", "--reference", images / "real")
    assert status == 1 and found["verdict"] == "worse", found
    assert {row["verdict"] for row in found["rows"][:2]} == {"worse"}, found
    assert found["n"] == found["paired"]["pairs"] == COUNT
    for row in found["rows"][:2]:
        assert row["figures"]["A-R"]["high"] < row["figures"]["B-R"]["low"], row


def test_half_trained_agrees_less_with_its_classes(images: Path, half: Trained) -> None:
    """Drawn by the bundles, whose classes are known."""
    report = images / "agreement.json"
    arguments = ["quality", images / "demo-bundle", images / "half-bundle", "--count", 100, "--resamples", 100]
    main([str(argument) for argument in (*arguments, "--batch", 50, "--json", report)])
    rows = {row["name"]: row["figures"] for row in json.loads(report.read_text())["rows"]}
    agreement = rows["vq-class-agreement"]
    assert agreement["A"]["value"] > 0.75 and agreement["B - A"]["high"] < -0.1, agreement
    assert rows["vq-class-score"]["B - A"]["high"] < 0, rows["vq-class-score"]


def test_the_demo_with_another_seed_is_not(images: Path) -> None:
    """With a reference, sets that are no pairs are too few here to call them the same, so: can't tell, and no more."""
    status, found = _quality(images, "again")
    assert status == 0 and found["verdict"] == "same" and found["paired"] is None, found
    status, found = _quality(images, "again", "--reference", images / "real")
    assert found["verdict"] in ("same", "can't tell") and status in (0, 2), found
    for row in found["rows"][:2]:
        assert row["figures"]["difference"]["low"] < 0 < row["figures"]["difference"]["high"], row
