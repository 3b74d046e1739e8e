"""Inception's features and the figures that are defined by them, by torch-fidelity.

torch-fidelity's package imports torchvision as a whole. Its Inception network does not need it, so it is loaded alone
where torchvision is missing or is another PyTorch's; the figures are then computed here, to the same numbers.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import torch

from aim_edge.runtime import BackendMissingError
from aim_edge.runtime.images import Image8

from .quality_features import Features
from .quality_stats import Floats, coverage, frechet_distance, kernel_distance

Progress = Callable[[str, int, int], None]

INCEPTION = "inception"
ENVIRONMENT = "AIM_EDGE_INCEPTION"
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
WEIGHTS_BYTES = 95_628_359
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_BATCH = 32
_LAYERS = ["2048", "logits_unbiased"]
_MODULE = "torch_fidelity.feature_extractor_inceptionv3"
_SUBSETS, _SUBSET, _SPLITS, _SEED = 100, 1000, 10, 2020  # torch-fidelity's defaults
_INSTALL = (
    'the features "inception" need torch-fidelity; pip install "aim-edge[quality]", or, where no torchvision is built '
    "for this PyTorch, pip install --no-deps torch-fidelity; or take the offline features: --features vq"
)
_WHERE = (
    f"download {WEIGHTS_URL} ({WEIGHTS_BYTES:,} bytes, SHA-256 {WEIGHTS_SHA256}) and give --inception FILE or set "
    f"{ENVIRONMENT}, or put it into {{}}; or take the offline features: --features vq"
)


class InceptionFeatures:
    """torch-fidelity's Inception network: the 2048 features and the logits that FID, KID and IS are defined by.

    Args:
        weights: its weight file; None takes the one that AIM_EDGE_INCEPTION names, else PyTorch hub's cached one,
            else torch-fidelity downloads it there.

    Raises:
        BackendMissingError: torch-fidelity cannot be imported, or the weights cannot be fetched.
        FileNotFoundError: the weight file is not there.
        ValueError: it holds something else than Inception's weights.

    Attributes:
        warnings: a sentence where the weights are not the published ones: the figures are then no FID.
    """

    name = INCEPTION

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        network = import_network()
        file = find_weights(weights)
        self.warnings: tuple[str, ...] = ()
        if file is not None:
            _check_weights(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if digest != WEIGHTS_SHA256:
                self.warnings = (
                    f"{file} has SHA-256 {digest}, the published Inception weights have {WEIGHTS_SHA256}: "
                    "these figures are no FID, KID or IS",
                )
        try:
            # Before 0.3 the name was not free; verbose is for the download.
            self._network = network("inception-v3-compat", _LAYERS, None if file is None else str(file), verbose=False)
        except (URLError, OSError) as error:
            raise BackendMissingError(
                f"torch-fidelity could not fetch Inception's weights ({error}); {_WHERE.format(_cache())}"
            ) from error
        except RuntimeError as error:  # names of load_state_dict: hundreds
            raise ValueError(f"{file} does not hold Inception's weights: {str(error)[:200]}") from error

    def __call__(self, images: Image8, progress: Progress | None = None) -> Features:
        """Features (N, 2048) and logits of images (N, H, W, 3) uint8."""
        values, logits = [], []
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH].transpose(0, 3, 1, 2)))
            with torch.inference_mode():
                some, scores = self._network(batch)
            values.append(some.double().numpy())
            logits.append(scores.float().numpy())
            if progress is not None:
                progress("measuring features", min(start + _BATCH, len(images)), len(images))
        return Features(np.concatenate(values), np.concatenate(logits))


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(given: str | os.PathLike[str] | None) -> Path | None:
    """The weight file: the one given, else AIM_EDGE_INCEPTION's, else the cached one; None: not here.

    Raises:
        FileNotFoundError: what is named is no file.
    """
    named = given or os.environ.get(ENVIRONMENT)
    if named:
        if not Path(named).is_file():
            said = "--inception" if given else ENVIRONMENT
            raise FileNotFoundError(f"{said}: {named} is no file; {_WHERE.format(_cache())}")
        return Path(named)
    cached = _cache() / WEIGHTS
    return cached if cached.is_file() else None


def _check_weights(file: Path) -> None:
    """torch-fidelity unpickles anything; only a file of tensors goes that far. Raises ValueError."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} is no weight file of PyTorch ({error}); {_WHERE.format(_cache())}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{file} holds no table of weights; {_WHERE.format(_cache())}")


