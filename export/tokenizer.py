"""The vq_decode and vq_encode graphs of a VQ tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from aim_edge.aim.vq import VqModel
from aim_edge.runtime.contract import Contract

from .builder import Array, GraphBuilder
from .lowerings import LOWERINGS
from .mixers_plugin import DOMAIN, VERSION, PluginFused
from .weights import Weights

EPS = 1e-6  # of every norm

# Where `plugin-fused` has a sum that the next norm is to take, its two parts.
Value: TypeAlias = ir.Value | tuple[ir.Value, ir.Value]
Part: TypeAlias = tuple[str, str]  # the method that writes it, and the prefix of its parameters


class Tokenizer:
    """Walks the module tree by its parameter names; `height` and `width` are the current ones."""

    def __init__(self, model: VqModel, lowering: str, precision: str) -> None:
        self.model, self.config = model, model.config
        chosen = LOWERINGS[lowering]
        self.fused, self.native = issubclass(chosen.recurrence, PluginFused), chosen.native_norm
        self.functions: list[ir.Function] = []
        self.g = GraphBuilder(chosen.opset, precision)
        self.w = Weights(model, self.g)
        self.height = self.width = 0

    def conv(self, x: ir.Value, prefix: str, stride: int = 1, pads: tuple[int, int] = (1, 1)) -> ir.Value:
        """Convolution with zero padding (before, after), equal for both axes."""
        weight = self.w.stored(f"{prefix}.weight")
        if weight.shape is not None and weight.shape[-1] == 1:
            pads = (0, 0)
        edges = [pads[0], pads[0], pads[1], pads[1]]
        return self.g.op("Conv", x, weight, self.w.stored(f"{prefix}.bias"), strides=[stride] * 2, pads=edges)

    def norm(self, x: Value, prefix: str, silu: bool = True) -> tuple[ir.Value, ir.Value]:
        """GroupNorm, with SiLU after it or without, and x, whole.

        In float32: half precision overflows in its sums.
        """
        if self.fused:
            return self._fused_norm(x, prefix, silu)
        whole = self.whole(x)
        return self._standard_norm(whole, prefix, silu), whole

    def _standard_norm(self, x: ir.Value, prefix: str, silu: bool) -> ir.Value:
        g, groups = self.g, self.config.norm_groups
        channels = self.model.get_parameter(f"{prefix}.weight").shape[0]
        flat = g.reshape(g.core(x), 0, groups, -1)
        if self.native:
            one, zero = np.ones(groups, np.float32), np.zeros(groups, np.float32)
            flat = g.op("InstanceNormalization", flat, g.const(one), g.const(zero), epsilon=EPS)
        else:  # TensorRT 8's parser makes of that a plugin of its own, which calls cuDNN
            flat = g.rms_norm(g.op("Sub", flat, g.mean(flat)), None, EPS)
        back = g.reshape(flat, 0, channels, self.height, self.width)
        scaled = g.op("Mul", back, self.w.full(f"{prefix}.weight", (channels, 1, 1)))
        normed = g.act(g.op("Add", scaled, self.w.full(f"{prefix}.bias", (channels, 1, 1))))
        return g.silu(normed) if silu else normed

    def _fused_norm(self, x: Value, prefix: str, silu: bool) -> tuple[ir.Value, ir.Value]:
        """The operator GroupNormSilu or AddGroupNormSilu; the first of each also makes its body."""
        g, groups = self.g, self.config.norm_groups
        name, count = ("AddGroupNormSilu", 4) if isinstance(x, tuple) else ("GroupNormSilu", 3)
        attributes: dict[str, Any] = {"aim_edge_version": VERSION, "groups": groups, "silu": int(silu), "eps": EPS}
        if all(function.name != name for function in self.functions):
            body = GraphBuilder(g.opset, g.precision, function=True)
            inputs = [ir.val(f"input_{i}") for i in range(count)]
            total = body.op("Add", inputs[0], inputs[3]) if count == 4 else None
            y = _group_norm_silu_body(body, groups, inputs[0] if total is None else total, *inputs[1:3])
            outputs = [y] if total is None else [y, total]
            self.functions.append(body.function(DOMAIN, name, inputs, outputs, list(attributes)))
        parameters = (self.w.full(f"{prefix}.weight"), self.w.full(f"{prefix}.bias"))
        if not isinstance(x, tuple):
            return g.op(name, x, *parameters, domain=DOMAIN, **attributes), x
        y, total = g.ops(name, x[0], *parameters, x[1], outputs=2, domain=DOMAIN, **attributes)
        return y, total

    def add(self, x: ir.Value, residual: ir.Value) -> Value:
        """A convolution's output and what it is added to: left to the norm after it, where that can add."""
        return (x, residual) if self.fused else self.g.op("Add", x, residual)

    def whole(self, x: Value) -> ir.Value:
        """A sum that no norm takes."""
        return self.g.op("Add", *x) if isinstance(x, tuple) else x

    def res(self, x: Value, prefix: str) -> Value:
        h, whole = self.norm(x, f"{prefix}.norm1")
        h, _ = self.norm(self.conv(h, f"{prefix}.conv1"), f"{prefix}.norm2")
        shortcut = f"{prefix}.nin_shortcut"
        residual = self.conv(whole, shortcut) if self.w.has(f"{shortcut}.weight") else whole
        return self.add(self.conv(h, f"{prefix}.conv2"), residual)

    def attention(self, x: Value, prefix: str) -> Value:
        g = self.g
        h, whole = self.norm(x, f"{prefix}.norm", silu=False)
        channels = self.model.get_parameter(f"{prefix}.norm.weight").shape[0]
        q, k, v = (g.reshape(self.conv(h, f"{prefix}.{name}"), 0, channels, -1) for name in "qkv")
        q = g.op("Mul", g.transpose(q, 0, 2, 1), g.const(np.asarray(channels**-0.5, dtype=g.precision)))
        scores = g.act(g.op("Softmax", g.core(g.op("MatMul", q, k)), axis=-1))
        mixed = g.op("MatMul", v, g.transpose(scores, 0, 2, 1))
        mixed = g.reshape(mixed, 0, channels, self.height, self.width)
        return self.add(self.conv(mixed, f"{prefix}.proj_out"), whole)

    def middle(self, prefix: str) -> Iterator[Part]:
        yield from (("res", f"{prefix}.0"), ("attention", f"{prefix}.1"), ("res", f"{prefix}.2"))

    def levels(self, prefix: str) -> Iterator[Part]:
        """Residual blocks and attention of every level, with the change of resolution after it."""
        for i in range(len(self.config.ch_mult)):
            j = 0
            while self.w.has(f"{prefix}.{i}.res.{j}.conv1.weight"):
                yield "res", f"{prefix}.{i}.res.{j}"
                if self.w.has(f"{prefix}.{i}.attn.{j}.q.weight"):
                    yield "attention", f"{prefix}.{i}.attn.{j}"
                j += 1
            for change in ("downsample", "upsample"):
                if self.w.has(f"{prefix}.{i}.{change}.conv.weight"):
                    yield change, f"{prefix}.{i}.{change}.conv"

    def walk(self, x: Value, parts: Iterable[Part]) -> Value:
        """x through these parts, each by the method of its name."""
        for method, prefix in parts:
            x = getattr(self, method)(x, prefix)
        return x

    def downsample(self, x: Value, prefix: str) -> Value:
        self.height, self.width = self.height // 2, self.width // 2
        return self.conv(self.whole(x), prefix, stride=2, pads=(0, 1))

    def upsample(self, x: Value, prefix: str) -> Value:
        self.height, self.width = self.height * 2, self.width * 2
        return self.upsampled(self.whole(x), prefix)

    def upsampled(self, x: ir.Value, prefix: str) -> ir.Value:
        """Twice the height and width by nearest neighbours, then a 3x3 convolution.

        Fused, this is one transposed convolution: an output pixel sees two of the input's in each direction, so that a
        kernel of 4x4 with a stride of 2 has the sums of the 3x3's taps that fall on the same pixel. 4/9 of the work.
        """
        if not self.fused:
            scales = self.g.const(np.array([1, 1, 2, 2], np.float32))
            nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
            return self.conv(self.g.op("Resize", x, None, scales, **nearest), prefix)
        weight = self.w.upsampling(f"{prefix}.weight")
        return self.g.op("ConvTranspose", x, weight, self.w.stored(f"{prefix}.bias"), strides=[2, 2], pads=[1] * 4)

    def decoded(self, x: ir.Value) -> ir.Value:
        """The decoder, from the codes' vectors to the image in float32."""
        parts = (*self.middle("decoder.mid"), *self.levels("decoder.conv_blocks"))
        return self.image(self.walk(self.conv(x, "decoder.conv_in"), parts), "decoder")

    def image(self, x: Value, prefix: str) -> ir.Value:
        last, _ = self.norm(x, f"{prefix}.norm_out")
        return self.g.core(self.conv(last, f"{prefix}.conv_out"))

    def codebook(self) -> Array:
        """(n_embed, embed_dim), each code normalised as the quantiser does."""
        table: Array = self.model.quantize.unit().detach().float().cpu().numpy()
        return table


