"""The mixers between their projections as ONNX nodes: what all lowerings share, and the primitive one.

Every function works on both graphs: `step` (x has no length axis) and `scan` (x is (rows, L, ...)).
Letters: R rows, L length, H nheads, P headdim, N d_state, G ngroups, C conv_dim, K d_conv.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from aim_edge.aim.config import AimConfig

from .builder import GraphBuilder
from .weights import Weights

MAX_SCAN = 256  # positions of one scan call; the runtime splits longer prefixes


Pair = tuple[ir.Value, ir.Value]
Triple = tuple[ir.Value, ir.Value, ir.Value]


@dataclass(frozen=True)
class Recurrence:
    """What lies between in_proj and out_proj, in one lowering.

    The two public methods take and give states in `state_dtype` and activations in the graph's precision. They
    are written once, over `conv`, `mamba2` and `mamba1`, which a lowering provides.

    Attributes:
        builder: the graph.
        weights: the model's weights.
        config: sizes.
        sequence: the scan graph (True) or the step graph.
        state_dtype: of the states at the graph's edge.
        functions: bodies of operators of our own, by name; empty but in the plugin lowerings.
    """

    builder: GraphBuilder
    weights: Weights
    config: AimConfig
    sequence: bool
    state_dtype: str

    functions: dict[str, ir.Function] = field(default_factory=dict)

    transposed_state: ClassVar[bool] = False

    def linear(self, x: ir.Value, prefix: str) -> ir.Value:
        """x @ W^T (+ bias) of a mixer's projection."""
        return self.weights.linear(x, prefix)

    def mamba2_inner(self, zxbcdt: ir.Value, prefix: str, conv_state: ir.Value, ssm_state: ir.Value) -> Triple:
        """(R, [L,] d_in_proj) -> the gated, normed (R, [L,] d_inner), and the new states."""
        g, w, config = self.builder, self.weights, self.config
        z, xbc, dt = g.split(zxbcdt, [config.d_inner, config.conv_dim, config.nheads])
        xbc, conv_state = self._conv(xbc, prefix, conv_state)
        groups = config.ngroups * config.d_state
        x, b, c = g.split(g.core(xbc), [config.d_inner, groups, groups])
        dt = g.op("Softplus", g.op("Add", g.core(dt), w.full(f"{prefix}.dt_bias")))
        ssm = g.convert(ssm_state, self.state_dtype, "float32")
        y, ssm = self.mamba2(x, dt, w.decay(f"{prefix}.A_log"), b, c, ssm)
        y = g.op("Add", y, self.skip(x, w.full(f"{prefix}.D", (config.nheads, 1))))
        y = self.gated_norm(y, g.core(z), w.full(f"{prefix}.norm.weight"))
        return g.act(y), conv_state, g.convert(ssm, "float32", self.state_dtype)

    def mamba1_inner(self, xz: ir.Value, prefix: str, conv_state: ir.Value, ssm_state: ir.Value) -> Triple:
        """(R, [L,] 2 d_inner) -> the gated (R, [L,] d_inner), and the new states."""
        g, w, config = self.builder, self.weights, self.config
        x, z = g.split(xz, [config.d_inner] * 2)
        x, conv_state = self._conv(x, prefix, conv_state)
        dt, b, c = self.mamba1_projections(x, prefix)
        dt = g.op("Softplus", g.op("Add", g.core(dt), w.full(f"{prefix}.dt_proj.bias")))
        x = g.core(x)
        ssm = g.convert(ssm_state, self.state_dtype, "float32")
        y, ssm = self.mamba1(x, dt, w.decay(f"{prefix}.A_log"), g.core(b), g.core(c), ssm)
        y = g.op("Add", y, g.op("Mul", x, w.full(f"{prefix}.D")))
        y = g.op("Mul", y, g.silu(g.core(z)))
        return g.act(y), conv_state, g.convert(ssm, "float32", self.state_dtype)

    def mamba1_projections(self, x: ir.Value, prefix: str) -> Triple:
        """dt (R, [L,] d_inner) without its bias, B and C (R, [L,] N), in the graph's precision."""
        g, w, config = self.builder, self.weights, self.config
        n = config.d_state
        dt, b, c = g.split(w.linear(x, f"{prefix}.x_proj"), [config.dt_rank_size, n, n])
        return g.op("MatMul", dt, w.matrix(f"{prefix}.dt_proj.weight")), b, c

    def skip(self, x: ir.Value, d: ir.Value) -> ir.Value:
        """D x: x (R, [L,] d_inner), d (H, 1) -> like x."""
        lead = (0, 0) if self.sequence else (0,)
        heads = self.builder.reshape(x, *lead, self.config.nheads, self.config.headdim)
        return self.builder.reshape(self.builder.op("Mul", heads, d), *lead, self.config.d_inner)

    def gated_norm(self, y: ir.Value, z: ir.Value, weight: ir.Value) -> ir.Value:
        """RMSNorm over each group of y silu(z), float32; mamba_ssm fixes its eps at 1e-5."""
        g, config = self.builder, self.config
        y = g.op("Mul", y, g.silu(z))
        if config.ngroups == 1:
            return g.rms_norm(y, weight, 1e-5)
        lead = (0, 0) if self.sequence else (0,)
        parts = g.reshape(y, *lead, config.ngroups, config.d_inner // config.ngroups)
        return g.op("Mul", g.reshape(g.rms_norm(parts, None, 1e-5), *lead, config.d_inner), weight)

    def _conv(self, x: ir.Value, prefix: str, state: ir.Value) -> Pair:
        g, w = self.builder, self.weights
        bias = w.stored(f"{prefix}.conv1d.bias") if w.has(f"{prefix}.conv1d.bias") else None
        state = g.convert(state, self.state_dtype, g.precision)
        y, state = self.conv(x, w.stored(f"{prefix}.conv1d.weight"), bias, state)
        return y, g.convert(state, g.precision, self.state_dtype)

    def conv(self, x: ir.Value, weight: ir.Value, bias: ir.Value | None, state: ir.Value) -> Pair:
        """Causal convolution with SiLU: x (R, [L,] C), weight (C, 1, K), state (R, C, K - 1) -> y, new state."""
        raise TypeError(f"{type(self).__name__} has no conv")

    def mamba2(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        """x (R, [L,] d_inner), dt (R, [L,] H), a (H), b and c (R, [L,] G N), float32 -> y like x (no D), new state."""
        raise TypeError(f"{type(self).__name__} has no mamba2")

    def mamba1(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        """x, dt (R, [L,] d_inner), a (d_inner, N), b and c (R, [L,] N), float32 -> y like x (no D), new state."""
        raise TypeError(f"{type(self).__name__} has no mamba1")


class Primitive(Recurrence):
    """Standard operators of opset 17 only."""

    def conv(
        self, x: ir.Value, weight: ir.Value, bias: ir.Value | None, state: ir.Value
    ) -> Pair:
        g, k = self.builder, self.config.d_conv
        if self.sequence:
            window = g.op("Concat", state, g.transpose(x, 0, 2, 1), axis=2)
            y = g.transpose(g.op("Conv", window, weight, bias, group=self.config.conv_dim), 0, 2, 1)
            return g.silu(y), g.slice(window, -(k - 1), np.iinfo(np.int64).max, 2)
        window = g.op("Concat", state, g.unsqueeze(x, 2), axis=2)
        # K products and a sum: a one-position Conv has poor kernels everywhere.
        taps = g.reshape(weight, -1, k)
        y = g.op("ReduceSum", g.op("Mul", window, taps), g.ints(2), keepdims=0)
        if bias is not None:
            y = g.op("Add", y, bias)
        return g.silu(y), g.slice(window, 1, k, 2)

    def mamba2(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        return self._mamba2_scan(x, dt, a, b, c, state) if self.sequence else self._mamba2_step(x, dt, a, b, c, state)

    def _mamba2_step(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        g, config = self.builder, self.config
        n, groups = config.d_state, config.ngroups
        decay = g.unsqueeze(g.op("Exp", g.op("Mul", dt, a)), 2, 3)  # (R, H, 1, 1)
        dtx = g.op("Mul", g.reshape(x, 0, config.nheads, config.headdim, 1), g.unsqueeze(dt, 2, 3))
        b_heads = self._per_head(g.reshape(b, 0, groups, 1, n))
        c_heads = self._per_head(g.reshape(c, 0, groups, n, 1))
        state = g.op("Add", g.op("Mul", state, decay), g.op("Mul", dtx, b_heads))
        return g.reshape(g.op("MatMul", state, c_heads), 0, config.d_inner), state

    def _mamba2_scan(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        """The quadratic form over the whole call (arXiv 2405.21060, sec. 6), decays from sums of logarithms."""
        g, config = self.builder, self.config
        heads, n, groups = config.nheads, config.d_state, config.ngroups
        past = self._lower_triangle(dt)  # (L, L) bool: j <= i
        # A product with ones instead of CumSum, which TensorRT 8 runs as a loop.
        sums = g.op("MatMul", g.cast(past, "float32"), g.op("Mul", dt, a))  # (R, L, H)
        sums = g.transpose(sums, 0, 2, 1)
        between = g.op("Sub", g.unsqueeze(sums, 3), g.unsqueeze(sums, 2))  # (R, H, i, j)
        decay = g.op("Exp", g.op("Where", past, between, g.const(-1e9, "float32")))
        c_rows = g.transpose(g.reshape(c, 0, 0, groups, n), 0, 2, 1, 3)  # (R, G, L, N)
        b_rows = g.transpose(g.reshape(b, 0, 0, groups, n), 0, 2, 1, 3)
        scores = self._per_head(g.op("MatMul", c_rows, g.transpose(b_rows, 0, 1, 3, 2)))
        dtx = g.op("Mul", g.reshape(x, 0, 0, heads, config.headdim), g.unsqueeze(dt, 3))
        dtx = g.transpose(dtx, 0, 2, 1, 3)  # (R, H, L, P)
        y = g.op("MatMul", g.op("Mul", scores, decay), dtx)
        c_decayed = g.op("Mul", self._per_head(c_rows), g.unsqueeze(g.op("Exp", sums), 3))
        y = g.op("Add", y, g.op("MatMul", c_decayed, g.transpose(state, 0, 1, 3, 2)))
        last = g.slice(sums, -1, np.iinfo(np.int64).max, 2)  # (R, H, 1)
        b_decayed = g.op("Mul", self._per_head(b_rows), g.unsqueeze(g.op("Exp", g.op("Sub", last, sums)), 3))
        added = g.op("MatMul", g.transpose(dtx, 0, 1, 3, 2), b_decayed)
        state = g.op("Add", g.op("Mul", state, g.unsqueeze(g.op("Exp", last), 3)), added)
        return g.reshape(g.transpose(y, 0, 2, 1, 3), 0, 0, config.d_inner), state

    def mamba1(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        g, n = self.builder, self.config.d_state
        axis = 2 if self.sequence else 1  # of the channels in x
        decay = g.op("Exp", g.op("Mul", g.unsqueeze(dt, axis + 1), a))  # (R, [L,] C, N)
        added = g.op("Mul", g.unsqueeze(g.op("Mul", dt, x), axis + 1), g.unsqueeze(b, axis))
        before = g.squeeze(state, 2)  # (R, C, N): the canonical state's headdim is 1
        if not self.sequence:
            after = g.op("Add", g.op("Mul", before, decay), added)
            y = g.reshape(g.op("MatMul", after, g.reshape(c, 0, n, 1)), 0, self.config.d_inner)
            return y, g.unsqueeze(after, 2)
        end = np.iinfo(np.int64).max
        shift = 1
        while shift < MAX_SCAN:  # recursive doubling, as aim/scan.py; slices past the end are empty
            early, late = g.slice(added, 0, shift, 1), g.slice(added, shift, end, 1)
            decay_early, decay_late = g.slice(decay, 0, shift, 1), g.slice(decay, shift, end, 1)
            late = g.op("Add", late, g.op("Mul", decay_late, g.slice(added, 0, -shift, 1)))
            decay_late = g.op("Mul", decay_late, g.slice(decay, 0, -shift, 1))
            added = g.op("Concat", early, late, axis=1)
            decay = g.op("Concat", decay_early, decay_late, axis=1)
            shift *= 2
        states = g.op("Add", added, g.op("Mul", decay, g.unsqueeze(before, 1)))  # (R, L, C, N)
        y = g.squeeze(g.op("MatMul", states, g.unsqueeze(c, 3)), 3)
        return y, g.transpose(g.slice(states, -1, end, 1), 0, 2, 1, 3)

    def _per_head(self, x: ir.Value) -> ir.Value:
        """(R, G, ...) -> (R, H, ...), or (R, 1, ...), which broadcasts, when there is one group."""
        config = self.config
        if config.ngroups == 1:
            return x
        index = np.repeat(np.arange(config.ngroups, dtype=np.int64), config.nheads // config.ngroups)
        return self.builder.op("Gather", x, self.builder.const(index), axis=1)

    def _lower_triangle(self, x: ir.Value) -> ir.Value:
        """(L, L) bool, True where column <= row, for x (R, L, ...)."""
        g = self.builder
        length = g.op("Gather", g.op("Shape", x), g.const(1, "int64"), axis=0)
        index = g.cast(g.op("Range", g.const(0, "int64"), length, g.const(1, "int64")), "float32")
        return g.op("GreaterOrEqual", g.unsqueeze(index, 1), g.unsqueeze(index, 0))
