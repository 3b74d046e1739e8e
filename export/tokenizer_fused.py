"""vq_decode with its convolutions fused with the norms around them: NormConv, UpsampleConv and NormConvImage.

A convolution hands on what the norm after it needs of its output (`next_affine`), so that norm and SiLU are the next
convolution's. Where an operator does not take a convolution's sizes, that part of the graph is as without the option.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import onnx_ir as ir

from aim_edge.aim.vq import VqModel

from .builder import GraphBuilder
from .mixers_plugin import DOMAIN, VERSION
from .tokenizer import EPS, Part, Tokenizer, Value

FUSED, PRECISIONS = ("plugin-fused", "plugin-layers"), ("float16", "bfloat16")
_CHUNK, _BLOCK, _IMAGE_BLOCK = 64, 128, 8  # channels in, and out, that the kernel takes at a time
_MOST = 2048
_UNNORMED = "no_norm"  # the prefix of a norm that is none


def check_fused_convolutions(lowering: str, precision: str) -> None:
    """Raises ValueError where the option `fused_convolutions` is not to be had."""
    if lowering not in FUSED or precision not in PRECISIONS:
        raise ValueError(
            f"fused_convolutions is True with lowering {lowering!r} and precision {precision!r}; it needs lowering "
            f"{' or '.join(map(repr, FUSED))} and precision {' or '.join(map(repr, PRECISIONS))}"
        )


class FusedTokenizer(Tokenizer):
    """The decoder of these operators."""

    def __init__(self, model: VqModel, lowering: str, precision: str) -> None:
        super().__init__(model, lowering, precision)
        # By a value and the norm that takes it: the norm's scale and shift, where the value's operator gave them.
        self.affines: dict[tuple[ir.Value, str], ir.Value] = {}
        parts = [*self.middle("decoder.mid"), *self.levels("decoder.conv_blocks")]
        order: list[Part] = [("conv", "decoder.conv_in"), *parts, ("image", "decoder")]
        self.following = {prefix: _norm_with_silu(after) for (_, prefix), after in pairwise(order)}

    def conv(self, x: ir.Value, prefix: str, stride: int = 1, pads: tuple[int, int] = (1, 1)) -> ir.Value:
        if prefix == "decoder.conv_in" and self.fits(prefix):
            return self.norm_conv(x, prefix, self.following[prefix])
        return super().conv(x, prefix, stride, pads)

    def res(self, x: Value, prefix: str) -> Value:
        conv1, conv2, norm2 = f"{prefix}.conv1", f"{prefix}.conv2", f"{prefix}.norm2"
        if not self.fits(conv1):  # conv2 takes as many channels as it gives, so that it fits where conv1 does
            return super().res(x, prefix)
        affine = None if isinstance(x, tuple) else self.affines.get((x, f"{prefix}.norm1"))
        h, whole = self.norm(x, f"{prefix}.norm1") if affine is None else (self.whole(x), self.whole(x))
        h = self.norm_conv(h, conv1, norm2, affine)
        shortcut = f"{prefix}.nin_shortcut"
        residual = self.conv(whole, shortcut) if self.w.has(f"{shortcut}.weight") else whole
        return self.norm_conv(h, conv2, self.following[prefix], self.affines[h, norm2], residual)

    def upsampled(self, x: ir.Value, prefix: str) -> ir.Value:
        if not self.fits(prefix):
            return super().upsampled(x, prefix)
        weight = self.w.packed_upsampling(f"{prefix}.weight", _BLOCK)
        return self.call("UpsampleConv", x, weight, prefix, self.following[prefix])

    def image(self, x: Value, prefix: str) -> ir.Value:
        norm, conv = f"{prefix}.norm_out", f"{prefix}.conv_out"
        affine = None if isinstance(x, tuple) else self.affines.get((x, norm))
        outputs, inputs = self.model.get_parameter(f"{conv}.weight").shape[:2]
        if isinstance(x, tuple) or affine is None or inputs % _CHUNK or outputs > _IMAGE_BLOCK:
            return super().image(x, prefix)
        weight = self.w.packed(f"{conv}.weight", _IMAGE_BLOCK)
        given = (x, weight, self.w.full(f"{conv}.bias"), affine)
        return self.operator("NormConvImage", given, 1, "", _image_body)[0]

    def fits(self, prefix: str) -> bool:
        """Whether the kernel takes a 3x3 convolution's channels, and those of the groups of a norm after it."""
        outputs, inputs = self.model.get_parameter(f"{prefix}.weight").shape[:2]
        steps = inputs % _CHUNK == 0 and outputs % _BLOCK == 0 and max(inputs, outputs) <= _MOST
        return steps and outputs % (4 * self.config.norm_groups) == 0

    def norm_conv(
        self,
        x: ir.Value,
        prefix: str,
        norm: str | None,
        affine: ir.Value | None = None,
        residual: ir.Value | None = None,
    ) -> ir.Value:
        """A 3x3 convolution of x, or of its norm and SiLU where their `affine` is given, before the norm `norm`."""
        has = {"has_norm": int(affine is not None), "has_residual": int(residual is not None)}
        optional = [value for value in (affine, residual) if value is not None]
        return self.call("NormConv", x, self.w.packed(f"{prefix}.weight", _BLOCK), prefix, norm, *optional, **has)

    def call(
        self, name: str, x: ir.Value, weight: ir.Value, prefix: str, norm: str | None, *optional: ir.Value, **has: int
    ) -> ir.Value:
        """A node of NormConv or UpsampleConv; what it gives to the norm after it is kept for that."""
        bias = self.w.full(f"{prefix}.bias")
        channels = self.model.get_parameter(f"{prefix}.bias").shape[0]
        if norm is None:
            none = f"{_UNNORMED}.{channels}"
            parameters = (self.w.ones(f"{none}.weight", channels), self.w.zeros(f"{none}.bias", channels))
        else:
            parameters = (self.w.full(f"{norm}.weight"), self.w.full(f"{norm}.bias"))
        groups = self.config.norm_groups
        overload = "_".join(key.removeprefix("has_") for key, value in has.items() if value)

        def body(g: GraphBuilder, *inputs: ir.Value) -> tuple[ir.Value, ...]:
            if name == "UpsampleConv":
                return _upsample_conv_body(g, groups, *inputs)
            optional = iter(inputs[5:])
            given = [next(optional) if has[key] else None for key in ("has_norm", "has_residual")]
            return _norm_conv_body(g, groups, inputs[:5], *given)

        inputs = (x, weight, bias, *parameters, *optional)
        y, affine = self.operator(name, inputs, 2, overload, body, groups=groups, eps=EPS, **has)
        if norm is not None:
            self.affines[y, norm] = affine
        return y

    def operator(
        self,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: int,
        overload: str,
        body: Callable[..., tuple[ir.Value, ...]],
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """A node of our domain; the first of its name and overload also makes its body."""
        attributes = {"aim_edge_version": VERSION, **attributes}
        g = self.g
        if all((function.name, function.overload) != (name, overload) for function in self.functions):
            made = GraphBuilder(g.opset, g.precision, function=True)
            formal = [ir.val(f"input_{i}") for i in range(len(inputs))]
            results = body(made, *formal)
            self.functions.append(made.function(DOMAIN, name, formal, results, list(attributes), overload))
        return g.ops(name, *inputs, outputs=outputs, domain=DOMAIN, overload=overload, **attributes)


def _norm_with_silu(part: Part) -> str | None:
    """The norm that a part begins with, where SiLU follows it."""
    method, prefix = part
    return {"res": f"{prefix}.norm1", "image": f"{prefix}.norm_out"}.get(method)


def _norm_conv_body(
    g: GraphBuilder,
    groups: int,
    inputs: Sequence[ir.Value],
    affine: ir.Value | None,
    residual: ir.Value | None,
) -> tuple[ir.Value, ...]:
    x, weight, bias, next_weight, next_bias = inputs
    y = g.act(_conv(g, _normed(g, x, affine), _kernel(g, x, weight), bias))
    if residual is not None:
        y = g.op("Add", y, residual)
    return y, _affine(g, groups, y, next_weight, next_bias)


def _upsample_conv_body(
    g: GraphBuilder,
    groups: int,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    next_weight: ir.Value,
    next_bias: ir.Value,
) -> tuple[ir.Value, ...]:
    """A transposed convolution: taps 0 to 3 in a direction are tap 1 of phase 1 and of 0, then tap 0 of 1 and of 0."""
    chunks = g.slice(g.op("Shape", weight), 1, 2, 0)
    # (phase row, phase column, block, chunk, tap row, tap column, 8, outputs of a block, 8)
    parts = g.op("Concat", g.ints(2, 2, -1), chunks, g.ints(2, 2, _CHUNK // 8, _BLOCK, 8), axis=0)
    apart = g.op("Reshape", g.core(weight), parts)
    ordered = g.transpose(apart, 3, 6, 8, 2, 7, 4, 0, 5, 1)
    shape = g.op("Concat", _channels(g, x), g.ints(-1, 4, 4), axis=0)
    kernel = g.op("Reshape", ordered, shape)
    for axis in (2, 3):
        kernel = g.op("Gather", kernel, g.ints(3, 2, 1, 0), axis=axis)
    y = g.op("ConvTranspose", g.core(x), kernel, bias, strides=[2, 2], pads=[1] * 4)
    y = g.act(y)
    return y, _affine(g, groups, y, next_weight, next_bias)


def _image_body(
    g: GraphBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value, affine: ir.Value
) -> tuple[ir.Value, ...]:
    outputs = g.op("Shape", bias)  # the kernels past them are padding
    kernel = g.op("Slice", _kernel(g, x, weight), g.ints(0), outputs, g.ints(0))
    return (_conv(g, _normed(g, x, affine), kernel, bias),)


def _channels(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.slice(g.op("Shape", x), 1, 2, 0)


def _kernel(g: GraphBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """(blocks, chunks, 9, 8, n, 8) as (outputs, inputs, 3, 3), in float32."""
    ordered = g.transpose(g.core(weight), 0, 4, 1, 3, 5, 2)
    return g.op("Reshape", ordered, g.op("Concat", g.ints(-1), _channels(g, x), g.ints(3, 3), axis=0))


def _conv(g: GraphBuilder, x: ir.Value, kernel: ir.Value, bias: ir.Value) -> ir.Value:
    """In float32, as the operator sums."""
    return g.op("Conv", g.core(x), kernel, bias, pads=[1] * 4)


def _normed(g: GraphBuilder, x: ir.Value, affine: ir.Value | None) -> ir.Value:
    if affine is None:
        return x
    scale, shift = (g.unsqueeze(part, 3) for part in g.split(affine, (1, 1)))
    return g.act(g.silu(g.op("Add", g.op("Mul", g.core(x), scale), shift)))


def _affine(g: GraphBuilder, groups: int, y: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
    """(batch, channels, 2): what the norm of y multiplies each channel by and then adds."""
    flat = g.reshape(g.core(y), 0, groups, -1)
    mean = g.mean(flat)
    root = g.op("Sqrt", g.op("Add", g.mean_square(g.op("Sub", flat, mean)), g.const(EPS, "float32")))
    scale = g.op("Div", g.reshape(weight, 1, groups, -1), root)  # (batch, groups, channels of a group)
    shift = g.op("Sub", g.reshape(bias, 1, groups, -1), g.op("Mul", mean, scale))
    return g.op("Concat", *(g.reshape(part, 0, -1, 1) for part in (scale, shift)), axis=-1)
