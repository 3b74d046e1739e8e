"""The mixers as operators of the aim_edge domain, each with a body in standard operators.

plugins/operators.json is the table of these operators: attributes, inputs and outputs in order. The body (an
ONNX function) is the operator's specification and makes the graph run where our library is not; TensorRT and
the ONNX Runtime library read the graph without bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from .builder import GraphBuilder
from .ends import embed, head_input, modulated
from .mixers import Pair, Primitive, Recurrence, Triple

DOMAIN = "aim_edge"
_STEPS = ("Mamba2DecodeStep", "Mamba2LazyStep")  # of one token
VERSION = 1  # of the operators: a library of another version refuses the graph


def call_operator(
    builder: GraphBuilder,
    functions: dict[str, ir.Function],
    name: str,
    inputs: Sequence[ir.Value],
    body: Callable[..., tuple[ir.Value, ...]],
    *,
    outputs: int,
    **attributes: Any,
) -> tuple[ir.Value, ...]:
    """A node of our domain; the first of its kind also makes the function that is its body.

    Args:
        builder: of the graph.
        functions: the bodies made so far, by operator.
        name: of the operator.
        inputs: of the node.
        body: builds the body: called with a builder and as many inputs.
        outputs: how many the operator has.
        **attributes: of the node; the version comes on top.
    """
    attributes = {"aim_edge_version": VERSION, **attributes}
    if name not in functions:
        g = GraphBuilder(builder.opset, builder.base, function=True)
        values = [ir.val(f"input_{i}") for i in range(len(inputs))]
        if builder.mixed:
            g.like = values[0]
        functions[name] = g.function(DOMAIN, name, values, body(g, *values), list(attributes))
    return builder.ops(name, *inputs, outputs=outputs, domain=DOMAIN, **attributes)


class Plugin(Recurrence):
    """One operator each for convolution, scan and gated norm, in both graphs."""

    def mamba2_inner(self, zxbcdt: ir.Value, prefix: str, conv_state: ir.Value, ssm_state: ir.Value) -> Triple:
        g, w, config = self.builder, self.weights, self.config
        rows = zxbcdt if self.sequence else g.unsqueeze(zxbcdt, 1)
        z, xbc, dt = g.split(rows, [config.d_inner, config.conv_dim, config.nheads])
        xbc, conv_state = self._conv1d(xbc, prefix, conv_state)
        groups = config.ngroups * config.d_state
        x, b, c = g.split(xbc, [config.d_inner, groups, groups])
        parameters = (w.full(f"{prefix}.D"), w.full(f"{prefix}.dt_bias"))
        y, ssm_state = self._scan("mamba2", x, dt, w.decay(f"{prefix}.A_log"), b, c, parameters, ssm_state)
        y = self._call(
            "RmsNormGated", y, z, w.full(f"{prefix}.norm.weight"), outputs=1, ngroups=config.ngroups, eps=1e-5
        )[0]
        return (y if self.sequence else g.squeeze(y, 1)), conv_state, ssm_state

    def mamba1_inner(self, xz: ir.Value, prefix: str, conv_state: ir.Value, ssm_state: ir.Value) -> Triple:
        g, w, config = self.builder, self.weights, self.config
        rows = xz if self.sequence else g.unsqueeze(xz, 1)
        x, z = g.split(rows, [config.d_inner] * 2)
        x, conv_state = self._conv1d(x, prefix, conv_state)
        dt, b, c = self.mamba1_projections(x, prefix)
        parameters = (w.full(f"{prefix}.D"), w.full(f"{prefix}.dt_proj.bias"))
        a = w.decay(f"{prefix}.A_log")
        y, ssm_state = self._scan("mamba1", x, dt, a, b, c, parameters, ssm_state, z)
        return (y if self.sequence else g.squeeze(y, 1)), conv_state, ssm_state

    def _conv1d(self, x: ir.Value, prefix: str, state: ir.Value) -> Pair:
        y, state = self._call(
            "CausalConv1d", x, *self._conv_parameters(prefix), state, outputs=2, activation="silu", has_active=0
        )
        return y, state

    def _conv_parameters(self, prefix: str) -> Pair:
        """Weight (conv_dim, d_conv) and bias (conv_dim), zeros where the model has none."""
        w, config = self.weights, self.config
        weight = w.full(f"{prefix}.conv1d.weight", (config.conv_dim, config.d_conv))
        name = f"{prefix}.conv1d.bias"
        return weight, w.full(name) if w.has(name) else w.zeros(name, config.conv_dim)

    def _scan(
        self,
        kind: str,
        x: ir.Value,
        dt: ir.Value,
        a: ir.Value,
        b: ir.Value,
        c: ir.Value,
        parameters: Pair,
        state: ir.Value,
        z: ir.Value | None = None,
    ) -> Pair:
        config = self.config
        sizes = {"nheads": config.nheads, "headdim": config.state_headdim, "d_state": config.d_state}
        gate = () if z is None else (z,)
        y, state = self._call(
            "SelectiveScan", x, dt, a, b, c, *parameters, state, *gate,
            outputs=2, kind=kind, **sizes, ngroups=config.ngroups, dt_softplus=1, has_z=len(gate), has_active=0,
        )  # fmt: skip
        return y, state

    def _call(self, name: str, *inputs: ir.Value, outputs: int, **attributes: Any) -> tuple[ir.Value, ...]:

        def body(g: GraphBuilder, *values: ir.Value) -> tuple[ir.Value, ...]:
            # The bodies take any length, so they are written over the sequence form.
            sequence = name not in _STEPS
            primitive = Primitive(g, self.weights, self.config, sequence, self.state_dtype)
            return self._write_body(name, primitive, values)

        return call_operator(self.builder, self.functions, name, inputs, body, outputs=outputs, **attributes)

    def _write_body(self, name: str, primitive: Primitive, inputs: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
        return _BODIES[name](primitive, *inputs)


class PluginFused(Plugin):
    """The step graph of operators alone where the model has no MLP; the scan graph as `Plugin`."""

    def embed_norm(self, *inputs: ir.Value, **attributes: Any) -> Pair:
        """What the first branch reads, and the residual: the embedding, norm, modulation; inputs as the operator's."""
        x, residual = self._call("EmbedNorm", *inputs, outputs=2, **attributes)
        return x, residual

    def ada_ln_norm(
        self, hidden: ir.Value, residual: ir.Value, modulation: ir.Value, weight: ir.Value, **attributes: Any
    ) -> Pair:
        """What the next branch reads, and the new residual: the last branch gated and added, norm, modulation."""
        x, residual = self._call("AdaLnNorm", hidden, residual, modulation, weight, outputs=2, **attributes)
        return x, residual

    def final_norm(
        self, hidden: ir.Value, residual: ir.Value, modulation: ir.Value, ends: Sequence[ir.Value], **attributes: Any
    ) -> ir.Value:
        """What the head reads: the last branch gated and added, both norms, modulation; `ends` is that and weights."""
        return self._call("FinalNorm", hidden, residual, modulation, *ends, outputs=1, **attributes)[0]

    def linear(self, x: ir.Value, prefix: str) -> ir.Value:
        """float32 and layers with a bias stay standard: what a kernel gains there is less than a library's tuning."""
        g, w = self.builder, self.weights
        if f"{prefix}.weight" in w.quantised:
            return self.linear_quantized(x, f"{prefix}.weight")
        if g.precision == "float32" or w.has(f"{prefix}.bias"):
            return w.linear(x, prefix)
        stored = w.stored(f"{prefix}.weight")  # (out, in) in both graphs, so that it is stored once
        if self.sequence:
            return g.op("MatMul", x, g.transpose(stored, 1, 0))
        return self._call("Linear", x, stored, outputs=1)[0]

    def head(self, x: ir.Value, name: str) -> ir.Value:
        """x W^T in float32, the sums as they are. Of what is not codes: in the step graph, in half precision."""
        if name in self.weights.quantised:
            return self.linear_quantized(x, name, "LinearQuantizedFloat32")
        return self._call("LinearFloat32", x, self.weights.stored(name), outputs=1)[0]

    def linear_quantized(self, x: ir.Value, name: str, operator: str = "LinearQuantized") -> ir.Value:
        """x (R, [L,] in) @ W^T of a matrix that is stored as codes; the same operator in both graphs."""
        g, held = self.builder, self.weights.quantised[name]
        outputs, inputs = held.codes.shape
        rows = g.reshape(x, -1, inputs) if self.sequence else x
        weight, scale = self.codes(name)
        attributes = {"bits": held.bits, "group_size": held.group_size}
        y = self._call(operator, rows, weight, scale, outputs=1, **attributes)[0]
        if not self.sequence:
            return y
        # Not Shape's own end attribute: TensorRT 8's parser ignores it.
        shape = g.op("Concat", g.slice(g.op("Shape", x), 0, 2, 0), g.ints(outputs), axis=0)
        return g.op("Reshape", y, shape)

    def codes(self, name: str) -> Pair:
        """Words and scales of a matrix that is stored as codes."""
        return self.weights.codes(name)

    def mamba2_inner(self, zxbcdt: ir.Value, prefix: str, conv_state: ir.Value, ssm_state: ir.Value) -> Triple:
        if self.sequence:
            return super().mamba2_inner(zxbcdt, prefix, conv_state, ssm_state)
        w, config = self.weights, self.config
        parameters = [w.decay(f"{prefix}.A_log"), w.full(f"{prefix}.D"), w.full(f"{prefix}.dt_bias")]
        out, conv_state, ssm_state = self._call(
            "Mamba2DecodeStep",
            zxbcdt, *self._conv_parameters(prefix), *parameters, w.full(f"{prefix}.norm.weight"), conv_state, ssm_state,
            outputs=3,
            nheads=config.nheads, headdim=config.headdim, d_state=config.d_state, ngroups=config.ngroups,
            d_conv=config.d_conv, eps=1e-5, has_active=0,
        )  # fmt: skip
        return out, conv_state, ssm_state


