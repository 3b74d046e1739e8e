"""Mamba-2 and Mamba-1 mixers with the published parameter names, for one step and for a sequence.

Source: mamba_ssm 2.3.2, modules/mamba2.py and modules/mamba_simple.py (equations and parameter names).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import AimConfig
from .scan import causal_conv, selective_scan, selective_step, ssd_scan, ssd_step


class LayerState(NamedTuple):
    """One layer's recurrent state: conv (rows, conv_dim, d_conv - 1), ssm (rows, nheads, headdim, d_state)."""

    conv: Tensor
    ssm: Tensor


def core_dtype(x: Tensor) -> torch.dtype:
    """float32 for the scan and the norms, or float64 when the model itself is float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _initial_dt_bias(count: int) -> Tensor:
    """Inverse softplus of step sizes drawn log-uniformly from 0.001 to 0.1, as mamba_ssm initialises them."""
    dt = torch.exp(torch.rand(count) * math.log(100.0) + math.log(0.001)).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


class RmsNorm(nn.Module):
    """x / rms(x) * weight over the last axis (or over each of `groups` parts of it), summed in float32."""

    def __init__(self, size: int, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) in any float dtype -> the same shape in float32 (float64 for float64)."""
        x = x.to(core_dtype(x))
        parts = x.unflatten(-1, (self.groups, -1))
        scale = torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)
        normed: Tensor = (parts * scale).flatten(-2) * self.weight.to(x.dtype)
        return normed


class Mixer(nn.Module):
    """What the two mixers share: the input and output projections and the convolution."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.config = config
        self.in_proj = nn.Linear(config.d_model, config.d_in_proj, bias=config.bias)
        self.conv1d = nn.Conv1d(
            config.conv_dim, config.conv_dim, config.d_conv, groups=config.conv_dim, bias=config.conv_bias
        )
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=config.bias)

    def _conv(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, state)


class Mamba2Mixer(Mixer):
    """Mamba-2 (arXiv 2405.21060): scalar decay a head, gated RMSNorm before the output projection."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__(config)
        self.dt_bias = nn.Parameter(_initial_dt_bias(config.nheads))
        self.A_log = nn.Parameter(torch.log(torch.empty(config.nheads).uniform_(1.0, 16.0)))
        self.D = nn.Parameter(torch.ones(config.nheads))
        # mamba_ssm fixes this eps at 1e-5, whatever the block norms use.
        self.norm = RmsNorm(config.d_inner, 1e-5, groups=config.ngroups)

    def forward(self, u: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """u (rows, L, d_model) -> the same shape, and the state after it. L = 1 takes the recurrent path."""
        config = self.config
        z, xbc, dt = self.in_proj(u).split([config.d_inner, config.conv_dim, config.nheads], dim=-1)
        xbc, conv_state = self._conv(xbc, state.conv)
        core = core_dtype(u)
        dt = F.softplus(dt.to(core) + self.dt_bias.to(core))
        a = -torch.exp(self.A_log.to(core))
        groups = config.ngroups * config.d_state
        x, b, c = xbc.to(core).split([config.d_inner, groups, groups], dim=-1)
        x = x.unflatten(-1, (config.nheads, config.headdim))
        b, c = (v.unflatten(-1, (config.ngroups, config.d_state)) for v in (b, c))
        ssm_in, d = state.ssm.to(core), self.D.to(core)
        if u.shape[1] == 1:
            y, ssm = ssd_step(x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], d, ssm_in)
            y = y.unsqueeze(1)
        else:
            y, ssm = ssd_scan(x, dt, a, b, c, d, ssm_in)
        y = self.norm(y.flatten(-2) * F.silu(z.to(core)))
        return self.out_proj(y.to(u.dtype)), LayerState(conv_state, ssm.to(state.ssm.dtype))


class Mamba1Mixer(Mixer):
    """Mamba-1 (arXiv 2312.00752): a decay for each channel and state."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__(config)
        rank = config.dt_rank_size
        self.x_proj = nn.Linear(config.d_inner, rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(rank, config.d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(_initial_dt_bias(config.d_inner))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, config.d_state + 1)).repeat(config.d_inner, 1))
        self.D = nn.Parameter(torch.ones(config.d_inner))

    def forward(self, u: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """u (rows, L, d_model) -> the same shape, and the state after it; the state's headdim is 1."""
        config = self.config
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, conv_state = self._conv(x, state.conv)
        rank, n = config.dt_rank_size, config.d_state
        dt, b, c = self.x_proj(x).split([rank, n, n], dim=-1)
        core = core_dtype(u)
        dt = F.linear(dt, self.dt_proj.weight).to(core)
        dt = F.softplus(dt + self.dt_proj.bias.to(core))
        a, d = -torch.exp(self.A_log.to(core)), self.D.to(core)
        x, b, c = x.to(core), b.to(core), c.to(core)
        ssm_in = state.ssm.squeeze(2).to(core)
        if u.shape[1] == 1:
            y, ssm = selective_step(x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], d, ssm_in)
            y = y.unsqueeze(1)
        else:
            y, ssm = selective_scan(x, dt, a, b, c, d, ssm_in)
        y = (y * F.silu(z.to(core))).to(u.dtype)
        return self.out_proj(y), LayerState(conv_state, ssm.unsqueeze(2).to(state.ssm.dtype))


MIXER_CLASSES: dict[str, type[Mamba1Mixer] | type[Mamba2Mixer]] = {"Mamba1": Mamba1Mixer, "Mamba2": Mamba2Mixer}
