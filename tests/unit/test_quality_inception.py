"""Inception's figures: the adapter with a stand-in for torch-fidelity, and with the package where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from needs import missing
from test_quality import pictures, save

from aim_edge.export.quality_features import Features
from aim_edge.export.quality_inception import (
    ENVIRONMENT,
    WEIGHTS,
    WEIGHTS_SHA256,
    InceptionFeatures,
    fidelity_figures,
    import_network,
    own_figures,
)
from aim_edge.runtime import BackendMissingError

Run = Callable[..., tuple[int, str, str]]
STAND_IN = """
import torch

class FeatureExtractorInceptionV3(torch.nn.Module):
    def __init__(self, name, features_list, feature_extractor_weights_path=None, **kwargs):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.weight = torch.nn.Parameter(torch.zeros(3 * 16, 12))
        if feature_extractor_weights_path is None:
            raise __import__("urllib.error").error.URLError("no network")
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        pooled = torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 4).flatten(1)
        features = pooled @ self.weight
        return features, features[:, :5]
"""


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose network alone can be imported, as torch-fidelity's without torchvision, and its weight file."""
    package = tmp_path / "site" / "torch_fidelity"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import a_torchvision_that_is_missing\n")
    (package / "feature_extractor_inceptionv3.py").write_text(STAND_IN)
    forget(monkeypatch)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save({"weight": torch.randn(48, 12)}, weights)
    return weights


def test_the_network_is_loaded_without_torchvision(stand_in: Path) -> None:
    extract = InceptionFeatures(stand_in)
    found = extract(pictures(5, 0))
    assert found.values.shape == (5, 12) and found.values.dtype == np.float64
    assert found.logits is not None and found.logits.shape == (5, 5)
    assert len(extract.warnings) == 1 and WEIGHTS_SHA256 in extract.warnings[0] and "no FID" in extract.warnings[0]
    assert not any(name.startswith("torch_fidelity") for name in sys.modules)  # half a package is left to nobody
    with pytest.raises(ImportError, match="a_torchvision_that_is_missing"):
        importlib.import_module("torch_fidelity")


def test_the_command_line_gives_the_figures(stand_in: Path, tmp_path: Path, run: Run) -> None:
    a, b = save(tmp_path / "a", pictures(110, 0), "a"), save(tmp_path / "b", pictures(110, 1), "b")
    report = tmp_path / "report.json"
    arguments = ("quality", a, b, "--features", "inception", "--resamples", 40, "--json", report)
    status, out, err = run(*arguments, "--inception", stand_in)
    assert status == 0 and "B against A: same" in out and "frechet_inception_distance" in out, err
    assert "by aim-edge; torch-fidelity's own need torchvision" in out
    assert "these figures are no FID" in " ".join(err.split())
    found = json.loads(report.read_text())
    figures = found["torch_fidelity"]["B-A"]
    assert set(figures) == {
        "frechet_inception_distance", "kernel_inception_distance_mean", "kernel_inception_distance_std",
        "inception_score_mean", "inception_score_std", "precision", "recall", "f_score",
    }  # fmt: skip
    names = [row["name"] for row in found["rows"]]
    assert names == ["inception-kernel", "inception-precision", "inception-recall", "inception-score"]
    score = found["rows"][-1]["figures"]["A"]
    assert 1 <= score["low"] <= score["value"] <= score["high"] <= 5


def test_missing_weights_say_where_they_belong_and_what_works_offline(
    stand_in: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = save(tmp_path / "a", pictures(5, 0))
    inception = ("quality", a, a, "--features", "inception")
    nowhere, junk, table = (tmp_path / name for name in ("nowhere.pth", "junk.pth", "table.pth"))
    junk.write_bytes(b"no weights")
    torch.save({"other": torch.zeros(3)}, table)

    def refused(*arguments: object) -> str:
        status, _, err = run(*inception, *arguments)
        assert status == 2 and "Traceback" not in err, err
        return " ".join(err.split())

    said = refused()
    for part in (WEIGHTS, "95,628,359 bytes", WEIGHTS_SHA256, "--inception FILE", "hub/checkpoints", "--features vq"):
        assert part in said, part
    assert "--inception: " in refused("--inception", nowhere) and "is no weight file" in refused("--inception", junk)
    assert "does not hold Inception's weights" in refused("--inception", table)
    monkeypatch.setenv(ENVIRONMENT, str(nowhere))
    assert f"{ENVIRONMENT}: {nowhere} is no file" in refused()
    monkeypatch.setenv(ENVIRONMENT, str(stand_in))
    assert InceptionFeatures().warnings
    monkeypatch.delenv(ENVIRONMENT)
    cached = tmp_path / "hub" / "checkpoints" / WEIGHTS
    cached.parent.mkdir(parents=True)
    cached.write_bytes(stand_in.read_bytes())
    assert InceptionFeatures().warnings


def test_a_pickle_that_runs_code_is_refused(stand_in: Path, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="is no weight file"):
        InceptionFeatures(evil)
    assert not (tmp_path / "ran").exists()


def test_without_torch_fidelity_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(BackendMissingError, match=r'pip install "aim-edge\[quality\]".*--features vq'):
        InceptionFeatures()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """torch-fidelity itself; where no torchvision fits this PyTorch, a stand-in for it: the figures use none of it."""
    if importlib.util.find_spec("torch_fidelity") is None:
        missing("torch-fidelity (pip install --no-deps torch-fidelity tqdm)")
    forget(monkeypatch)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
        made = {name: ModuleType(name) for name in names}
        for name in ("CIFAR10", "STL10", "CIFAR100"):
            setattr(made["torchvision.datasets"], name, type(name, (), {}))
        made["torchvision"].transforms = made["torchvision.transforms"]  # type: ignore[attr-defined]
        made["torchvision.transforms"].functional = made["torchvision.transforms.functional"]  # type: ignore[attr-defined]
        for name, module in made.items():
            monkeypatch.setitem(sys.modules, name, module)
    yield "torch_fidelity"
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        del sys.modules[name]


@pytest.mark.parametrize(("n", "m", "width"), [(80, 90, 5), (1300, 1200, 24), (60, 60, 70)])
def test_the_figures_are_torch_fidelitys_to_a_millionth(package: str, n: int, m: int, width: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, width)), rng.normal(0.2, 1.1, (m, width))
    logits = rng.normal(size=(n, 7)).astype(np.float32) * 2
    theirs, by = fidelity_figures(Features(a, logits), Features(b))
    assert by.startswith("torch-fidelity ")
    assert own_figures(a, logits, b) == pytest.approx(theirs, rel=1e-6)


def test_the_network_itself_on_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the published shapes, saved and loaded as the published file would be, without torchvision."""
    if importlib.util.find_spec("torch_fidelity") is None:
        missing("torch-fidelity (pip install --no-deps torch-fidelity tqdm)")
    forget(monkeypatch)
    network = import_network()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *arguments, **options: {})
        patched.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        plain = network("plain", ["2048"], "nowhere")
    assert sum(value.numel() for name, value in plain.state_dict().items()) == pytest.approx(23.9e6, rel=0.01)
    torch.save(plain.state_dict(), tmp_path / "random.pth")
    found = InceptionFeatures(tmp_path / "random.pth")(pictures(3, 0))
    assert found.values.shape == (3, 2048) and np.isfinite(found.values).all() and found.values.std() > 0
    assert found.logits is not None and found.logits.shape == (3, 1008)
    with torch.inference_mode():
        (expected,) = plain(torch.from_numpy(pictures(3, 0).transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(found.values, expected.double().numpy(), rtol=1e-5)
