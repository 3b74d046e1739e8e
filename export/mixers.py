"""The mixers' recurrences as ONNX nodes, in each lowering.

Every function works on both graphs: `step` (x has no length axis) and `scan` (x is (rows, L, ...)). What goes
in and out is float32 but for the convolution, which is in the graph's precision.
Letters: R rows, L length, H nheads, P headdim, N d_state, G ngroups, C conv_dim, K d_conv.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from aim_edge.aim.config import AimConfig

from .builder import GraphBuilder

MAX_SCAN = 256  # positions of one scan call; the runtime splits longer prefixes


@dataclass(frozen=True)
class Recurrence:
    """What one lowering needs to know.

    Attributes:
        builder: the graph.
        config: sizes.
        sequence: the scan graph (True) or the step graph.
    """

    builder: GraphBuilder
    config: AimConfig
    sequence: bool

    transposed_state = False

    def conv(
        self, x: ir.Value, weight: ir.Value, bias: ir.Value | None, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """Causal convolution with SiLU: x (R, [L,] C), weight (C, 1, K), state (R, C, K - 1) -> y, new state."""
        raise TypeError(f"{type(self).__name__} has no conv")

    def mamba2(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """x (R, [L,] d_inner), dt (R, [L,] H), a (H), b and c (R, [L,] G N) -> y like x (without D), new state."""
        raise TypeError(f"{type(self).__name__} has no mamba2")

    def mamba1(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """x, dt (R, [L,] d_inner), a (d_inner, N), b and c (R, [L,] N) -> y like x (without D), new state."""
        raise TypeError(f"{type(self).__name__} has no mamba1")


class Primitive(Recurrence):
    """Standard operators of opset 17 only."""

    def conv(
        self, x: ir.Value, weight: ir.Value, bias: ir.Value | None, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
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
    ) -> tuple[ir.Value, ir.Value]:
        return self._mamba2_scan(x, dt, a, b, c, state) if self.sequence else self._mamba2_step(x, dt, a, b, c, state)

    def _mamba2_step(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
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
    ) -> tuple[ir.Value, ir.Value]:
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
    ) -> tuple[ir.Value, ir.Value]:
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


class Standard(Recurrence):
    """ai.onnx opset 27: LinearAttention and CausalConvWithState (the state is (rows, nheads, N, P))."""

    transposed_state = True
    domain = ""
    shares_groups = False  # the standard wants a key and a query for every head

    def conv(
        self, x: ir.Value, weight: ir.Value, bias: ir.Value | None, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        g = self.builder
        columns = g.transpose(x, 0, 2, 1) if self.sequence else g.unsqueeze(x, 2)
        y, state = g.ops(
            "CausalConvWithState", columns, weight, bias, state, outputs=2, domain=self.domain, activation="silu"
        )
        return g.transpose(y, 0, 2, 1) if self.sequence else g.squeeze(y, 2), state

    def mamba2(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        g, config = self.builder, self.config
        heads = self.builder.reshape(x, 0, 0, config.nheads, config.headdim) if self.sequence else g.reshape(
            x, 0, 1, config.nheads, config.headdim
        )
        if not self.sequence:
            dt, b, c = (g.unsqueeze(v, 1) for v in (dt, b, c))
        value = g.reshape(g.op("Mul", heads, g.unsqueeze(dt, 3)), 0, 0, config.d_inner)
        return self._attention(value, g.op("Mul", dt, a), b, c, state, config.ngroups)

    def mamba1(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """One head a channel: headdim 1, and a decay for each of the head's N states."""
        g, config = self.builder, self.config
        if not self.sequence:
            x, dt, b, c = (g.unsqueeze(v, 1) for v in (x, dt, b, c))
        decay = g.reshape(g.op("Mul", g.unsqueeze(dt, 3), a), 0, 0, config.d_inner * config.d_state)
        return self._attention(g.op("Mul", dt, x), decay, b, c, state, 1)

    def _attention(
        self, value: ir.Value, decay: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value, groups: int
    ) -> tuple[ir.Value, ir.Value]:
        g, heads = self.builder, self.config.nheads
        if not (self.shares_groups and groups == 1):
            b, c = self._expand(b, groups), self._expand(c, groups)
            groups = heads
        y, state = g.ops(
            "LinearAttention",
            c, b, value, state, decay,
            outputs=2, domain=self.domain,
            q_num_heads=groups, kv_num_heads=heads, scale=1.0, update_rule="gated",
        )  # fmt: skip
        return y if self.sequence else g.squeeze(y, 1), state

    def _expand(self, x: ir.Value, groups: int) -> ir.Value:
        """(R, L, G N) -> (R, L, H N)."""
        g, config = self.builder, self.config
        index = np.repeat(np.arange(groups, dtype=np.int64), config.nheads // groups)
        x = g.op("Gather", g.reshape(x, 0, 0, groups, config.d_state), g.const(index), axis=2)
        return g.reshape(x, 0, 0, config.nheads * config.d_state)


class OrtContrib(Standard):
    """The same as com.microsoft operators: ONNX Runtime has kernels for these (a shared B and C stay shared)."""

    domain = "com.microsoft"
    shares_groups = True


@dataclass(frozen=True)
class Lowering:
    """A lowering's class and the version of the standard operators around it."""

    recurrence: type[Recurrence]
    opset: int


LOWERINGS: dict[str, Lowering] = {
    "primitive": Lowering(Primitive, 17),
    "onnx": Lowering(OrtContrib, 17),
    "onnx-opset27": Lowering(Standard, 27),
}
