"""A step as one operator, `Mamba2Step`; the scan graph as `Plugin`'s.

With int8 weights it is `Mamba2StepQuantized`, and the scan graph's products are `LinearQuantized`. Weights and
states of the layers are stacked: one tensor each, the layer its first dimension (after the rows).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from aim_edge.aim.config import AimConfig

from .builder import GraphBuilder
from .ends import FINAL_EPS, embed, head_input, modulated
from .mixers import Pair, Primitive
from .mixers_plugin import (
    PluginFused,
    call_operator,
    linear_body,
    linear_float32_body,
    linear_quantized_body,
    linear_quantized_float32_body,
    step_body,
)
from .quantize import HEAD

EPS = FINAL_EPS  # the operator has one for all of its norms

# The operator's weights between `modulation` and the states: (input, parameter in its layer).
_WEIGHTS = (
    ("norm_weight", "norm.weight"),
    ("in_proj", "mixer.in_proj.weight"),
    ("conv_weight", "mixer.conv1d.weight"),
    ("conv_bias", "mixer.conv1d.bias"),
    ("A", "mixer.A_log"),
    ("D", "mixer.D"),
    ("dt_bias", "mixer.dt_bias"),
    ("gated_norm_weight", "mixer.norm.weight"),
    ("out_proj", "mixer.out_proj.weight"),
)

_PRODUCTS = ("in_proj", "out_proj")
_LAYERS = "backbone.layers."


def check_layers(config: AimConfig) -> None:
    """Raises ValueError, naming everything that `Mamba2Step` does not have, where a model needs it."""
    bad = []
    if config.layer != "Mamba2":
        bad.append(f"layer {config.layer!r} (it has Mamba2)")
    if config.d_intermediate:
        bad.append(f"d_intermediate {config.d_intermediate} (it has no MLP)")
    if config.norm_epsilon != EPS:
        bad.append(f"norm_epsilon {config.norm_epsilon} (it has {EPS})")
    if bad:
        raise ValueError(f"lowering is 'plugin-layers', and the model has {', '.join(bad)}; use 'plugin-fused'")


class PluginLayers(PluginFused):
    """The whole step graph as one operator."""

    def step(self, given: Mapping[str, ir.Value], modulation: ir.Value) -> dict[str, ir.Value]:
        """From the step graph's inputs, and their modulation as (rows, 3 n_layer, d_model): its outputs."""
        config, w = self.config, self.weights
        table = w.stored(HEAD)
        ends = [
            *(given[name] for name in ("token", "position", "class_embedding")),
            table, w.stored("backbone.embeddings.position_embeddings.weight"), given["final_modulation"],
            w.full("backbone.norm_f.weight"), w.full("backbone.final_layer.norm_final.weight"),
        ]  # fmt: skip
        weights, scales = [], []
        for name, parameter in _WEIGHTS:
            if name in _PRODUCTS and self._quantised:
                words, scale = w.stacked_codes(config.n_layer, parameter)
                weights.append(words)
                scales.append(scale)
            else:
                weights.append(self._stacked(name, parameter))
        if scales:
            scales += w.codes(HEAD)
        states = given["conv_state"], given["ssm_state"]

        def body(g: GraphBuilder, *inputs: ir.Value) -> tuple[ir.Value, ...]:
            return _body(Primitive(g, w, config, False, self.state_dtype), inputs)

        # Of integers it is clear that the rest has 16 bits.
        more = {} if scales else {"half_weights": int(self.builder.precision != "float32")}
        outputs = call_operator(
            self.builder, self.functions, "Mamba2StepQuantized" if scales else "Mamba2Step",
            (*ends, modulation, *weights, *states, *scales), body, outputs=3,
            nheads=config.nheads, headdim=config.headdim, d_state=config.d_state, ngroups=config.ngroups,
            d_conv=config.d_conv, position_offset=int(config.decode_position_offset), eps=EPS, has_active=0,
            **more,
        )  # fmt: skip
        return dict(zip(("logits", "conv_state_out", "ssm_state_out"), outputs, strict=True))

    def linear(self, x: ir.Value, prefix: str) -> ir.Value:
        """Of the scan graph: a layer of the stack, so that it is stored once."""
        if self._quantised:
            return self.linear_quantized(x, f"{prefix}.weight")
        g = self.builder
        layer, name = prefix.removeprefix(_LAYERS).split(".", 1)
        kind = name.removeprefix("mixer.")
        stacked = self._stacked(kind, f"{name}.weight")
        y = g.op("MatMul", x, g.transpose(g.layer(stacked, int(layer), 0), 1, 0))
        bias = f"{prefix}.bias"
        return g.op("Add", y, self.weights.stored(bias)) if self.weights.has(bias) else y

    def codes(self, name: str) -> Pair:
        if not name.startswith(_LAYERS):
            return super().codes(name)
        g = self.builder
        layer, parameter = name.removeprefix(_LAYERS).split(".", 1)
        words, scale = self.weights.stacked_codes(self.config.n_layer, parameter)
        return g.layer(words, int(layer), 0), g.unsqueeze(g.layer(scale, int(layer), 0), 1)

    @property
    def _quantised(self) -> bool:
        return bool(self.weights.quantised)

    def _stacked(self, name: str, parameter: str) -> ir.Value:
        config = self.config
        width = config.d_inner + config.conv_dim + config.nheads
        shapes: dict[str, tuple[int, ...]] = {
            "norm_weight": (config.d_model,),
            "in_proj": (width, config.d_model),
            "conv_weight": (config.conv_dim, config.d_conv),
            "conv_bias": (config.conv_dim,),
            "gated_norm_weight": (config.d_inner,),
            "out_proj": (config.d_model, config.d_inner),
        }
        dtype = self.builder.precision if name in _PRODUCTS else "float32"
        shape = shapes.get(name, (config.nheads,))
        return self.weights.stacked(config.n_layer, parameter, dtype, shape, decay=name == "A")


