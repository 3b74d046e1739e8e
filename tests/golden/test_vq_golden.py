"""The VQ tokenizer against what the published code computes (vq_f16.npz)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aim_edge.aim.vq import VqModel
from golden import formula

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(HERE / "vq_f16.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(golden: dict[str, np.ndarray]) -> VqModel:
    keys = json.loads(str(golden["keys"]))
    model = VqModel().eval()
    model.load_published({key: torch.from_numpy(formula.tensor(key, tuple(shape))) for key, shape in keys})
    return model


def test_keys_are_the_published_ones(golden: dict[str, np.ndarray], model: VqModel) -> None:
    published = {key: tuple(shape) for key, shape in json.loads(str(golden["keys"]))}
    del published["vqvae.quantize.codebook_used"]
    assert {"vqvae." + key: tuple(value.shape) for key, value in model.state_dict().items()} == published


def test_decode(golden: dict[str, np.ndarray], model: VqModel) -> None:
    codes = torch.from_numpy(formula.integers("vq/indices", (2, 256), 16384)).view(2, 16, 16)
    with torch.no_grad():
        image = model.decode(codes).numpy()
    assert image.shape == (2, 3, 256, 256)
    np.testing.assert_allclose(image, golden["decoded"].astype(np.float32), rtol=0, atol=5e-3)
    np.testing.assert_allclose(image.mean((2, 3)), golden["decoded_mean"], rtol=0, atol=1e-4)


def test_encode(golden: dict[str, np.ndarray], model: VqModel) -> None:
    image = torch.from_numpy(np.tanh(formula.normal("vq/image", (1, 3, 256, 256))))
    with torch.no_grad():
        features = model.encode_features(image)
        ours = model.quantize.nearest(features).flatten()
        theirs = torch.from_numpy(golden["encoded_ids"]).flatten()
        assert torch.equal(model.encode(image).flatten(), ours)
        # Where the ids differ, the two codes must be all but equally far away.
        unit = F.normalize(features, dim=1).flatten(2)[0].t()
        book = model.quantize.unit()
        distance = [(unit - book[ids]).square().sum(-1) for ids in (ours, theirs)]
    assert ours.dtype == torch.int64
    assert (ours != theirs).float().mean() <= 0.02
    np.testing.assert_allclose(distance[0].numpy(), distance[1].numpy(), rtol=0, atol=1e-4)
