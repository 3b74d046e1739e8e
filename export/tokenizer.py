"""The vq_decode and vq_encode graphs of a VQ tokenizer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aim_edge.aim.vq import VqModel
from aim_edge.runtime.contract import Contract

from .builder import Array, GraphBuilder
from .lowerings import LOWERINGS
from .mixers_plugin import DOMAIN, VERSION, PluginFused
from .weights import Weights

_EPS = 1e-6


class _Tokenizer:
    """Walks the module tree by its parameter names; `side` is the current height and width."""

    def __init__(self, model: VqModel, lowering: str, precision: str) -> None:
        self.model, self.config = model, model.config
        chosen = LOWERINGS[lowering]
        self.fused, self.native = chosen.recurrence is PluginFused, chosen.native_norm
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

    def norm(self, x: ir.Value, prefix: str, silu: bool = True) -> ir.Value:
        """GroupNorm, with SiLU after it or without. In float32: half precision overflows in its sums."""
        g, groups = self.g, self.config.norm_groups
        if self.fused:
            return self._fused_norm(x, prefix, silu)
        channels = self.model.get_parameter(f"{prefix}.weight").shape[0]
        flat = g.reshape(g.core(x), 0, groups, -1)
        if self.native:
            one, zero = np.ones(groups, np.float32), np.zeros(groups, np.float32)
            flat = g.op("InstanceNormalization", flat, g.const(one), g.const(zero), epsilon=_EPS)
        else:  # TensorRT 8's parser makes of that a plugin of its own, which calls cuDNN
            flat = g.rms_norm(g.op("Sub", flat, g.mean(flat)), None, _EPS)
        back = g.reshape(flat, 0, channels, self.height, self.width)
        scaled = g.op("Mul", back, self.w.full(f"{prefix}.weight", (channels, 1, 1)))
        normed = g.act(g.op("Add", scaled, self.w.full(f"{prefix}.bias", (channels, 1, 1))))
        return g.silu(normed) if silu else normed

    def _fused_norm(self, x: ir.Value, prefix: str, silu: bool) -> ir.Value:
        """The operator GroupNormSilu; the first also makes its body."""
        g = self.g
        attributes = {"aim_edge_version": VERSION, "groups": self.config.norm_groups, "silu": int(silu), "eps": _EPS}
        if not self.functions:
            body = GraphBuilder(g.opset, g.precision, function=True)
            inputs = [ir.val(f"input_{i}") for i in range(3)]
            y = _group_norm_silu_body(body, self.config.norm_groups, *inputs)
            self.functions.append(body.function(DOMAIN, "GroupNormSilu", inputs, [y], list(attributes)))
        parameters = (self.w.full(f"{prefix}.weight"), self.w.full(f"{prefix}.bias"))
        return g.op("GroupNormSilu", x, *parameters, domain=DOMAIN, **attributes)

    def res(self, x: ir.Value, prefix: str) -> ir.Value:
        h = self.conv(self.norm(x, f"{prefix}.norm1"), f"{prefix}.conv1")
        h = self.conv(self.norm(h, f"{prefix}.norm2"), f"{prefix}.conv2")
        shortcut = f"{prefix}.nin_shortcut"
        return self.g.op("Add", h, self.conv(x, shortcut) if self.w.has(f"{shortcut}.weight") else x)

    def attention(self, x: ir.Value, prefix: str) -> ir.Value:
        g = self.g
        h = self.norm(x, f"{prefix}.norm", silu=False)
        channels = self.model.get_parameter(f"{prefix}.norm.weight").shape[0]
        q, k, v = (g.reshape(self.conv(h, f"{prefix}.{name}"), 0, channels, -1) for name in "qkv")
        q = g.op("Mul", g.transpose(q, 0, 2, 1), g.const(np.asarray(channels**-0.5, dtype=g.precision)))
        scores = g.act(g.op("Softmax", g.core(g.op("MatMul", q, k)), axis=-1))
        mixed = g.op("MatMul", v, g.transpose(scores, 0, 2, 1))
        mixed = g.reshape(mixed, 0, channels, self.height, self.width)
        return g.op("Add", x, self.conv(mixed, f"{prefix}.proj_out"))

    def middle(self, x: ir.Value, prefix: str) -> ir.Value:
        x = self.attention(self.res(x, f"{prefix}.0"), f"{prefix}.1")
        return self.res(x, f"{prefix}.2")

    def levels(self, x: ir.Value, prefix: str) -> ir.Value:
        """Residual blocks and attention of every level, with the change of resolution after it."""
        for i in range(len(self.config.ch_mult)):
            j = 0
            while self.w.has(f"{prefix}.{i}.res.{j}.conv1.weight"):
                x = self.res(x, f"{prefix}.{i}.res.{j}")
                if self.w.has(f"{prefix}.{i}.attn.{j}.q.weight"):
                    x = self.attention(x, f"{prefix}.{i}.attn.{j}")
                j += 1
            if self.w.has(f"{prefix}.{i}.downsample.conv.weight"):
                x = self.conv(x, f"{prefix}.{i}.downsample.conv", stride=2, pads=(0, 1))
                self.height, self.width = self.height // 2, self.width // 2
            if self.w.has(f"{prefix}.{i}.upsample.conv.weight"):
                self.height, self.width = self.height * 2, self.width * 2
                scales = self.g.const(np.array([1, 1, 2, 2], np.float32))
                nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
                x = self.conv(self.g.op("Resize", x, None, scales, **nearest), f"{prefix}.{i}.upsample.conv")
        return x

    def codebook(self) -> Array:
        """(n_embed, embed_dim), each code normalised as the quantiser does."""
        table: Array = self.model.quantize.unit().detach().float().cpu().numpy()
        return table


def decode_graph(model: VqModel, contract: Contract, lowering: str, precision: str) -> ir.Model:
    """codes (B, h, w) int32 -> image (B, C, H, W) float32, about [-1, 1], not clamped."""
    t = _Tokenizer(model, lowering, precision)
    g, spec = t.g, contract.graphs["vq_decode"]
    t.height, t.width = contract.dims.grid_height, contract.dims.grid_width
    codes = g.inputs(spec.inputs)["codes"]
    shape = (model.config.n_embed, model.config.embed_dim)
    table = g.weight("quantize.unit", t.codebook, shape, precision)
    x = g.transpose(g.op("Gather", table, codes, axis=0), 0, 3, 1, 2)
    x = t.conv(t.conv(x, "post_quant_conv"), "decoder.conv_in")
    x = t.levels(t.middle(x, "decoder.mid"), "decoder.conv_blocks")
    x = t.conv(t.norm(x, "decoder.norm_out"), "decoder.conv_out")
    return g.finish("vq_decode", spec, {"image": g.core(x)}, t.functions)


def encode_graph(model: VqModel, contract: Contract, lowering: str, precision: str) -> ir.Model:
    """image (B, C, H, W) float32 in [-1, 1] -> codes (B, h, w) int32, the nearest of each position."""
    t = _Tokenizer(model, lowering, precision)
    g, spec = t.g, contract.graphs["vq_encode"]
    t.height, t.width = contract.dims.image_height, contract.dims.image_width
    x = t.conv(g.act(g.inputs(spec.inputs)["image"]), "encoder.conv_in")
    x = t.middle(t.levels(x, "encoder.conv_blocks"), "encoder.mid")
    x = t.conv(t.norm(x, "encoder.norm_out"), "encoder.conv_out")
    features = g.transpose(g.core(t.conv(x, "quant_conv")), 0, 2, 3, 1)
    # All codes have length 1, so the nearest is the one with the largest product, whatever the feature's length.
    shape = (model.config.embed_dim, model.config.n_embed)
    table = g.weight("quantize.unit.T", lambda: t.codebook().T, shape, "float32")
    nearest = g.op("ArgMax", g.op("MatMul", features, table), axis=-1, keepdims=0)
    return g.finish("vq_encode", spec, {"codes": g.cast(nearest, "int32")}, t.functions)


def _group_norm_silu_body(g: GraphBuilder, groups: int, x: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
    flat = g.reshape(g.core(x), 0, groups, -1)
    flat = g.rms_norm(g.op("Sub", flat, g.mean(flat)), None, _EPS)
    normed = g.op("Reshape", flat, g.op("Shape", x))
    y = g.op("Add", g.op("Mul", normed, g.unsqueeze(weight, 1, 2)), g.unsqueeze(bias, 1, 2))
    applied = g.cast(g.attribute("silu"), "bool")
    return g.act(g.op("Where", applied, g.silu(y), y))
