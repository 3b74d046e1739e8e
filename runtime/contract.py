"""Names, dtypes and shapes of every graph: all that `runtime` knows of the model.

The exporter writes graphs that follow this file, the manifest carries it as JSON, and every backend
binds by it. Shape letters: B images, rows = 2 B (guidance: the label rows 0..B-1, then the null-label
rows B..2B-1), L length, V vocab_size. Symbolic dimensions are strings ("batch", "rows", "length").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

DTYPES = ("float32", "float16")
LOWERINGS = ("primitive", "onnx", "onnx-opset27", "plugin", "plugin-fused", "plugin-layers")
GRAPHS = ("condition", "step", "scan", "vq_decode", "vq_encode")
FAMILIES = ("aim", "gpt")  # AiM, and LlamaGen's Transformer
_AIM_ONLY = ("adaln_factor", "d_state", "d_conv", "conv_dim")

Dim = int | str


def check_keys(cls: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError naming every key of `values` that `cls` lacks and every one it needs."""
    known = {f.name for f in fields(cls)}
    unknown, missing = sorted(set(values) - known), sorted(known - set(values))
    if unknown or missing:
        raise ValueError(f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}; allowed: {sorted(known)}")


def check_known(cls: type, values: Mapping[str, Any], what: str) -> None:
    """Raises ValueError naming every key of `values` that `cls` lacks; keys left out keep their default."""
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{what}: unknown keys {unknown}; allowed: {known}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; `shape` mixes sizes and symbolic names."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TensorSpec:
        check_keys(cls, values)
        return cls(values["name"], values["dtype"], tuple(values["shape"]))


@dataclass(frozen=True)
class GraphSpec:
    """One graph of the bundle: its file (relative to the bundle) and its inputs and outputs in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GraphSpec:
        check_keys(cls, values)
        read = TensorSpec.from_dict
        return cls(values["file"], tuple(map(read, values["inputs"])), tuple(map(read, values["outputs"])))


@dataclass(frozen=True)
class ModelDims:
    """The sizes that the graphs' shapes follow from.

    For Mamba-1 `nheads` is d_inner and `headdim` is 1: one head a channel. A Transformer has no adaln_factor, d_state,
    d_conv and conv_dim: they are 0.
    """

    d_model: int
    n_layer: int
    vocab_size: int
    num_classes: int
    num_tokens: int
    adaln_factor: int
    nheads: int
    headdim: int
    d_state: int
    d_conv: int
    conv_dim: int
    image_channels: int
    image_height: int
    image_width: int
    grid_height: int
    grid_width: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelDims:
        check_keys(cls, values)
        transformer = all(values[name] == 0 for name in _AIM_ONLY)
        least = {name: 0 if transformer and name in _AIM_ONLY else 1 for name in values}
        bad = {k: v for k, v in values.items() if type(v) is not int or v < least[k]}
        if bad:
            raise ValueError(
                f"ModelDims: every size is an integer >= 1 (a Transformer's {', '.join(_AIM_ONLY)} all 0); found {bad}"
            )
        return cls(**values)


@dataclass(frozen=True)
class StateSpec:
    """One state: the graph's input and output that carry it, and its shape for one row.

    `transposed` is True where the graph's ssm_state is (nheads, d_state, headdim) (com.microsoft
    LinearAttention) instead of the canonical (nheads, headdim, d_state). `shape` is as the graph has it. `layers`
    is how many layers' states are stacked in it, as its first dimension; 0: it is one layer's own.
    """

    input: str
    output: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool = False
    layers: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StateSpec:
        values = {"layers": 0, **values}  # bundles from before states were stacked lack it
        check_keys(cls, values)
        return cls(**{**values, "shape": tuple(values["shape"])})


@dataclass(frozen=True)
class Contract:
    """Everything a backend binds by. Build it with `build_contract` or `build_gpt_contract`, read it with `from_dict`.

    `family` is of `FAMILIES`: which model draws the codes.
    """

    dims: ModelDims
    graphs: dict[str, GraphSpec]
    states: tuple[StateSpec, ...]
    family: str = "aim"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form (tuples become lists when dumped)."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Reads `to_dict`'s form. Raises ValueError on unknown or missing keys, and on an unknown family."""
        values = {"family": "aim", **values}  # bundles from before there were two lack it
        check_keys(cls, values)
        dims = ModelDims.from_dict(values["dims"])
        fitting = "aim" if dims.d_state else "gpt"
        if values["family"] not in FAMILIES:
            raise ValueError(f"family is {values['family']!r}; allowed: {FAMILIES}")
        if values["family"] != fitting:
            raise ValueError(f"family is {values['family']!r}, but the sizes are those of {fitting!r}")
        return cls(
            dims,
            {name: GraphSpec.from_dict(graph) for name, graph in values["graphs"].items()},
            tuple(StateSpec.from_dict(state) for state in values["states"]),
            values["family"],
        )


HISTORY_CAPACITY = 112  # tokens of AiM's history that are fewer bytes than the state
FOLD_EVERY = 16