def _conv_body(p: Primitive, x: ir.Value, weight: ir.Value, bias: ir.Value, state: ir.Value) -> tuple[ir.Value, ...]:
    """In float32, as the kernel sums, then back to the activations' dtype."""
    g = p.builder
    y, new = p.conv(g.core(x), g.unsqueeze(weight, 1), bias, g.convert(state, p.state_dtype, "float32"))
    return g.act(y), g.convert(new, "float32", p.state_dtype)


def _scan_body(
    p: Primitive,
    x: ir.Value,
    dt: ir.Value,
    a: ir.Value,
    b: ir.Value,
    c: ir.Value,
    d: ir.Value,
    dt_bias: ir.Value,
    state: ir.Value,
    z: ir.Value | None = None,
) -> tuple[ir.Value, ...]:
    g = p.builder
    x, dt, b, c = (g.core(v) for v in (x, dt, b, c))
    dt = g.op("Softplus", g.op("Add", dt, dt_bias))
    recurrence = p.mamba2 if p.config.layer == "Mamba2" else p.mamba1
    y, new = recurrence(x, dt, a, b, c, g.convert(state, p.state_dtype, "float32"))
    y = g.op("Add", y, p.skip(x, g.unsqueeze(d, 1)) if p.config.layer == "Mamba2" else g.op("Mul", x, d))
    if z is not None:
        y = g.op("Mul", y, g.silu(g.core(z)))
    return g.act(y), g.convert(new, "float32", p.state_dtype)


