"""The PyTorch model: step and scan agree, Mamba-1 against its equations, precisions, inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aim_edge.aim import AimConfig, AimModel, decode_logits
from aim_edge.aim import scan as scan_module
from aim_edge.aim.scan import selective_scan, selective_step, ssd_scan, ssd_step

BASE = AimConfig(d_model=48, n_layer=3, vocab_size=64, num_classes=5, num_tokens=16, d_state=32, headdim=16)
VARIANTS: dict[str, dict[str, Any]] = {
    "mamba2": {},
    "mamba1": {"layer": "Mamba1", "d_state": 8},
    "groups": {"ngroups": 3},
    "mlp": {"d_intermediate": 96},
    "adaln_group": {"adaln_group": True, "adaln_num_groups": 2},
    "offset 0": {"decode_position_offset": 0},
    "d_conv 2": {"d_conv": 2},
    "no conv bias": {"conv_bias": False},
    "linear bias": {"bias": True},
}


def make(**changes: Any) -> AimModel:
    """A model whose every weight matters (fresh ones have zero modulation)."""
    torch.manual_seed(0)
    model = AimModel(replace(BASE, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaLN" in name or "embed" in name:
                parameter.normal_(0, 0.3)
    return model


def ids(model: AimModel, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    config = model.config
    return rng.integers(0, config.num_classes, batch), rng.integers(0, config.vocab_size, (batch, config.num_tokens))


@pytest.mark.parametrize("name", VARIANTS)
def test_step_and_scan_agree(name: str) -> None:
    model = make(**VARIANTS[name])
    labels, tokens = ids(model)
    np.testing.assert_allclose(
        decode_logits(model, labels, tokens), decode_logits(model, labels, tokens, via="scan"), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("name", ["mamba2", "mamba1"])
def test_scan_in_pieces_is_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(**VARIANTS[name])
    labels, tokens = ids(model)
    whole = decode_logits(model, labels, tokens, via="scan")
    monkeypatch.setattr(scan_module, "CHUNK", 5)
    np.testing.assert_allclose(decode_logits(model, labels, tokens, via="scan"), whole, rtol=0, atol=2e-5)


def test_recurrences_in_float64() -> None:
    """Long sequences with strong and weak decay, against one step at a time."""
    torch.manual_seed(3)
    rows, length, heads, p, n, groups = 2, 300, 6, 4, 8, 3
    double = {"dtype": torch.float64}
    x, dt = torch.randn(rows, length, heads, p, **double), torch.rand(rows, length, heads, **double) * 2
    b, c = (torch.randn(rows, length, groups, n, **double) for _ in range(2))
    a, d = -torch.rand(heads, **double) * 16, torch.randn(heads, **double)
    state = torch.randn(rows, heads, p, n, **double)
    y, final = ssd_scan(x, dt, a, b, c, d, state)
    for t in range(length):
        expected, state = ssd_step(x[:, t], dt[:, t], a, b[:, t], c[:, t], d, state)
        torch.testing.assert_close(y[:, t], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(final, state, rtol=1e-9, atol=1e-9)
    channels = heads * p
    x1, dt1 = x.flatten(2), torch.rand(rows, length, channels, **double)
    a1, d1 = -torch.rand(channels, n, **double) * 4, torch.randn(channels, **double)
    b1, c1 = b[:, :, 0], c[:, :, 0]
    state1 = torch.randn(rows, channels, n, **double)
    y1, final1 = selective_scan(x1, dt1, a1, b1, c1, d1, state1)
    for t in range(length):
        expected, state1 = selective_step(x1[:, t], dt1[:, t], a1, b1[:, t], c1[:, t], d1, state1)
        torch.testing.assert_close(y1[:, t], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(final1, state1, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = make()
    labels, tokens = ids(model)
    full = decode_logits(model, labels, tokens)
    model.set_precision(dtype)
    mixer = model.backbone.layers[0].mixer
    assert mixer.in_proj.weight.dtype == dtype and mixer.A_log.dtype == torch.float32  # type: ignore[union-attr]
    half = decode_logits(model, labels, tokens)
    cosine = (full * half).sum() / np.linalg.norm(full) / np.linalg.norm(half)
    assert cosine > (0.9999 if dtype == torch.float16 else 0.999)


def test_null_rows_are_the_null_label() -> None:
    model = make()
    labels, tokens = ids(model)
    logits = decode_logits(model, labels, tokens)
    null = decode_logits(model, np.full_like(labels, model.config.num_classes), tokens)
    np.testing.assert_allclose(logits[:, 3:], null[:, :3], rtol=0, atol=1e-5)
    assert np.abs(logits[:, :3] - null[:, :3]).max() > 1e-3


def test_gradients_reach_every_parameter() -> None:
    model = make().train()
    labels, tokens = ids(model)
    logits = model.teacher_forced(torch.from_numpy(labels), torch.from_numpy(tokens))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(tokens).flatten()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize(
    ("labels", "tokens", "error", "words"),
    [
        ([6], [[0]], ValueError, "labels holds 6; allowed: 0..5"),
        ([-1], [[0]], ValueError, "labels holds -1"),
        ([0], [[64]], ValueError, "tokens holds 64; allowed: 0..63"),
        ([0], [[0] * 17], ValueError, "17 columns; allowed: 1..16"),
        ([0], [[]], ValueError, "0 columns"),
        ([0, 1], [[0]], ValueError, "tokens has shape"),
        ([0.5], [[0]], TypeError, "expected integers"),
    ],
)
def test_bad_input(labels: list[Any], tokens: list[Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace(".", r"\.")):
        decode_logits(make(), labels, np.asarray(tokens, dtype=None if tokens[0] else np.int64))


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match="via is 'both'"):
        decode_logits(make(), [0], [[0]], via="both")
    with pytest.raises(ValueError, match=r"dtype is torch\.int8"):
        make().set_precision(torch.int8)
