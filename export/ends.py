"""What of an AiM decoder lies before and after its layers, for a graph or an operator's body."""

from __future__ import annotations

import onnx_ir as ir

from aim_edge.aim.config import AimConfig

from .builder import GraphBuilder

FINAL_EPS = 1e-5  # of the final layer's own norm


def embed(
    g: GraphBuilder, config: AimConfig, tokens: ir.Value, position: ir.Value, label: ir.Value, words: ir.Value,
    places: ir.Value,
) -> ir.Value:  # fmt: skip
    """Float32 input rows; at position 0 the class embedding takes the token's place.

    Args:
        g: of the graph.
        config: of the model.
        tokens: (B) or (B, L) int32.
        position: of each token.
        label: the class embedding, (rows, d_model) or (rows, 1, d_model); both guidance rows follow one token.
        words: the table of tokens.
        places: the table of positions.
    """
    one, zero = g.const(1, "int32"), g.const(0, "int32")
    first = g.op("Equal", position, zero)
    index = position if config.decode_position_offset else g.op("Max", g.op("Sub", position, one), zero)
    word = g.op("Gather", words, tokens, axis=0)
    place = g.op("Gather", places, index, axis=0)
    x = g.op("Add", g.core(word), g.core(place))
    x, first = (g.op("Concat", v, v, axis=0) for v in (x, first))
    return g.op("Where", g.unsqueeze(first, -1), label, x)


def modulated(g: GraphBuilder, x: ir.Value, weight: ir.Value, shift: ir.Value, scale: ir.Value, eps: float) -> ir.Value:
    """norm(x) * (1 + scale) + shift, float32 up to the last cast."""
    normed = g.rms_norm(x, weight, eps)
    return g.act(g.op("Add", g.op("Mul", normed, g.op("Add", scale, g.const(1.0, "float32"))), shift))


def head_input(
    g: GraphBuilder, config: AimConfig, x: ir.Value, norm_f: ir.Value, norm_final: ir.Value, shift: ir.Value,
    scale: ir.Value,
) -> ir.Value:  # fmt: skip
    """What the head multiplies: two norms in a row, as published."""
    return modulated(g, g.rms_norm(x, norm_f, config.norm_epsilon), norm_final, shift, scale, FINAL_EPS)