def _norm_body(p: Primitive, y: ir.Value, z: ir.Value, weight: ir.Value) -> tuple[ir.Value, ...]:
    g = p.builder
    return (g.act(p.gated_norm(g.core(y), g.core(z), weight)),)


def step_body(
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
) -> tuple[ir.Value, ...]:
    g, config = p.builder, p.config
    z, xbc, dt = g.split(g.core(zxbcdt), [config.d_inner, config.conv_dim, config.nheads])
    xbc, conv = p.conv(xbc, g.unsqueeze(conv_weight, 1), conv_bias, g.convert(conv_state, p.state_dtype, "float32"))
    groups = config.ngroups * config.d_state
    x, b, c = g.split(xbc, [config.d_inner, groups, groups])
    dt = g.op("Softplus", g.op("Add", dt, dt_bias))
    y, ssm = p.mamba2(x, dt, a, b, c, g.convert(ssm_state, p.state_dtype, "float32"))
    y = p.gated_norm(g.op("Add", y, p.skip(x, g.unsqueeze(d, 1))), z, norm_weight)
    return g.act(y), g.convert(conv, "float32", p.state_dtype), g.convert(ssm, "float32", p.state_dtype)


def _embed_norm_body(
    p: Primitive,
    token: ir.Value,
    position: ir.Value,
    class_embedding: ir.Value,
    table: ir.Value,
    position_table: ir.Value,
    modulation: ir.Value,
    weight: ir.Value,
) -> tuple[ir.Value, ...]:
    g, config = p.builder, p.config
    residual = embed(g, config, token, position, class_embedding, table, position_table)
    shift, scale = (g.vector(modulation, f"{name}_index") for name in ("shift", "scale"))
    return modulated(g, residual, weight, shift, scale, config.norm_epsilon), residual


