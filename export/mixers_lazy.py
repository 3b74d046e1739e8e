"""The fused mixer with lazily folded states: the operator Mamba2LazyStep in the step graph, a fold ahead of scan's.

What the states mean: `runtime.lazy`. The scan graph folds what history came in and gives an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from aim_edge.runtime.contract import FOLD_EVERY, HISTORY_CAPACITY

from .builder import GraphBuilder
from .mixers import Pair, Primitive
from .mixers_plugin import PluginFused

HISTORY = ("x_history", "B_history", "dt_history", "history_counters")


class PluginLazy(PluginFused):
    """`PluginFused` with a history beside each ssm_state; Mamba-2 only."""

    def lazy_inner(
        self, zxbcdt: ir.Value, prefix: str, conv_state: ir.Value, ssm_state: ir.Value, history: Sequence[ir.Value]
    ) -> tuple[ir.Value, ...]:
        """As `mamba2_inner`, with the history's tensors in the order of `HISTORY`, in and out."""
        g, w, config = self.builder, self.weights, self.config
        if not self.sequence:
            parameters = [w.decay(f"{prefix}.A_log"), w.full(f"{prefix}.D"), w.full(f"{prefix}.dt_bias")]
            return self._call(
                "Mamba2LazyStep",
                zxbcdt, *self._conv_parameters(prefix), *parameters, w.full(f"{prefix}.norm.weight"),
                conv_state, ssm_state, *history,
                outputs=7,
                nheads=config.nheads, headdim=config.headdim, d_state=config.d_state, ngroups=config.ngroups,
                d_conv=config.d_conv, fold_every=FOLD_EVERY, eps=1e-5, has_active=0,
            )  # fmt: skip
        x, b, dt, counters = history
        primitive = Primitive(g, w, config, False, self.state_dtype)
        a = w.decay(f"{prefix}.A_log")
        state, _ = _folded(primitive, g.convert(ssm_state, self.state_dtype, "float32"), x, b, dt, counters, a, None)
        state = g.convert(state, "float32", self.state_dtype)
        out, conv_state, ssm_state = self.mamba2_inner(zxbcdt, prefix, conv_state, state)
        folded = g.op("Add", g.op("Sub", counters, counters), g.const(np.array([0, 1, 0], np.float32)))
        return out, conv_state, ssm_state, x, b, dt, folded

    def _write_body(self, name: str, primitive: Primitive, inputs: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
        if name != "Mamba2LazyStep":
            return super()._write_body(name, primitive, inputs)
        return _lazy_body(primitive, *inputs)


def _folded(
    p: Primitive,
    state: ir.Value,
    x_history: ir.Value,
    b_history: ir.Value,
    dt_history: ir.Value,
    counters: ir.Value,
    a: ir.Value,
    dt: ir.Value | None,
) -> Pair:
    """The float32 state of a history, decayed over `dt` (R, H, 1) too where there is one; and which slots are taken."""
    g, config = p.builder, p.config
    count, folded, _ = g.split(counters, [1, 1, 1])  # (R, H, 1) each
    index = g.const(np.arange(HISTORY_CAPACITY, dtype=np.float32))
    taken = g.op("Less", index, count)  # (R, H, S)
    zero = g.const(0.0, "float32")
    given = g.op("Where", taken, dt_history, zero)
    later = np.tril(np.ones((HISTORY_CAPACITY, HISTORY_CAPACITY), np.float32), -1)  # [r, s]: r follows s
    after = g.op("MatMul", given, g.const(later))
    whole = g.op("ReduceSum", given, g.ints(2), keepdims=1)
    if dt is not None:
        after, whole = g.op("Add", after, dt), g.op("Add", whole, dt)
    a = g.unsqueeze(a, 1)  # (H, 1)
    weight = g.op("Mul", given, g.op("Exp", g.op("Mul", after, a)))  # (R, H, S)
    decay = g.unsqueeze(g.op("Exp", g.op("Mul", whole, a)), 3)
    x = g.reshape(g.convert(x_history, p.state_dtype, "float32"), 0, HISTORY_CAPACITY, config.nheads, config.headdim)
    x = g.op("Mul", g.transpose(x, 0, 2, 3, 1), g.unsqueeze(weight, 2))  # (R, H, P, S)
    b = g.reshape(g.convert(b_history, p.state_dtype, "float32"), 0, HISTORY_CAPACITY, config.ngroups, config.d_state)
    added = g.op("MatMul", x, p._per_head(g.transpose(b, 0, 2, 1, 3)))
    held = g.unsqueeze(g.op("Greater", folded, zero), 3)
    return g.op("Add", g.op("Mul", g.op("Where", held, state, zero), decay), added), taken


def _lazy_body(
    p: Primitive,
    zxbcdt: ir.Value,
    conv_weight: ir.Value,
    conv_bias: ir.Value,
    a: ir.Value,
    d: ir.Value,
    dt_bias: ir.Value,
    norm_weight: ir.Value,
    conv_state: ir.Value,
    ssm_state: ir.Value,
    x_history: ir.Value,
    b_history: ir.Value,
    dt_history: ir.Value,
    counters: ir.Value,
) -> tuple[ir.Value, ...]:
    g, config = p.builder, p.config
    z, xbc, dt = g.split(g.core(zxbcdt), [config.d_inner, config.conv_dim, config.nheads])
    xbc, conv = p.conv(xbc, g.unsqueeze(conv_weight, 1), conv_bias, g.convert(conv_state, p.state_dtype, "float32"))
    groups = config.ngroups * config.d_state
    x, b, c = g.split(xbc, [config.d_inner, groups, groups])
    dt = g.unsqueeze(g.op("Softplus", g.op("Add", dt, dt_bias)), 2)  # (R, H, 1)
    ssm = g.convert(ssm_state, p.state_dtype, "float32")
    state, _ = _folded(p, ssm, x_history, b_history, dt_history, counters, a, dt)
    dtx = g.op("Mul", g.reshape(x, 0, config.nheads, config.headdim, 1), g.unsqueeze(dt, 3))
    state = g.op("Add", state, g.op("Mul", dtx, p._per_head(g.reshape(b, 0, config.ngroups, 1, config.d_state))))
    y = g.op("MatMul", state, p._per_head(g.reshape(c, 0, config.ngroups, config.d_state, 1)))
    y = g.op("Add", g.reshape(y, 0, config.d_inner), p.skip(x, g.unsqueeze(d, 1)))
    y = p.gated_norm(y, z, norm_weight)
    return g.act(y), g.convert(conv, "float32", p.state_dtype), *_kept(
        p, state, ssm, x, b, dt, x_history, b_history, dt_history, counters, a
    )


def _kept(
    p: Primitive,
    state: ir.Value,
    ssm: ir.Value,
    x: ir.Value,
    b: ir.Value,
    dt: ir.Value,
    x_history: ir.Value,
    b_history: ir.Value,
    dt_history: ir.Value,
    counters: ir.Value,
    a: ir.Value,
) -> tuple[ir.Value, ...]:
    """The new states: the token in the history, or all folded where it would be full."""
    g: GraphBuilder = p.builder
    count, folded, _ = g.split(counters, [1, 1, 1])
    one, zero = g.const(1.0, "float32"), g.const(0.0, "float32")
    more = g.op("Add", count, one)
    every = g.cast(g.attribute("fold_every"), "float32")
    limit = g.op("Where", g.op("Greater", folded, zero), every, g.const(float(HISTORY_CAPACITY), "float32"))
    folds = g.op("GreaterOrEqual", more, limit)  # (R, H, 1)
    index = g.const(np.arange(HISTORY_CAPACITY, dtype=np.float32))
    slot = g.op("And", g.op("Equal", index, count), g.op("Not", folds))  # (R, H, S)
    of_row = g.transpose(g.slice(slot, 0, 1, 1), 0, 2, 1)  # (R, S, 1)

    def stored(value: ir.Value) -> ir.Value:
        return g.unsqueeze(g.convert(value, "float32", p.state_dtype), 1)

    new = g.op("Where", g.unsqueeze(folds, 3), state, ssm)
    mine = g.op("Add", g.op("Sub", count, count), g.unsqueeze(a, 1))
    states = (
        g.convert(new, "float32", p.state_dtype),
        g.op("Where", of_row, stored(x), x_history),
        g.op("Where", of_row, stored(b), b_history),
        g.op("Where", slot, dt, dt_history),
    )
    counted = [g.op("Where", folds, zero, more), g.op("Where", folds, one, folded), mine]
    return *states, g.op("Concat", *counted, axis=2)