def build_contract(
    dims: ModelDims, *, state_dtype: str, transposed_state: bool = False, stacked_states: bool = False,
    history: int | None = None,
) -> Contract:  # fmt: skip
    """The contract of an AiM model of `dims`: five graphs and two states a layer, or two for all.

    Integers are int32 throughout (TensorRT 8 has no int64 bindings). Logits, images and condition
    tensors are float32 whatever the precision; states have `state_dtype`.

    Args:
        dims: sizes of the model and of its tokenizer.
        state_dtype: "float32" or "float16", for conv_state and ssm_state both.
        transposed_state: ssm_state is (nheads, d_state, headdim) in the graphs.
        stacked_states: all layers' conv_state are one state, (n_layer, conv_dim, d_conv - 1) a row, and so are their
            ssm_state.
        history: tokens that are kept beside each ssm_state until they are folded into it (`runtime.lazy`); None: no
            history.

    Raises:
        ValueError: `state_dtype` is neither.
    """
    ssm_shape = (dims.d_state, dims.headdim) if transposed_state else (dims.headdim, dims.d_state)
    states: list[StateSpec] = []
    conv_shape = (dims.conv_dim, dims.d_conv - 1)
    if stacked_states:
        shapes = {"conv_state": conv_shape, "ssm_state": (dims.nheads, *ssm_shape)}
        for kind, one in shapes.items():
            turned = transposed_state and kind == "ssm_state"
            stack = (dims.n_layer, *one)
            states.append(StateSpec(kind, f"{kind}_out", state_dtype, stack, turned, dims.n_layer))
    for i in range(0 if stacked_states else dims.n_layer):
        states.append(StateSpec(f"conv_state_{i}", f"conv_state_out_{i}", state_dtype, conv_shape))
        shape = (dims.nheads, *ssm_shape)
        states.append(StateSpec(f"ssm_state_{i}", f"ssm_state_out_{i}", state_dtype, shape, transposed_state))
        if history is not None:
            d_inner = dims.nheads * dims.headdim
            kept: tuple[tuple[str, str, tuple[int, ...]], ...] = (
                ("x_history", state_dtype, (history, d_inner)),
                ("B_history", state_dtype, (history, (dims.conv_dim - d_inner) // 2)),
                ("dt_history", "float32", (dims.nheads, history)),
                ("history_counters", "float32", (dims.nheads, 3)),
            )
            states += [StateSpec(f"{name}_{i}", f"{name}_out_{i}", dtype, kind) for name, dtype, kind in kept]
    condition = (
        TensorSpec("modulation", "float32", ("rows", dims.n_layer, dims.adaln_factor, dims.d_model)),
        TensorSpec("final_modulation", "float32", ("rows", 2, dims.d_model)),
        TensorSpec("class_embedding", "float32", ("rows", dims.d_model)),
    )
    return _contract("aim", dims, state_dtype, condition, tuple(states))


def build_gpt_contract(dims: ModelDims, *, state_dtype: str) -> Contract:
    """The contract of a Transformer of `dims`: the same five graphs, and of every layer its keys and values.

    k_cache (already rotated) and v_cache are (nheads, num_tokens, headdim) a row: the class takes the place of a
    code, and the last code is never fed. What was not fed yet is zero. The condition is the class's embedding alone.

    Args:
        dims: sizes of the model and of its tokenizer; those that only AiM has are 0.
        state_dtype: "float32" or "float16", for k_cache and v_cache both.

    Raises:
        ValueError: `state_dtype` is neither.
    """
    shape = (dims.nheads, dims.num_tokens, dims.headdim)
    states = tuple(
        StateSpec(f"{kind}_cache_{i}", f"{kind}_cache_out_{i}", state_dtype, shape)
        for i in range(dims.n_layer)
        for kind in ("k", "v")
    )
    condition = (TensorSpec("class_embedding", "float32", ("rows", dims.d_model)),)
    return _contract("gpt", dims, state_dtype, condition, states)


def _contract(
    family: str, dims: ModelDims, state_dtype: str, condition: tuple[TensorSpec, ...], states: tuple[StateSpec, ...]
) -> Contract:
    """What both families have: the graphs around a condition and states."""
    if state_dtype not in DTYPES:
        raise ValueError(f"state_dtype is {state_dtype!r}; allowed: {DTYPES}")
    state_in = tuple(TensorSpec(s.input, s.dtype, ("rows", *s.shape)) for s in states)
    state_out = tuple(TensorSpec(s.output, s.dtype, ("rows", *s.shape)) for s in states)
    position = TensorSpec("position", "int32", ("batch",))
    codes = TensorSpec("codes", "int32", ("batch", dims.grid_height, dims.grid_width))
    image = TensorSpec("image", "float32", ("batch", dims.image_channels, dims.image_height, dims.image_width))
    vocab = dims.vocab_size
    ports: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
        "condition": ((TensorSpec("class_ids", "int32", ("batch",)),), condition),
        "step": (
            (TensorSpec("token", "int32", ("batch",)), position, *condition, *state_in),
            (TensorSpec("logits", "float32", ("rows", vocab)), *state_out),
        ),
        "scan": (
            (TensorSpec("tokens", "int32", ("batch", "length")), position, *condition, *state_in),
            (TensorSpec("logits", "float32", ("rows", "length", vocab)), *state_out),
        ),
        "vq_decode": ((codes,), (image,)),
        "vq_encode": ((image,), (codes,)),
    }
    graphs = {name: GraphSpec(f"{name}.onnx", ins, outs) for name, (ins, outs) in ports.items()}
    return Contract(dims, graphs, states, family)
