"""The condition, step and scan graphs of an AiM model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from aim_edge.aim.config import AimConfig
from aim_edge.aim.model import AimModel
from aim_edge.runtime.contract import Contract

from .builder import GraphBuilder
from .ends import FINAL_EPS, embed, head_input, modulated
from .lowerings import LOWERINGS
from .mixers import Pair, Recurrence
from .mixers_layers import PluginLayers
from .mixers_lazy import HISTORY, PluginLazy
from .mixers_plugin import PluginFused
from .quantize import Quantised
from .weights import Weights


def condition_graph(model: AimModel, contract: Contract, lowering: str, precision: str) -> ir.Model:
    """class_ids (B) -> modulation of all layers, final modulation and class embedding for 2 B rows, float32.

    The arithmetic is float32 in every precision (it runs once an image); only storage follows `precision`.
    """
    config, spec = model.config, contract.graphs["condition"]
    g = GraphBuilder(LOWERINGS[lowering].opset, precision)
    w = Weights(model, g)
    ids = g.inputs(spec.inputs)["class_ids"]
    zero = g.op("Sub", ids, ids)
    null = g.op("Add", zero, g.const(config.num_classes, "int32"))
    rows = g.op("Concat", ids, null, axis=0)
    table = w.stored("backbone.cls_embed.embedding_table.weight")
    embedding = g.core(g.op("Gather", table, rows, axis=0))
    active = g.silu(embedding)

    def project(prefix: str, vectors: int) -> ir.Value:
        y = g.op("MatMul", active, g.core(w.matrix(f"{prefix}.weight")))
        y = g.op("Add", y, g.core(w.stored(f"{prefix}.bias")))
        return g.reshape(y, 0, vectors, config.d_model)

    factor = config.adaln_factor
    if config.adaln_group:
        groups = g.split(
            project("backbone.adaln_group.1", config.adaln_num_groups * factor), [factor] * config.adaln_num_groups, 1
        )
        layers = [
            g.op("Add", groups[i % config.adaln_num_groups], g.core(w.stored(f"backbone.layers.{i}.scale_shift_table")))
            for i in range(config.n_layer)
        ]
    else:
        layers = [project(f"backbone.layers.{i}.adaLN_modulation.1", factor) for i in range(config.n_layer)]
    stacked = g.op("Concat", *(g.unsqueeze(layer, 1) for layer in layers), axis=1)
    final = project("backbone.final_layer.adaLN_modulation.1", 2)
    outputs = {"modulation": stacked, "final_modulation": final, "class_embedding": embedding}
    return g.finish("condition", spec, outputs)


def decoder_graph(
    model: AimModel, contract: Contract, lowering: str, precision: str, state_dtype: str, *, sequence: bool,
    keep_float32: Collection[int] = (), quantised: Mapping[str, Quantised] | None = None,
) -> ir.Model:  # fmt: skip
    """The step graph, or with `sequence` the scan graph; the layers of `keep_float32` compute in float32.

    `quantised` matrices are stored as codes (plugin-fused).
    """
    return _Decoder(model, contract, lowering, precision, state_dtype, sequence, keep_float32, quantised).build()


def check_keep_float32(layers: Collection[int], n_layer: int, lowering: str, precision: str) -> None:
    """Raises ValueError where these layers cannot be kept in float32."""
    if bad := [i for i in layers if type(i) is not int or not 0 <= i < n_layer]:
        raise ValueError(f"keep_float32 holds {bad}; allowed: layers 0..{n_layer - 1}")
    if layers and (precision != "float16" or lowering in ("plugin-fused", "plugin-layers")):
        raise ValueError(
            f"keep_float32 is {sorted(layers)} with lowering {lowering!r} and precision {precision!r}; it is for "
            "float16, in a lowering other than plugin-fused and -layers, whose operators hold several layers' parts"
        )


# What a mixer or an MLP gave, its dtype, and the index of the vector that gates it.
Branch = tuple[ir.Value, str, int]


class _Decoder:
    """Builds one of the two graphs; `x` is (rows, d_model) in step and (rows, L, d_model) in scan."""

    def __init__(
        self,
        model: AimModel,
        contract: Contract,
        lowering: str,
        precision: str,
        state_dtype: str,
        sequence: bool,
        keep_float32: Collection[int] = (),
        quantised: Mapping[str, Quantised] | None = None,
    ) -> None:
        check_keep_float32(keep_float32, model.config.n_layer, lowering, precision)
        self.keep_float32 = frozenset(keep_float32)
        chosen = LOWERINGS[lowering]
        self.config: AimConfig = model.config
        self.name = "scan" if sequence else "step"
        self.spec = contract.graphs[self.name]
        self.sequence = sequence
        self.g = GraphBuilder(chosen.opset, precision)
        self.g.mixed = bool(self.keep_float32)
        self.w = Weights(model, self.g, quantised)
        lazy = any(state.input.startswith("x_history") for state in contract.states)
        kind = PluginLazy if lazy else chosen.recurrence
        self.recurrence: Recurrence = kind(self.g, self.w, model.config, sequence, state_dtype)

    def build(self) -> ir.Model:
        g, config = self.g, self.config
        given = g.inputs(self.spec.inputs)
        count = config.n_layer * config.adaln_factor
        self.modulation = given["modulation"]
        self.vectors: tuple[ir.Value, ...] = ()
        if isinstance(self.recurrence, PluginFused) and not self.sequence:
            self.modulation = g.reshape(self.modulation, 0, count, config.d_model)
        else:
            self.vectors = self._vectors(self.modulation, count)
        if isinstance(self.recurrence, PluginLayers) and not self.sequence:
            whole = self.recurrence.step(given, self.modulation)
            return g.finish(self.name, self.spec, whole, list(self.recurrence.functions.values()))
        outputs: dict[str, ir.Value] = {}
        entered = self._start(given)
        residual = self._embed(given) if entered is None else entered[1]
        if isinstance(self.recurrence, PluginLayers):
            for kind in ("conv_state", "ssm_state"):
                given |= {f"{kind}_{i}": g.layer(given[kind], i, 1) for i in range(config.n_layer)}
        branch: Branch | None = None
        for i in range(config.n_layer):
            with g.computing("float32" if i in self.keep_float32 else g.base):
                residual, branch = self._layer(i, residual, branch, given, outputs, entered)
            entered = None
        if isinstance(self.recurrence, PluginLayers):
            for kind in ("conv_state_out", "ssm_state_out"):
                parts = [g.unsqueeze(outputs.pop(f"{kind}_{i}"), 1) for i in range(config.n_layer)]
                outputs[kind] = g.op("Concat", *parts, axis=1)
        outputs["logits"] = self._head(self._leave(residual, branch, given["final_modulation"]))
        return g.finish(self.name, self.spec, outputs, list(self.recurrence.functions.values()))

    def _layer(
        self, i: int, residual: ir.Value, branch: Branch | None, given: dict[str, ir.Value],
        outputs: dict[str, ir.Value], entered: Pair | None,
    ) -> tuple[ir.Value, Branch]:  # fmt: skip
        """Adds a layer, and its new states to the outputs; `entered` is what `_enter` gives, where that is made."""
        g, w, config = self.g, self.w, self.config
        prefix, first = f"backbone.layers.{i}", i * config.adaln_factor
        # Published order with an MLP: shift, shift_mlp, scale, scale_mlp, gate, gate_mlp.
        width = 2 if config.d_intermediate else 1
        shift, scale, gate = (first + k * width for k in range(3))
        x, residual = entered or self._enter(residual, branch, f"{prefix}.norm.weight", shift, scale)
        x = self.recurrence.linear(x, f"{prefix}.mixer.in_proj")
        inner = self.recurrence.mamba2_inner if config.layer == "Mamba2" else self.recurrence.mamba1_inner
        states = given[f"conv_state_{i}"], given[f"ssm_state_{i}"]
        if isinstance(self.recurrence, PluginLazy):
            history = [given[f"{name}_{i}"] for name in HISTORY]
            y, conv, ssm, *new = self.recurrence.lazy_inner(x, f"{prefix}.mixer", *states, history)
            outputs |= {f"{name}_out_{i}": value for name, value in zip(HISTORY, new, strict=True)}
        else:
            y, conv, ssm = inner(x, f"{prefix}.mixer", *states)
        branch = self.recurrence.linear(y, f"{prefix}.mixer.out_proj"), g.precision, gate
        outputs[f"conv_state_out_{i}"], outputs[f"ssm_state_out_{i}"] = conv, ssm
        if config.d_intermediate:
            x, residual = self._enter(residual, branch, f"{prefix}.norm2.weight", shift + 1, scale + 1)
            value, gated = g.split(w.linear(x, f"{prefix}.mlp.fc1"), [config.mlp_hidden] * 2)
            branch = w.linear(g.op("Mul", value, g.silu(gated)), f"{prefix}.mlp.fc2"), g.precision, gate + 1
        return residual, branch

    def _enter(self, residual: ir.Value, branch: Branch | None, norm: str, shift: int, scale: int) -> Pair:
        """Adds what the last branch gave to the residual: what the next branch reads, and the new residual."""
        weight, eps = self.w.full(norm), self.config.norm_epsilon
        if branch is not None and isinstance(self.recurrence, PluginFused) and not self.sequence:
            y, _, gate = branch
            indices = {"gate_index": gate, "shift_index": shift, "scale_index": scale}
            return self.recurrence.ada_ln_norm(y, residual, self.modulation, weight, eps=eps, **indices)
        residual = self._joined(residual, branch)
        return modulated(self.g, residual, weight, self.vectors[shift], self.vectors[scale], eps), residual

    def _joined(self, residual: ir.Value, branch: Branch | None) -> ir.Value:
        g = self.g
        if branch is None:
            return residual
        y, dtype, gate = branch
        return g.op("Add", residual, g.op("Mul", g.convert(y, dtype, "float32"), self.vectors[gate]))

    def _vectors(self, packed: ir.Value, count: int) -> tuple[ir.Value, ...]:
        """(rows, ..., d_model) as `count` vectors (rows, [1,] d_model)."""
        g = self.g
        flat = g.reshape(packed, 0, count * self.config.d_model)
        if self.sequence:
            flat = g.unsqueeze(flat, 1)
        return g.split(flat, [self.config.d_model] * count)

    def _embed(self, given: dict[str, ir.Value]) -> ir.Value:
        g, config = self.g, self.config
        position, label = given["position"], given["class_embedding"]
        if self.sequence:
            tokens = given["tokens"]
            length = g.op("Gather", g.op("Shape", tokens), g.const(1, "int64"), axis=0)
            steps = g.op("Range", g.const(0, "int32"), g.cast(length, "int32"), g.const(1, "int32"))
            position, label = g.op("Add", g.unsqueeze(position, 1), steps), g.unsqueeze(label, 1)  # (B, L)
        else:
            tokens = given["token"]
        return embed(g, config, tokens, position, label, *self._tables())

    def _tables(self) -> Pair:
        """Of tokens and of places."""
        prefix = "backbone.embeddings"
        return self.w.stored(f"{prefix}.word_embeddings.weight"), self.w.stored(f"{prefix}.position_embeddings.weight")

    def _start(self, given: dict[str, ir.Value]) -> Pair | None:
        """What `_enter` gives in the first layer, where one operator makes it of the graph's inputs."""
        config = self.config
        if not isinstance(self.recurrence, PluginFused) or self.sequence:
            return None
        return self.recurrence.embed_norm(
            *(given[name] for name in ("token", "position", "class_embedding")),
            *self._tables(), self.modulation, self.w.full("backbone.layers.0.norm.weight"),
            position_offset=int(config.decode_position_offset), shift_index=0,
            scale_index=2 if config.d_intermediate else 1, eps=config.norm_epsilon,
        )  # fmt: skip

    def _leave(self, residual: ir.Value, branch: Branch | None, final_modulation: ir.Value) -> ir.Value:
        """Adds what the last branch gave to the residual, and takes both norms: what the head reads."""
        g, w, config = self.g, self.w, self.config
        norms = w.full("backbone.norm_f.weight"), w.full("backbone.final_layer.norm_final.weight")
        if branch is not None and isinstance(self.recurrence, PluginFused) and not self.sequence:
            y, _, gate = branch
            attributes = {"gate_index": gate, "eps": config.norm_epsilon, "final_eps": FINAL_EPS}
            return self.recurrence.final_norm(y, residual, self.modulation, (final_modulation, *norms), **attributes)
        shift, scale = self._vectors(final_modulation, 2)
        return head_input(g, config, self._joined(residual, branch), *norms, shift, scale)

    def _head(self, x: ir.Value) -> ir.Value:
        """The tied head; logits float32."""
        g, w, config = self.g, self.w, self.config
        name = "backbone.embeddings.word_embeddings.weight"
        half_step = not self.sequence and g.precision != "float32"
        if isinstance(self.recurrence, PluginFused) and (name in w.quantised or half_step):
            return self.recurrence.head(x, name)
        table = w.stored(name)
        if not self.sequence:  # Gemm reads the embedding table as it lies, so that it is stored once
            return g.core(g.op("Gemm", x, table, transB=1))
        # Not Shape's own end attribute: TensorRT 8's parser ignores it.
        shape = g.op("Concat", g.slice(g.op("Shape", x), 0, 2, 0), g.ints(config.vocab_size), axis=0)
        logits = g.op("Gemm", g.reshape(x, -1, config.d_model), table, transB=1)
        return g.core(g.op("Reshape", logits, shape))