def import_network() -> Any:
    """torch-fidelity's `FeatureExtractorInceptionV3`, without torchvision if need be.

    Raises:
        BackendMissingError: torch-fidelity is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(_MODULE).FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        first = error
    package = _MODULE.partition(".")[0]
    spec = importlib.util.find_spec(package) if sys.modules.get(package, package) is not None else None
    if spec is None or spec.submodule_search_locations is None:
        raise BackendMissingError(f"{_INSTALL} ({first})") from first
    bare = ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = bare
    try:
        return importlib.import_module(_MODULE).FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        raise BackendMissingError(f"{_INSTALL} ({error})") from first
    finally:  # who imports the package later gets all of it, or its own error
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def fidelity_figures(drawn: Features, base: Features) -> tuple[dict[str, float], str]:
    """FID, KID, IS, precision and recall of `drawn` against `base` by torch-fidelity's definitions and names.

    Args:
        drawn: with logits; IS is of these.
        base: the set that they are compared with.

    Returns:
        The figures, and who computed them: torch-fidelity, or aim-edge where it cannot be imported.

    Raises:
        ValueError: `drawn` has no logits: it is not Inception's.
    """
    if drawn.logits is None:
        raise ValueError("drawn has no logits; expected Inception's features")
    try:
        from torch_fidelity import __version__
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
        from torch_fidelity.metric_isc import isc_features_to_metric
        from torch_fidelity.metric_kid import kid_features_to_metric
        from torch_fidelity.metric_prc import prc_features_to_metric
    except (ImportError, RuntimeError):
        return own_figures(drawn.values, drawn.logits, base.values), "aim-edge; torch-fidelity's own need torchvision"
    one, two = torch.from_numpy(drawn.values), torch.from_numpy(base.values)
    statistics = [fid_features_to_statistics(part) for part in (one, two)]
    found: Mapping[str, Any] = {
        **fid_statistics_to_metric(*statistics, False),
        **kid_features_to_metric(one, two, kid_subset_size=min(_SUBSET, len(one), len(two)), verbose=False),
        **isc_features_to_metric(torch.from_numpy(drawn.logits), splits=min(_SPLITS, len(one))),
        **prc_features_to_metric(one, two, verbose=False),
    }
    return {name: float(value) for name, value in found.items()}, f"torch-fidelity {__version__}"


def own_figures(drawn: Floats, logits: Any, base: Floats) -> dict[str, float]:
    """The same numbers without torch-fidelity: its estimators, random subsets and order included.

    Args:
        drawn: (N, F) features.
        logits: (N, classes).
        base: (M, F) features.
    """
    rng, size = np.random.RandomState(_SEED), min(_SUBSET, len(drawn), len(base))
    kernel = np.empty(_SUBSETS)
    for i in range(_SUBSETS):
        one, two = (rng.choice(len(rows), size, replace=False) for rows in (drawn, base))
        kernel[i] = kernel_distance(drawn[one], base[two])
    order = np.random.RandomState(_SEED).permutation(len(logits))
    scores = [_score(part) for part in _split(np.asarray(logits, np.float64)[order], min(_SPLITS, len(logits)))]
    near = coverage(drawn, base)
    return {
        "frechet_inception_distance": frechet_distance(drawn, base),
        "kernel_inception_distance_mean": float(kernel.mean()),
        "kernel_inception_distance_std": float(kernel.std()),
        "inception_score_mean": float(np.mean(scores)),
        "inception_score_std": float(np.std(scores)),
        "precision": near.precision,
        "recall": near.recall,
        "f_score": 2 * near.precision * near.recall / max(1e-5, near.precision + near.recall),
    }


def _split(rows: Floats, parts: int) -> list[Floats]:
    ends = [i * len(rows) // parts for i in range(parts + 1)]
    return [rows[start:end] for start, end in itertools.pairwise(ends)]


def _score(logits: Floats) -> float:
    from .quality_classes import class_score

    return class_score(logits)
