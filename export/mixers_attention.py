"""The mixers as LinearAttention and CausalConvWithState, the standard's and ONNX Runtime's own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from .mixers import Pair, Recurrence


class Standard(Recurrence):
    """ai.onnx opset 27: LinearAttention and CausalConvWithState (the state is (rows, nheads, N, P))."""

    transposed_state: ClassVar[bool] = True
    domain: ClassVar[str] = ""
    shares_groups: ClassVar[bool] = False  # the standard wants a key and a query for every head

    def conv(
        self, x: ir.Value, weight: ir.Value, bias: ir.Value | None, state: ir.Value
    ) -> Pair:
        g = self.builder
        columns = g.transpose(x, 0, 2, 1) if self.sequence else g.unsqueeze(x, 2)
        y, state = g.ops(
            "CausalConvWithState", columns, weight, bias, state, outputs=2, domain=self.domain, activation="silu"
        )
        return g.transpose(y, 0, 2, 1) if self.sequence else g.squeeze(y, 2), state

    def mamba2(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        g, config = self.builder, self.config
        heads = g.reshape(x, 0, 0 if self.sequence else 1, config.nheads, config.headdim)
        if not self.sequence:
            dt, b, c = (g.unsqueeze(v, 1) for v in (dt, b, c))
        value = g.reshape(g.op("Mul", heads, g.unsqueeze(dt, 3)), 0, 0, config.d_inner)
        return self._attention(value, g.op("Mul", dt, a), b, c, state, config.ngroups)

    def mamba1(
        self, x: ir.Value, dt: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value
    ) -> Pair:
        """One head a channel: headdim 1, and a decay for each of the head's N states."""
        g, config = self.builder, self.config
        if not self.sequence:
            x, dt, b, c = (g.unsqueeze(v, 1) for v in (x, dt, b, c))
        decay = g.reshape(g.op("Mul", g.unsqueeze(dt, 3), a), 0, 0, config.d_inner * config.d_state)
        return self._attention(g.op("Mul", dt, x), decay, b, c, state, 1)

    def _attention(
        self, value: ir.Value, decay: ir.Value, b: ir.Value, c: ir.Value, state: ir.Value, groups: int
    ) -> Pair:
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

    domain: ClassVar[str] = "com.microsoft"
    shares_groups: ClassVar[bool] = True
