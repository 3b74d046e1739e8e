"""The condition, step and scan graphs of LlamaGen's Transformer, in standard operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aim_edge.aim.gpt import GptModel
from aim_edge.runtime.contract import Contract

from .builder import GraphBuilder
from .mixers import Pair
from .weights import Weights

LOWERING = "primitive"
_OPSET = 17
_UNSEEN = -1e9  # added to a score that must not count; float32, so no score reaches it


def check_gpt_lowering(lowering: str) -> None:
    """Raises ValueError for a lowering that a Transformer has none of."""
    if lowering != LOWERING:
        raise ValueError(
            f"lowering is {lowering!r}; a Transformer has no selective scan to lower; allowed for it: {LOWERING!r}"
        )


def gpt_condition_graph(model: GptModel, contract: Contract, precision: str) -> ir.Model:
    """class_ids (B) -> class embedding for 2 B rows, float32."""
    spec = contract.graphs["condition"]
    g = GraphBuilder(_OPSET, precision)
    ids = g.inputs(spec.inputs)["class_ids"]
    null = g.op("Add", g.op("Sub", ids, ids), g.const(model.config.num_classes, "int32"))
    table = Weights(model, g).stored("cls_embedding.embedding_table.weight")
    embedding = g.core(g.op("Gather", table, g.op("Concat", ids, null, axis=0), axis=0))
    return g.finish("condition", spec, {"class_embedding": embedding})


def gpt_decoder_graph(
    model: GptModel, contract: Contract, precision: str, state_dtype: str, *, sequence: bool
) -> ir.Model:
    """The step graph, or with `sequence` the scan graph."""
    return _Decoder(model, contract, precision, state_dtype, sequence).build()


class _Decoder:
    """Builds one of the two graphs; a step is a sequence of one, (R, L, ...) throughout with R rows and L = 1.

    The residual, norms, rotation and softmax are float32; matrix products are in the graph's precision.
    """

    def __init__(self, model: GptModel, contract: Contract, precision: str, state_dtype: str, sequence: bool) -> None:
        self.config = model.config
        self.name = "scan" if sequence else "step"
        self.spec = contract.graphs[self.name]
        self.sequence = sequence
        self.state_dtype = state_dtype
        self.g = GraphBuilder(_OPSET, precision)
        self.w = Weights(model, self.g)
        table = model.rotary.detach().float().cpu().numpy()  # (T, P / 2, 2)
        cosine, sine = table[..., 0], table[..., 1]
        self.cosines = np.repeat(cosine, 2, axis=-1)
        self.sines = np.stack([-sine, sine], axis=-1).reshape(self.cosines.shape)

    def build(self) -> ir.Model:
        g, w, config = self.g, self.w, self.config
        given = g.inputs(self.spec.inputs)
        x, position = self._embed(given)
        at = g.unsqueeze(position, 1, 3)  # (R, 1, L, 1)
        codes = g.const(np.arange(config.num_tokens, dtype=np.int32))
        seen = g.op("LessOrEqual", codes, at)  # (R, 1, L, T)
        self.bias = g.op("Where", seen, g.const(0.0, "float32"), g.const(_UNSEEN, "float32"))
        self.index = g.op("Expand", at, g.ints(1, config.nheads, 1, config.headdim))
        self.turn = tuple(
            g.unsqueeze(g.op("Gather", g.const(table, "float32"), position, axis=0), 2)
            for table in (self.cosines, self.sines)
        )  # (R, L, 1, P) each
        outputs: dict[str, ir.Value] = {}
        for i in range(config.n_layer):
            prefix = f"layers.{i}"
            caches = given[f"k_cache_{i}"], given[f"v_cache_{i}"]
            y, caches = self._attention(self._normed(x, f"{prefix}.attention_norm"), f"{prefix}.attention", caches)
            outputs[f"k_cache_out_{i}"], outputs[f"v_cache_out_{i}"] = caches
            x = g.op("Add", x, g.core(y))
            y = self._normed(x, f"{prefix}.ffn_norm")
            gated = g.silu(w.linear(y, f"{prefix}.feed_forward.w1"))
            y = g.op("Mul", gated, w.linear(y, f"{prefix}.feed_forward.w3"))
            x = g.op("Add", x, g.core(w.linear(y, f"{prefix}.feed_forward.w2")))
        logits = w.linear(self._normed(x, "norm"), "output")
        outputs["logits"] = g.core(logits if self.sequence else g.squeeze(logits, 1))
        return g.finish(self.name, self.spec, outputs)

    def _embed(self, given: dict[str, ir.Value]) -> Pair:
        """Float32 input (R, L, d_model), the class where the position is 0, and the positions (R, L) int32."""
        g = self.g
        position = g.unsqueeze(given["position"], 1)
        if self.sequence:
            tokens = given["tokens"]
            length = g.op("Gather", g.op("Shape", tokens), g.const(1, "int64"), axis=0)
            steps = g.op("Range", g.const(0, "int32"), g.cast(length, "int32"), g.const(1, "int32"))
            position = g.op("Add", position, steps)
        else:
            tokens = g.unsqueeze(given["token"], 1)
        code = g.core(g.op("Gather", self.w.stored("tok_embeddings.weight"), tokens, axis=0))
        code, position = (g.op("Concat", v, v, axis=0) for v in (code, position))  # both rows follow one token
        first = g.unsqueeze(g.op("Equal", position, g.const(0, "int32")), 2)
        return g.op("Where", first, g.unsqueeze(given["class_embedding"], 1), code), position

    def _normed(self, x: ir.Value, prefix: str) -> ir.Value:
        return self.g.act(self.g.rms_norm(x, self.w.full(f"{prefix}.weight"), self.config.norm_epsilon))

    def _attention(self, x: ir.Value, prefix: str, caches: Pair) -> tuple[ir.Value, Pair]:
        """(R, L, d_model) -> the same, and both caches with this call's keys and values at their positions."""
        g, config = self.g, self.config
        heads, headdim = config.nheads, config.headdim
        pairs, v = g.split(self.w.linear(x, f"{prefix}.wqkv"), [2 * config.d_model, config.d_model])
        pairs = self._rotated(g.reshape(g.core(pairs), 0, 0, 2 * heads, headdim))
        q, k = g.split(pairs, [heads, heads], axis=2)
        q = g.op("Mul", q, g.const(headdim**-0.5, "float32"))  # before the product: float16 has no room above 65504
        q, k = (g.act(g.transpose(y, 0, 2, 1, 3)) for y in (q, k))
        v = g.transpose(g.reshape(v, 0, 0, heads, headdim), 0, 2, 1, 3)
        k_cache, v_cache = (self._written(cache, y) for cache, y in zip(caches, (k, v), strict=True))
        keys, values = (g.convert(cache, self.state_dtype, g.precision) for cache in (k_cache, v_cache))
        scores = g.core(g.op("MatMul", q, g.transpose(keys, 0, 1, 3, 2)))
        shares = g.act(g.op("Softmax", g.op("Add", scores, self.bias), axis=-1))
        y = g.transpose(g.op("MatMul", shares, values), 0, 2, 1, 3)
        return self.w.linear(g.reshape(y, 0, 0, config.d_model), f"{prefix}.wo"), (k_cache, v_cache)

    def _written(self, cache: ir.Value, new: ir.Value) -> ir.Value:
        """The cache (R, H, T, P) with the new (R, H, L, P) in it."""
        new = self.g.convert(new, self.g.precision, self.state_dtype)
        return self.g.op("ScatterElements", cache, self.index, new, axis=2)

    def _rotated(self, x: ir.Value) -> ir.Value:
        """Neighbours (2i, 2i + 1) of x (R, L, 2 H, P) turned by their angle: x cos + swapped(x) (-sin, sin)."""
        g = self.g
        swapped = g.op("Gather", x, g.const(np.arange(self.config.headdim) ^ 1, "int64"), axis=3)
        cosine, sine = self.turn
        return g.op("Add", g.op("Mul", x, cosine), g.op("Mul", swapped, sine))
