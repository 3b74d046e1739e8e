"""A Transformer's attention over its caches, in standard operators: the graph's own, and the operator's body.

Letters: R rows, L length, H nheads, P headdim, T num_tokens, B images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from aim_edge.aim.gpt_config import GptConfig

from .builder import GraphBuilder
from .mixers import Pair

_UNSEEN = -1e9  # added to a score that must not count; float32, so no score reaches it


@dataclass(frozen=True)
class Place:
    """Where the tokens of a call stand, the same for every layer.

    turn: cosines, and sines with their signs, (R, L, 1, P) each.
    index: (R, H, L, P) int32, the positions in the caches; of a single token (R, 1, T, 1) bool, where it is.
    bias: (R, 1, L, T) float32, 0 or so low that a score does not count.
    """

    turn: Pair
    index: ir.Value
    bias: ir.Value


def place_of(
    g: GraphBuilder, config: GptConfig, position: ir.Value, cosines: ir.Value, sines: ir.Value, *, sequence: bool
) -> Place:
    """position (R, L) int32, cosines and signed sines (T, P) float32 -> where its tokens stand; else than in a
    `sequence` L is 1."""
    at = g.unsqueeze(position, 1, 3)  # (R, 1, L, 1)
    places = np.arange(config.num_tokens, dtype=np.int32)
    seen = g.op("LessOrEqual", g.const(places), at)  # (R, 1, L, T)
    bias = g.op("Where", seen, g.const(0.0, "float32"), g.const(_UNSEEN, "float32"))
    if sequence:
        index = g.op("Expand", at, g.ints(1, config.nheads, 1, config.headdim))
    else:
        index = g.op("Equal", g.const(places[:, None]), at)
    cosine, sine = (g.unsqueeze(g.op("Gather", table, position, axis=0), 2) for table in (cosines, sines))
    return Place((cosine, sine), index, bias)


def attend(
    g: GraphBuilder, config: GptConfig, precision: str, state_dtype: str, qkv: ir.Value, place: Place, caches: Pair,
    *, sequence: bool,
) -> tuple[ir.Value, Pair]:  # fmt: skip
    """qkv (R, L, 3 H P) -> (R, L, H P), and both caches (R, H, T, P) with this call's keys and values.

    Rotation and softmax are float32; `precision` is that of qkv and of the matrix products.
    """
    heads, headdim = config.nheads, config.headdim
    pairs, v = g.split(qkv, [2 * config.d_model, config.d_model])
    pairs = g.reshape(g.convert(pairs, precision, "float32"), 0, 0, 2 * heads, headdim)
    q, k = g.split(_rotated(g, pairs, headdim, place.turn), [heads, heads], axis=2)
    q = g.op("Mul", q, g.const(headdim**-0.5, "float32"))  # before the product: float16 has no room above 65504
    q, k = (g.convert(g.transpose(y, 0, 2, 1, 3), "float32", precision) for y in (q, k))
    v = g.transpose(g.reshape(v, 0, 0, heads, headdim), 0, 2, 1, 3)
    written = []
    for cache, new in zip(caches, (k, v), strict=True):
        new = g.convert(new, precision, state_dtype)
        if sequence:
            written.append(g.op("ScatterElements", cache, place.index, new, axis=2))
        else:
            written.append(g.op("Where", place.index, new, cache))
    keys, values = (g.convert(cache, state_dtype, precision) for cache in written)
    scores = g.convert(g.op("MatMul", q, g.transpose(keys, 0, 1, 3, 2)), precision, "float32")
    shares = g.convert(g.op("Softmax", g.op("Add", scores, place.bias), axis=-1), "float32", precision)
    y = g.transpose(g.op("MatMul", shares, values), 0, 2, 1, 3)
    return g.reshape(y, 0, 0, config.d_model), (written[0], written[1])


def _rotated(g: GraphBuilder, x: ir.Value, headdim: int, turn: Pair) -> ir.Value:
    """Neighbours (2i, 2i + 1) of x (R, L, 2 H, P) turned by their angle: x cos + swapped(x) (-sin, sin)."""
    swapped = g.op("Gather", x, g.const(np.arange(headdim) ^ 1, "int64"), axis=3)
    cosine, sine = turn
    return g.op("Add", g.op("Mul", x, cosine), g.op("Mul", swapped, sine))