def _body(p: Primitive, inputs: tuple[ir.Value, ...]) -> tuple[ir.Value, ...]:
    """The embedding, the layers one after another by the other operators' bodies, the head."""
    g, config = p.builder, p.config
    token, position, label, table, places, final, norm_f, norm_final, modulation, *weights = inputs[:18]
    conv_state, ssm_state, *scales = inputs[18:]
    residual = embed(g, config, token, position, label, table, places)
    conv: list[ir.Value] = []
    ssm: list[ir.Value] = []
    for i in range(config.n_layer):
        shift, scale, gate = (g.layer(modulation, 3 * i + k, 1) for k in range(3))
        norm, in_proj, conv_weight, conv_bias, a, d, dt_bias, gated_norm, out_proj = (g.layer(w, i, 0) for w in weights)
        of_layer = [g.unsqueeze(g.layer(scale, i, 0), 1) for scale in scales[:2]]
        zxbcdt = _product(p, modulated(g, residual, norm, shift, scale, EPS), in_proj, *of_layer[:1])
        states = g.layer(conv_state, i, 1), g.layer(ssm_state, i, 1)
        y, *new = step_body(p, zxbcdt, conv_weight, conv_bias, a, d, dt_bias, gated_norm, *states)
        hidden = _product(p, y, out_proj, *of_layer[1:])
        residual = g.op("Add", residual, g.op("Mul", g.core(hidden), gate))
        for kept, state in zip((conv, ssm), new, strict=True):
            kept.append(g.unsqueeze(state, 1))
    shift, scale = (g.layer(final, k, 1) for k in range(2))
    x = head_input(g, config, residual, norm_f, norm_final, shift, scale)
    # The sums as they are, as the kernel writes them.
    head = linear_quantized_float32_body(p, x, *scales[2:]) if scales else linear_float32_body(g, x, table)
    return head[0], g.op("Concat", *conv, axis=1), g.op("Concat", *ssm, axis=1)


def _product(p: Primitive, x: ir.Value, weight: ir.Value, *scale: ir.Value) -> ir.Value:
    return (linear_quantized_body(p, x, weight, *scale) if scale else linear_body(p.builder, x, weight))[0]