def ada_ln_norm_body(
    g: GraphBuilder, eps: float, hidden: ir.Value, residual: ir.Value, modulation: ir.Value, weight: ir.Value
) -> tuple[ir.Value, ...]:
    """x and the new residual, as the kernel computes them."""
    gate, shift, scale = (g.vector(modulation, f"{name}_index") for name in ("gate", "shift", "scale"))
    residual = g.op("Add", residual, g.op("Mul", g.core(hidden), gate))
    normed = g.rms_norm(residual, weight, eps)
    x = g.op("Add", g.op("Mul", normed, g.op("Add", scale, g.const(1.0, "float32"))), shift)
    return g.act(x), residual


def _ada_ln_norm_body(p: Primitive, *values: ir.Value) -> tuple[ir.Value, ...]:
    return ada_ln_norm_body(p.builder, p.config.norm_epsilon, *values)


def _final_norm_body(
    p: Primitive,
    hidden: ir.Value,
    residual: ir.Value,
    modulation: ir.Value,
    final_modulation: ir.Value,
    norm_f: ir.Value,
    norm_final: ir.Value,
) -> tuple[ir.Value, ...]:
    g = p.builder
    residual = g.op("Add", residual, g.op("Mul", g.core(hidden), g.vector(modulation, "gate_index")))
    shift, scale = (g.layer(final_modulation, i, 1) for i in range(2))
    return (head_input(g, p.config, residual, norm_f, norm_final, shift, scale),)


def linear_body(g: GraphBuilder, x: ir.Value, weight: ir.Value) -> tuple[ir.Value, ...]:
    """x W^T."""
    return (g.op("MatMul", x, g.transpose(weight, 1, 0)),)


def linear_float32_body(g: GraphBuilder, x: ir.Value, weight: ir.Value) -> tuple[ir.Value, ...]:
    """x W^T in float32. A body has one type of output, so that this is an operator of its own."""
    return (g.op("MatMul", g.core(x), g.transpose(g.core(weight), 1, 0)),)


def linear_quantized_body(p: Primitive, *inputs: ir.Value) -> tuple[ir.Value, ...]:
    """Back to the activations' dtype."""
    return (p.builder.act(linear_quantized_float32_body(p, *inputs)[0]),)


def linear_quantized_float32_body(
    p: Primitive, x: ir.Value, weight: ir.Value, scale: ir.Value
) -> tuple[ir.Value, ...]:
    """In float32. All but the product is of constants, so that a runtime can do it once."""
    g = p.builder
    held = next(iter(p.weights.quantised.values()))  # all of a bundle are alike
    bits, half = held.bits, 1 << (held.bits - 1)
    shifts = g.const(np.arange(0, 32, bits, dtype=np.uint32))
    parts = g.op("BitShift", g.op("Cast", g.unsqueeze(weight, 2), to=ir.DataType.UINT32), shifts, direction="RIGHT")
    if bits == 8:  # two's complement; int4 is stored with 8 added
        parts = g.op("Add", g.op("Mod", parts, g.const(np.array(256, np.uint32))), g.const(np.array(half, np.uint32)))
    parts = g.op("Mod", parts, g.const(np.array(1 << bits, np.uint32)))
    codes = g.op("Sub", g.cast(g.reshape(parts, 0, -1), "float32"), g.const(float(half), "float32"))
    if held.group_size:
        wide = g.op("Expand", g.unsqueeze(scale, 2), g.ints(1, 1, held.group_size))
        size = g.slice(g.op("Shape", codes), 1, 2, 0)
        scale = g.op("Slice", g.reshape(wide, 0, -1), g.ints(0), size, g.ints(1))
    dense = g.op("Mul", codes, scale)
    return (g.op("MatMul", g.core(x), g.transpose(dense, 1, 0)),)


_BODIES: dict[str, Callable[..., tuple[ir.Value, ...]]] = {
    "CausalConv1d": _conv_body,
    "SelectiveScan": _scan_body,
    "RmsNormGated": _norm_body,
    "Mamba2DecodeStep": step_body,
    "EmbedNorm": _embed_norm_body,
    "AdaLnNorm": _ada_ln_norm_body,
    "FinalNorm": _final_norm_body,
    "Linear": lambda p, *values: linear_body(p.builder, *values),
    "LinearFloat32": lambda p, *values: linear_float32_body(p.builder, *values),
    "LinearQuantized": linear_quantized_body,
    "LinearQuantizedFloat32": linear_quantized_float32_body,
}
