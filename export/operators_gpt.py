"""A Transformer's decoding step in operators of the aim_edge domain, each with a body in standard operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from aim_edge.aim.gpt_config import GptConfig

from .attention import attend, place_of
from .builder import GraphBuilder
from .mixers import Pair
from .mixers_plugin import ada_ln_norm_body, call_operator, linear_body, linear_float32_body
from .weights import Weights

_LARGEST_HEAD, _LONGEST = 128, 4096  # of the kernel


def check_operators(config: GptConfig) -> None:
    """Raises ValueError where the kernels do not have the model's sizes."""
    bad = []
    if config.headdim % 8 or config.headdim > _LARGEST_HEAD:
        bad.append(f"d_model / nheads is {config.headdim}; CachedAttention takes 8 to {_LARGEST_HEAD} in steps of 8")
    if config.num_tokens > _LONGEST:
        bad.append(f"num_tokens is {config.num_tokens}; CachedAttention takes up to {_LONGEST}")
    if bad:
        raise ValueError("; ".join(bad) + "; the lowering primitive takes any")


@dataclass(frozen=True)
class GptOperators:
    """The operators of a step graph, whose activations are (R, ...) without a length.

    Attributes:
        builder, weights, config, state_dtype: of the graph.
        rotary: (T, P) float32, cosine and sine of each angle in turn.
        fused: whether norms and projections are operators, too.
        functions: the bodies, by operator.
    """

    builder: GraphBuilder
    weights: Weights
    config: GptConfig
    state_dtype: str
    rotary: ir.Value
    fused: bool
    functions: dict[str, ir.Function] = field(default_factory=dict)

    def attention(self, qkv: ir.Value, position: ir.Value, caches: Pair) -> tuple[ir.Value, Pair]:
        """qkv (R, 3 H P), position (B) int32 -> (R, H P), and the caches."""
        config = self.config
        y, k_cache, v_cache = call_operator(
            self.builder, self.functions, "CachedAttention", (qkv, self.rotary, position, *caches),
            partial(_attention_body, config=config, state_dtype=self.state_dtype),
            outputs=3, nheads=config.nheads, headdim=config.headdim,
        )  # fmt: skip
        return y, (k_cache, v_cache)

    def add_norm(self, branch: ir.Value, residual: ir.Value, modulation: ir.Value, weight: ir.Value) -> Pair:
        """The norm of the residual with the branch added, and that residual.

        modulation is (R, 2, d_model): ones, which gate the branch, then zeros, by which nothing is modulated.
        """
        eps = self.config.norm_epsilon

        def body(g: GraphBuilder, *values: ir.Value) -> tuple[ir.Value, ...]:
            return ada_ln_norm_body(g, eps, *values)

        x, residual = call_operator(
            self.builder, self.functions, "AdaLnNorm", (branch, residual, modulation, weight), body,
            outputs=2, gate_index=0, shift_index=1, scale_index=1, eps=eps,
        )  # fmt: skip
        return x, residual

    def linear(self, x: ir.Value, prefix: str) -> ir.Value:
        """x W^T over few rows; float16 only."""
        return self._product("Linear", linear_body, x, prefix)

    def head(self, x: ir.Value, prefix: str) -> ir.Value:
        """x W^T in float32, the sums as they are; of float16 only."""
        return self._product("LinearFloat32", linear_float32_body, x, prefix)

    def _product(self, name: str, body: Callable[..., tuple[ir.Value, ...]], x: ir.Value, prefix: str) -> ir.Value:
        weight = self.weights.stored(f"{prefix}.weight")
        return call_operator(self.builder, self.functions, name, (x, weight), body, outputs=1)[0]

    def gated(self, gate: ir.Value, up: ir.Value) -> ir.Value:
        """silu(gate) * up."""
        return call_operator(self.builder, self.functions, "SwiGlu", (gate, up), _swi_glu_body, outputs=1)[0]


def _swi_glu_body(g: GraphBuilder, gate: ir.Value, up: ir.Value) -> tuple[ir.Value, ...]:
    return (g.act(g.op("Mul", g.silu(g.core(gate)), g.core(up))),)


def _attention_body(
    g: GraphBuilder,
    qkv: ir.Value,
    rotary: ir.Value,
    position: ir.Value,
    k_cache: ir.Value,
    v_cache: ir.Value,
    *,
    config: GptConfig,
    state_dtype: str,
) -> tuple[ir.Value, ...]:
    """In float32, as the kernel computes, then back to the activations' dtype."""
    rows, images = (g.op("Gather", g.op("Shape", x), g.const(0, "int64"), axis=0) for x in (qkv, position))
    row = g.op("Range", g.const(0, "int64"), rows, g.const(1, "int64"))
    at = g.unsqueeze(g.op("Gather", position, g.op("Mod", row, images), axis=0), 1)  # (R, 1)
    even = np.arange(config.headdim) // 2 * 2
    sign = np.where(np.arange(config.headdim) % 2, 1.0, -1.0)
    cosines, sines = (g.op("Gather", rotary, g.const(even + i, "int64"), axis=1) for i in (0, 1))
    place = place_of(g, config, at, cosines, g.op("Mul", sines, g.const(sign, "float32")), sequence=False)
    qkv = g.unsqueeze(g.core(qkv), 1)
    y, caches = attend(g, config, "float32", state_dtype, qkv, place, (k_cache, v_cache), sequence=False)
    return g.act(g.squeeze(y, 1)), *caches
