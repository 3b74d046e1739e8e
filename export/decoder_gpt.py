"""The condition, step and scan graphs of LlamaGen's Transformer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aim_edge.aim.gpt import GptModel
from aim_edge.runtime.contract import Contract

from .attention import Place, attend, place_of
from .builder import GraphBuilder
from .mixers import Pair
from .operators_gpt import GptOperators, check_operators
from .weights import Weights

_LOWERINGS = ("primitive", "plugin", "plugin-fused")
_OPSET = 17


def check_gpt_lowering(model: GptModel, lowering: str) -> None:
    """Raises ValueError for a lowering that a Transformer has none of, or whose kernels do not have its sizes."""
    if lowering not in _LOWERINGS:
        raise ValueError(
            f"lowering is {lowering!r}; a Transformer has no selective scan to lower; allowed for it: "
            f"{', '.join(map(repr, _LOWERINGS))}"
        )
    if lowering != "primitive":
        check_operators(model.config)


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
    model: GptModel, contract: Contract, lowering: str, precision: str, state_dtype: str, *, sequence: bool
) -> ir.Model:
    """The step graph, or with `sequence` the scan graph, which has no operators of ours in any lowering."""
    return _Decoder(model, contract, lowering, precision, state_dtype, sequence).build()


class _Decoder:
    """Builds one of the two graphs.

    A scan is (R, L, ...) throughout with R rows; a step is (R, ...), and in its attention alone (R, 1, ...). The
    residual, norms, rotation and softmax are float32; matrix products are in the graph's precision.
    """

    def __init__(
        self, model: GptModel, contract: Contract, lowering: str, precision: str, state_dtype: str, sequence: bool
    ) -> None:
        self.config = model.config
        self.name = "scan" if sequence else "step"
        self.spec = contract.graphs[self.name]
        self.sequence = sequence
        self.state_dtype = state_dtype
        self.g = GraphBuilder(_OPSET, precision)
        self.w = Weights(model, self.g)
        self.table = model.rotary.detach().float().cpu().numpy()  # (T, P / 2, 2)
        self.fused = lowering == "plugin-fused"
        self.operators: GptOperators | None = None
        if lowering != "primitive" and not sequence:
            rotary = self.g.const(self.table.reshape(len(self.table), -1), "float32")
            self.operators = GptOperators(self.g, self.w, model.config, state_dtype, rotary, self.fused)
        self.place: Place | None = None
        self.modulation: ir.Value | None = None

    def build(self) -> ir.Model:
        g, config = self.g, self.config
        given = g.inputs(self.spec.inputs)
        self.position = given["position"]
        x = self._embed(given)
        if self.operators is not None and self.fused:
            # For every row, without a shape to compute: TensorRT would do that on the host.
            zero = g.op("Mul", g.unsqueeze(given["class_embedding"], 1), g.const(0.0, "float32"))
            vectors = np.stack([np.ones(config.d_model), np.zeros(config.d_model)])
            self.modulation = g.op("Add", zero, g.const(vectors, "float32"))
        outputs: dict[str, ir.Value] = {}
        branch: ir.Value | None = None
        for i in range(config.n_layer):
            prefix = f"layers.{i}"
            caches = given[f"k_cache_{i}"], given[f"v_cache_{i}"]
            y, x = self._enter(x, branch, f"{prefix}.attention_norm")
            branch, caches = self._attention(y, f"{prefix}.attention", caches)
            outputs[f"k_cache_out_{i}"], outputs[f"v_cache_out_{i}"] = caches
            y, x = self._enter(x, branch, f"{prefix}.ffn_norm")
            gate, up = (self._linear(y, f"{prefix}.feed_forward.{name}") for name in ("w1", "w3"))
            if self.operators is not None and self.fused:
                y = self.operators.gated(gate, up)
            else:
                y = g.op("Mul", g.silu(gate), up)
            branch = self._linear(y, f"{prefix}.feed_forward.w2")
        outputs["logits"] = self._head(self._enter(x, branch, "norm")[0], "output")
        functions = [] if self.operators is None else list(self.operators.functions.values())
        return g.finish(self.name, self.spec, outputs, functions)

    def _embed(self, given: dict[str, ir.Value]) -> ir.Value:
        """Float32 input, (R, L, d_model) or (R, d_model), the class where the position is 0; sets the place."""
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
        x = g.op("Where", first, g.unsqueeze(given["class_embedding"], 1), code)
        if self.operators is None:
            cosine, sine = self.table[..., 0], self.table[..., 1]
            cosines = g.const(np.repeat(cosine, 2, axis=-1), "float32")
            sines = g.const(np.stack([-sine, sine], axis=-1).reshape(len(sine), -1), "float32")
            self.place = place_of(g, self.config, position, cosines, sines, sequence=self.sequence)
        return x if self.sequence else g.squeeze(x, 1)

    def _enter(self, x: ir.Value, branch: ir.Value | None, norm: str) -> Pair:
        """What the next branch reads, and the residual with what the last one gave."""
        g, weight = self.g, self.w.full(f"{norm}.weight")
        if branch is not None and self.operators is not None and self.modulation is not None:
            return self.operators.add_norm(branch, x, self.modulation, weight)
        if branch is not None:
            x = g.op("Add", x, g.core(branch))
        return g.act(g.rms_norm(x, weight, self.config.norm_epsilon)), x

    def _linear(self, x: ir.Value, prefix: str) -> ir.Value:
        """float32 stays standard: what a kernel gains there is less than a library's tuning."""
        g = self.g
        if not self.fused or g.precision == "float32":
            return self.w.linear(x, prefix)
        if self.operators is not None:
            return self.operators.linear(x, prefix)
        # (out, in) in both graphs, so that it is stored once.
        return g.op("MatMul", x, g.transpose(self.w.stored(f"{prefix}.weight"), 1, 0))

    def _head(self, x: ir.Value, prefix: str) -> ir.Value:
        """Logits, float32."""
        if self.operators is not None and self.fused and self.g.precision != "float32":
            return self.operators.head(x, prefix)
        return self.g.core(self._linear(x, prefix))

    def _attention(self, x: ir.Value, prefix: str, caches: Pair) -> tuple[ir.Value, Pair]:
        """x like the residual -> the same, and both caches with this call's keys and values at their positions."""
        qkv = self._linear(x, f"{prefix}.wqkv")
        if self.operators is not None:
            y, caches = self.operators.attention(qkv, self.position, caches)
        elif self.place is not None:
            g = self.g
            kinds = g.precision, self.state_dtype
            qkv = qkv if self.sequence else g.unsqueeze(qkv, 1)
            y, caches = attend(g, self.config, *kinds, qkv, self.place, caches, sequence=self.sequence)
            y = y if self.sequence else g.squeeze(y, 1)
        else:
            raise RuntimeError("the embedding comes before the layers")
        return self._linear(y, f"{prefix}.wo"), caches
