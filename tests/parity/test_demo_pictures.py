"""The demo's training pictures: two halves of them are the same, and the classifier that ships comes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aim_edge.aim.train_data import DemoData
from aim_edge.cli import main
from aim_edge.export.quality_classes import Classifier
from aim_edge.export.quality_features import VqFeatures
from parity.test_half_trained import pictures  # noqa: F401

COUNT = 400  # a half


@pytest.fixture(scope="module")
def halves(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Folders a and b, of training pictures of a class, parted at random."""
    root = tmp_path_factory.mktemp("halves")
    data = np.load(pictures)
    rows = np.flatnonzero((data["labels"] >= 0) & ~data["held_out"])
    chosen = np.random.default_rng(3).permutation(rows)[: 2 * COUNT]
    images = data["images"]
    for name, part in (("a", chosen[:COUNT]), ("b", chosen[COUNT:])):
        (root / name).mkdir()
        for row in part:
            Image.fromarray(images[row]).save(root / name / f"{row}.png", compress_level=1)
    return root


def test_two_halves_of_the_training_pictures_are_the_same(halves: Path) -> None:
    report = halves / "report.json"
    arguments = ("quality", halves / "a", halves / "b", "--resamples", 100, "--json", report)
    assert main([str(argument) for argument in arguments]) == 0
    found = json.loads(report.read_text())
    assert found["verdict"] == "same" and found["n"] == COUNT
    assert [row["verdict"] for row in found["rows"][:2]] == ["same", "same"]


def test_the_classifier_that_ships_names_held_out_pictures_as_it_says(pictures: Path) -> None:  # noqa: F811
    """To train it again (python -m aim_edge.export.quality_classes) takes a minute, and gives the same."""
    data, classifier = DemoData.load(pictures, torch.device("cpu")), Classifier.load()
    assert classifier.class_names == data.class_names
    rows = data.rows(held_out=True)
    images = np.ascontiguousarray(data.images[rows].permute(0, 2, 3, 1).numpy())
    right = classifier.logits(VqFeatures()(images).values).argmax(1) == data.labels[rows].numpy()
    share = float(right @ data.balanced(rows).double().numpy())
    assert share == pytest.approx(classifier.held_out, abs=0.02) and right.mean() > 0.8
