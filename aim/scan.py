"""The recurrences in plain PyTorch: causal convolution and selective scan, parallel over the sequence.

All arithmetic is in the dtype of the given tensors for the convolution and in float32 (or float64) for the
scan. Letters: R rows, L length, H nheads, P headdim, N d_state, G ngroups, C channels, K d_conv.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 256  # longest piece handled in one quadratic block; the state carries over between pieces


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution with SiLU.

    Args:
        x: (R, L, C).
        weight: (C, K); the last tap meets the current position.
        bias: (C) or None.
        state: (R, C, K - 1), the K - 1 inputs before x, oldest first.

    Returns:
        y (R, L, C) in x's dtype, and the state after x, in `state`'s dtype.
    """
    window = torch.cat([state.to(x.dtype), x.transpose(1, 2)], dim=2)
    y = F.conv1d(window, weight.unsqueeze(1), bias, groups=weight.shape[0])
    return F.silu(y).transpose(1, 2), window[:, :, x.shape[1] :].to(state.dtype)


def _per_head(x: Tensor, nheads: int) -> Tensor:
    """(R, L, G, N) -> (R, L, H, N): each group serves nheads / G heads in a row."""
    return x.repeat_interleave(nheads // x.shape[2], dim=2)


def ssd_step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of Mamba-2: S = exp(dt a) S + dt x B^T, y = S C + D x (arXiv 2405.21060, eq. 2 with scalar A).

    Args:
        x: (R, H, P). dt: (R, H), after softplus. a: (H), negative. b, c: (R, G, N). d: (H).
        state: (R, H, P, N).

    Returns:
        y (R, H, P) and the new state, both in the state's dtype promoted with x's.
    """
    heads = x.shape[1]
    b, c = (v.repeat_interleave(heads // v.shape[1], dim=1) for v in (b, c))
    state = torch.exp(dt * a)[..., None, None] * state + (dt[..., None] * x)[..., None] * b[:, :, None, :]
    return (state @ c[..., None]).squeeze(-1) + d[:, None] * x, state


def ssd_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Mamba-2 over a sequence, in the quadratic (attention-like) form per chunk (arXiv 2405.21060, sec. 6).

    Args:
        x: (R, L, H, P). dt: (R, L, H), after softplus. a: (H). b, c: (R, L, G, N). d: (H).
        state: (R, H, P, N), before the sequence.

    Returns:
        y (R, L, H, P) and the state after the sequence.
    """
    ys = []
    for lo in range(0, x.shape[1], CHUNK):
        piece = slice(lo, lo + CHUNK)
        y, state = _ssd_chunk(x[:, piece], dt[:, piece], a, b[:, piece], c[:, piece], state)
        ys.append(y)
    return torch.cat(ys, dim=1) + d[:, None] * x, state


def _ssd_chunk(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    length, heads = x.shape[1], x.shape[2]
    log_decay = torch.cumsum((dt * a).transpose(1, 2), dim=2)  # (R, H, L): sum of logs, so that no ratio overflows
    between = log_decay[..., :, None] - log_decay[..., None, :]  # (R, H, i, j): decay from j to i
    future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    decay = torch.exp(between.masked_fill(future, -torch.inf))
    scores = torch.einsum("rign,rjgn->rgij", c, b).repeat_interleave(heads // b.shape[2], dim=1) * decay
    dtx = dt[..., None] * x
    y = torch.einsum("rhij,rjhp->rihp", scores, dtx)
    c_heads = _per_head(c, heads) * torch.exp(log_decay).transpose(1, 2)[..., None]
    y = y + torch.einsum("rihn,rhpn->rihp", c_heads, state)
    to_end = torch.exp(log_decay[..., -1:] - log_decay).transpose(1, 2)  # (R, L, H)
    added = torch.einsum("rjhp,rjhn->rhpn", dtx * to_end[..., None], _per_head(b, heads))
    return y, torch.exp(log_decay[..., -1])[..., None, None] * state + added


def selective_step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of Mamba-1 (arXiv 2312.00752, eq. 2 and 4).

    Args:
        x, dt: (R, C), dt after softplus. a: (C, N). b, c: (R, N). d: (C). state: (R, C, N).

    Returns:
        y (R, C) and the new state.
    """
    state = torch.exp(dt[..., None] * a) * state + (dt * x)[..., None] * b[:, None, :]
    return (state @ c[..., None]).squeeze(-1) + d * x, state


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Mamba-1 over a sequence by recursive doubling: log2(L) passes (the scan operator of arXiv 2312.00752, 3.3).

    Args:
        x, dt: (R, L, C), dt after softplus. a: (C, N). b, c: (R, L, N). d: (C). state: (R, C, N).

    Returns:
        y (R, L, C) and the state after the sequence.
    """
    ys = []
    for lo in range(0, x.shape[1], CHUNK):
        piece = slice(lo, lo + CHUNK)
        decay = torch.exp(dt[:, piece, :, None] * a)  # (R, L, C, N)
        value = (dt[:, piece] * x[:, piece])[..., None] * b[:, piece, None, :]
        shift = 1
        while shift < decay.shape[1]:
            value = torch.cat([value[:, :shift], value[:, shift:] + decay[:, shift:] * value[:, :-shift]], dim=1)
            decay = torch.cat([decay[:, :shift], decay[:, shift:] * decay[:, :-shift]], dim=1)
            shift *= 2
        states = value + decay * state[:, None]
        ys.append(torch.einsum("rlcn,rln->rlc", states, c[:, piece]))
        state = states[:, -1]
    return torch.cat(ys, dim=1) + d * x, state
