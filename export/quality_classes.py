"""What images show: a small classifier that ships with the demo, and figures of one image each, with intervals."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aim_edge.aim.checkpoint import DEMO

from .quality import Figure, QualityReport, Row, Settings
from .quality_stats import Floats, check_features

FILE = DEMO / "classifier.npz"
_LEVEL = 0.05
_PENALTY = 1e-3  # of the squared weights; the best of five by cross-entropy on the held-out pictures


@dataclass(frozen=True)
class Classifier:
    """Softmax regression on the demo tokenizer's 256 features (`VqFeatures`), trained on the demo's pictures.

    Attributes:
        class_names: of the C classes.
        mean, deviation: (256), which features are standardised with.
        weight, bias: (256, C) and (C).
        held_out: share of the held-out pictures that it names rightly, each class counting as much.
    """

    class_names: tuple[str, ...]
    mean: Floats
    deviation: Floats
    weight: Floats
    bias: Floats
    held_out: float

    @classmethod
    def load(cls, path: str | os.PathLike[str] = FILE) -> Classifier:
        """Reads what `save` wrote; the one that ships unless told otherwise."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float64) for name in ("mean", "deviation", "weight", "bias")}
            return cls(tuple(map(str, file["class_names"])), **arrays, held_out=float(file["held_out"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as .npz, 14 kB."""
        arrays = {name: getattr(self, name).astype(np.float32) for name in ("mean", "deviation", "weight", "bias")}
        np.savez(path, class_names=np.array(self.class_names), held_out=self.held_out, **arrays)

    def logits(self, features: Floats) -> Floats:
        """(N, C) of features (N, 256)."""
        return (check_features("features", features) - self.mean) / self.deviation @ self.weight + self.bias

    def agreement(self, logits: Floats, labels: Sequence[str | None]) -> NDArray[np.bool_]:
        """Of each image, whether its class's logit is the largest.

        Raises:
            ValueError: an image has no class, or one that is not the classifier's.
        """
        unknown = sorted({str(label) for label in labels if label not in self.class_names})
        if unknown or len(labels) != len(logits):
            allowed = ", ".join(self.class_names)
            raise ValueError(f"labels hold {unknown[:3]} for {len(logits)} images; expected {allowed}")
        wanted = np.array([self.class_names.index(str(label)) for label in labels])
        found: NDArray[np.bool_] = logits.argmax(1) == wanted
        return found


def mean_row(name: str, a: Floats, b: Floats, *, paired: bool, settings: Settings) -> Row:
    """The means of a number (N) an image, and by how much B's is larger, each with its 95% bootstrap interval."""
    return _resampled(name, (len(a), len(b)), lambda one, two: (float(a[one].mean()), float(b[two].mean())),
                      paired=paired, settings=settings)  # fmt: skip


def score_row(name: str, a: Floats, b: Floats, *, paired: bool, settings: Settings) -> Row:
    """As `mean_row`, of `class_score` of logits (N, C)."""

    def score(one: NDArray[np.int64], two: NDArray[np.int64]) -> tuple[float, float]:
        return class_score(a[one]), class_score(b[two])

    return _resampled(name, (len(a), len(b)), score, paired=paired, settings=settings)


def class_score(logits: Floats) -> float:
    """exp of the mutual information of image and class: 1 (no image tells of a class) up to C; of Inception's, IS.

    Salimans et al. 2016, arXiv 1606.03498, eq. 1, of all images at once.
    """
    x = np.asarray(logits, np.float64)
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    p = np.exp(log_p)
    mean = p.mean(0)
    return float(np.exp((p * log_p).sum(1).mean() - (mean * np.log(np.maximum(mean, 1e-300))).sum()))


def _resampled(
    name: str, sizes: tuple[int, int], measure: Callable[..., tuple[float, float]], *, paired: bool, settings: Settings
) -> Row:
    rng = np.random.default_rng(settings.seed)
    drawn = np.empty((settings.resamples, 3))
    for i in range(settings.resamples):
        one = rng.integers(0, sizes[0], sizes[0])
        first, second = measure(one, one if paired else rng.integers(0, sizes[1], sizes[1]))
        drawn[i] = first, second, second - first
    first, second = measure(np.arange(sizes[0]), np.arange(sizes[1]))
    values = {"A": first, "B": second, "B - A": second - first}
    ends = np.quantile(drawn, (_LEVEL / 2, 1 - _LEVEL / 2), axis=0)
    figures = {
        key: Figure(value, float(low), float(high))
        for (key, value), low, high in zip(values.items(), *ends, strict=True)
    }
    return Row(name, figures)


def add_classes(
    found: QualityReport, a: tuple[Floats, Sequence[str | None]], b: tuple[Floats, Sequence[str | None]],
    classifier: Classifier | None = None,
) -> QualityReport:  # fmt: skip
    """The report with the classifier's rows: vq-class-score, and vq-class-agreement where classes are known.

    Args:
        found: of the same images.
        a, b: features (N, 256) of `VqFeatures`, and each image's class; None: not known.
        classifier: None takes the one that ships.
    """
    classifier = classifier or Classifier.load()
    logits = [classifier.logits(features) for features, _ in (a, b)]
    pairs, settings = found.paired is not None, found.settings
    rows = [score_row("vq-class-score", logits[0], logits[1], paired=pairs, settings=settings)]
    said = []
    try:
        hits = [classifier.agreement(each, labels) for each, (_, labels) in zip(logits, (a, b), strict=True)]
    except ValueError:
        said.append(
            "no class agreement: every image needs one of the demo's classes, from the bundle that draws it or "
            "from aim-edge's marks in its file"
        )
    else:
        one, two = (hit.astype(np.float64) for hit in hits)
        rows.append(mean_row("vq-class-agreement", one, two, paired=pairs, settings=settings))
        said.append(
            f"vq-class-agreement is by a classifier that names {classifier.held_out:.0%} of held-out pictures rightly"
        )
    said.append("vq-class-score is no Inception score")
    return replace(found, rows=(*found.rows, *rows), warnings=(*found.warnings, *said))


def train_classifier(data: str | os.PathLike[str]) -> Classifier:
    """Trains it on what `aim_edge.aim.demo_data` wrote: to the optimum, so that every run gives the same."""
    import torch

    from aim_edge.aim.train_data import DemoData

    from .quality_features import VqFeatures

    pictures = DemoData.load(Path(data), torch.device("cpu"))
    train, held = pictures.rows(held_out=False), pictures.rows(held_out=True)
    extract = VqFeatures()

    def measure(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(extract(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())).values)

    mirrored = train[pictures.flippable[train]]
    rows = torch.cat([train, mirrored])
    x = torch.cat([measure(pictures.images[train]), measure(pictures.images[mirrored].flip(-1))])
    labels, share = pictures.labels[rows], pictures.balanced(rows).double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    x = (x - mean) / deviation
    weight = torch.zeros(x.shape[1], len(pictures.class_names), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(weight.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        each = torch.nn.functional.cross_entropy(x @ weight + bias, labels, reduction="none")
        loss = (each * share).sum() + _PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    arrays = [value.detach().numpy() for value in (mean, deviation, weight, bias)]
    made = Classifier(pictures.class_names, arrays[0], arrays[1], arrays[2], arrays[3], 0.0)
    right = made.logits(measure(pictures.images[held]).numpy()).argmax(1) == pictures.labels[held].numpy()
    return replace(made, held_out=float(right @ pictures.balanced(held).double().numpy()))


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m aim_edge.export.quality_classes DATA.npz OUT.npz`: a minute on a CPU."""
    parser = argparse.ArgumentParser(description="train the classifier of the demo's pictures")
    parser.add_argument("data", type=Path, help="the .npz of aim_edge.aim.demo_data")
    parser.add_argument("out", type=Path, help="the .npz of the classifier")
    given = parser.parse_args(arguments)
    train_classifier(given.data).save(given.out)


if __name__ == "__main__":
    main()