def decode_graph(
    model: VqModel, contract: Contract, lowering: str, precision: str, kind: type[Tokenizer] = Tokenizer
) -> ir.Model:
    """codes (B, h, w) int32 -> image (B, C, H, W) float32, about [-1, 1], not clamped."""
    t = kind(model, lowering, precision)
    g, spec = t.g, contract.graphs["vq_decode"]
    t.height, t.width = contract.dims.grid_height, contract.dims.grid_width
    codes = g.inputs(spec.inputs)["codes"]
    shape = (model.config.n_embed, model.config.embed_dim)
    table = g.weight("quantize.unit", t.codebook, shape, precision)
    x = g.transpose(g.op("Gather", table, codes, axis=0), 0, 3, 1, 2)
    image = t.decoded(t.conv(x, "post_quant_conv"))
    return g.finish("vq_decode", spec, {"image": image}, t.functions)


def encode_graph(model: VqModel, contract: Contract, lowering: str, precision: str) -> ir.Model:
    """image (B, C, H, W) float32 in [-1, 1] -> codes (B, h, w) int32, the nearest of each position."""
    t = Tokenizer(model, lowering, precision)
    g, spec = t.g, contract.graphs["vq_encode"]
    t.height, t.width = contract.dims.image_height, contract.dims.image_width
    x = t.conv(g.act(g.inputs(spec.inputs)["image"]), "encoder.conv_in")
    y = t.walk(x, (*t.levels("encoder.conv_blocks"), *t.middle("encoder.mid")))
    last, _ = t.norm(y, "encoder.norm_out")
    x = t.conv(last, "encoder.conv_out")
    features = g.transpose(g.core(t.conv(x, "quant_conv")), 0, 2, 3, 1)
    # All codes have length 1, so the nearest is the one with the largest product, whatever the feature's length.
    shape = (model.config.embed_dim, model.config.n_embed)
    table = g.weight("quantize.unit.T", lambda: t.codebook().T, shape, "float32")
    nearest = g.op("ArgMax", g.op("MatMul", features, table), axis=-1, keepdims=0)
    return g.finish("vq_encode", spec, {"codes": g.cast(nearest, "int32")}, t.functions)


def _group_norm_silu_body(g: GraphBuilder, groups: int, x: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
    flat = g.reshape(g.core(x), 0, groups, -1)
    flat = g.rms_norm(g.op("Sub", flat, g.mean(flat)), None, EPS)
    normed = g.op("Reshape", flat, g.op("Shape", x))
    y = g.op("Add", g.op("Mul", normed, g.unsqueeze(weight, 1, 2)), g.unsqueeze(bias, 1, 2))
    applied = g.cast(g.attribute("silu"), "bool")
    return g.act(g.op("Where", applied, g.silu(y), y))
