"""A checkpoint becomes a bundle: five graphs, their contract and a manifest, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

import aim_edge
from aim_edge.aim.checkpoint import Checkpoint, load_checkpoint
from aim_edge.aim.gpt import GptModel
from aim_edge.aim.model import AimModel
from aim_edge.runtime.bundle import new_bundle, record_files, write_manifest
from aim_edge.runtime.contract import DTYPES, HISTORY_CAPACITY, Contract, build_contract, build_gpt_contract
from aim_edge.runtime.manifest import CheckpointRecord, Manifest
from aim_edge.runtime.policy import POLICY, UsagePolicy
from aim_edge.runtime.sampler import SamplingConfig

from .builder import drop_bodies
from .decoder import check_keep_float32, condition_graph, decoder_graph
from .decoder_gpt import check_gpt_lowering, gpt_condition_graph, gpt_decoder_graph
from .dims import model_dims
from .lowerings import LOWERINGS
from .mixers_layers import PluginLayers, check_layers
from .quantize import Quantised, check_weights, quantise
from .tokenizer import Tokenizer, decode_graph, encode_graph
from .tokenizer_fused import FusedTokenizer, check_fused_convolutions
from .weights import EXTERNAL_ABOVE, SharedData, weight_bytes

Progress = Callable[[str, int, int], None]
SAMPLING = {"guidance_scale": 4.0, "temperature": 1.0, "top_k": 600, "top_p": 0.98}
WEIGHTS_FILE = "weights.data"


def export_bundle(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    lowering: str = "primitive",
    precision: str = "float32",
    state_dtype: str = "float32",
    fused_convolutions: bool = False,
    keep_float32: Collection[int] = (),
    lazy_states: bool = False,
    weights: str | None = None,
    overwrite: bool = False,
    policy: str | Path | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the bundle of a checkpoint.

    Args:
        checkpoint: what `load_checkpoint` takes ("demo" is the bundled one), or its result, or a Checkpoint whose
            `aim` is a `GptModel` (in the lowerings "primitive", "plugin" and "plugin-fused").
        out: the bundle's folder; it must not exist unless `overwrite`.
        lowering: how the mixers are written: "primitive" (standard operators, opset 17), "onnx" (ONNX
            Runtime's com.microsoft operators), "onnx-opset27" (the standard's own, ai.onnx 27), "plugin",
            "plugin-fused" or "plugin-layers" (operators of the aim_edge domain; each graph is written twice, with the
            operators' bodies for ONNX Runtime and, as `without_bodies` names it, without them for TensorRT).
        precision: "float32" or "float16", of activations and stored matrices.
        state_dtype: "float32" or "float16", of conv_state and ssm_state; of a Transformer, k_cache and v_cache.
        fused_convolutions: vq_decode's convolutions are operators of ours, too, with the norms around them; only with
            the lowerings "plugin-fused" and "plugin-layers" in float16.
        keep_float32: layers (from 0) that compute in float32 in a float16 bundle, weights included; in any lowering but
            those two. What `validate` proposes where half precision breaks a gate.
        lazy_states: a history of the last tokens lies beside each ssm_state, which is read and written seldom: fewer
            bytes a step where rows are many; only with the lowering "plugin-fused" of a Mamba-2 model.
        weights: "int8" or "int4": in_proj, out_proj and the head as integers; only in float16 with the lowering
            "plugin-fused" or, int8, "plugin-layers". None: in `precision`.
        overwrite: replace a bundle that is there.
        policy: usage policy (`UsagePolicy`) that the bundle carries as policy.json: a JSON file, or its content.
        progress: called with (what, done, total) as graphs are written.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: an argument is not one of those allowed, or the checkpoint does not fit.
        FileExistsError: `out` exists and `overwrite` is False.
        OSError: writing failed; nothing half made remains.
    """
    for name, value, allowed in (
        ("lowering", lowering, tuple(LOWERINGS)),
        ("precision", precision, DTYPES),
        ("state_dtype", state_dtype, DTYPES),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    if fused_convolutions:
        check_fused_convolutions(lowering, precision)
    if lazy_states and lowering != "plugin-fused":
        raise ValueError(f"lazy_states is True with lowering {lowering!r}; it needs 'plugin-fused'")
    check_weights(weights, lowering, precision)
    if isinstance(checkpoint, Checkpoint) and isinstance(checkpoint.aim, GptModel):
        check_gpt_lowering(checkpoint.aim, lowering)
        if keep_float32:
            raise ValueError(f"keep_float32 is {sorted(keep_float32)}; it is for AiM models, not for a Transformer")
    rules = None if policy is None else UsagePolicy.load(policy)
    tell = progress or (lambda what, done, total: None)
    with new_bundle(Path(out), overwrite=overwrite) as folder:
        tell("reading the checkpoint", 0, 6)
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        dims = model_dims(loaded.aim.config, loaded.vq.config)
        check_keep_float32(keep_float32, dims.n_layer, lowering, precision)
        if rules is not None:
            rules.denied_ids(dims.num_classes, loaded.class_names)
            (folder / POLICY).write_text(rules.to_json(), encoding="utf-8")
        if isinstance(loaded.aim, GptModel):
            contract = build_gpt_contract(dims, state_dtype=state_dtype)
        elif lazy_states:
            if loaded.aim.config.layer != "Mamba2":
                raise ValueError(f"lazy_states is True for layers {loaded.aim.config.layer!r}; it needs 'Mamba2'")
            contract = build_contract(dims, state_dtype=state_dtype, history=HISTORY_CAPACITY)
        else:
            transposed = LOWERINGS[lowering].recurrence.transposed_state
            stacked = issubclass(LOWERINGS[lowering].recurrence, PluginLayers)
            if stacked:
                check_layers(loaded.aim.config)
            contract = build_contract(
                dims, state_dtype=state_dtype, transposed_state=transposed, stacked_states=stacked
            )
        decoder = FusedTokenizer if fused_convolutions else Tokenizer
        sampling = SamplingConfig.from_dict(SAMPLING | loaded.sampling)
        table, record = None, None
        if weights is not None and isinstance(loaded.aim, AimModel):
            table, record = quantise(
                loaded.aim, weights, sampling=sampling, progress=lambda what: tell(what, 0, 6)
            )
        models = dict(_graphs(loaded, contract, lowering, precision, state_dtype, decoder, keep_float32, table))
        with_bodies = any(model.functions for model in models.values())
        shared = None
        if with_bodies or sum(map(weight_bytes, models.values())) > EXTERNAL_ABOVE:
            shared = SharedData(folder, WEIGHTS_FILE)
        for done, (name, model) in enumerate(models.items(), start=1):
            tell(f"writing {name}", done, 6)
            if shared is not None:
                shared.move(model)
            ir.save(model, folder / contract.graphs[name].file)
            if model.functions:
                drop_bodies(model)
                ir.save(model, folder / without_bodies(contract.graphs[name].file))
        tell("hashing", 6, 6)
        manifest = Manifest(
            aim_edge_version=aim_edge.__version__,
            contract=contract,
            model_config=loaded.aim.config.to_published() | {"vq": loaded.vq.config.to_dict()},
            class_names=loaded.class_names,
            sampling_defaults=sampling,
            precision=precision,
            state_dtype=state_dtype,
            lowering=lowering,
            fused_convolutions=fused_convolutions,
            keep_float32=tuple(sorted(set(keep_float32))),
            lazy_states=lazy_states,
            quantisation=record,
            tool_versions={name: version(name) for name in ("onnx", "onnx-ir", "torch", "numpy")},
            checkpoint=CheckpointRecord(loaded.source, loaded.sha256),
            files=record_files(folder),
        )
        write_manifest(folder, manifest)
    return Path(out)


def without_bodies(file: str) -> str:
    """The file of a graph's variant for TensorRT, whose parser would put the bodies in the plugins' place."""
    return file.removesuffix(".onnx") + ".trt.onnx"


def _graphs(
    checkpoint: Checkpoint,
    contract: Contract,
    lowering: str,
    precision: str,
    state_dtype: str,
    decoder: type[Tokenizer],
    keep_float32: Collection[int],
    quantised: Mapping[str, Quantised] | None,
) -> Iterator[tuple[str, ir.Model]]:
    """The five graphs; their weights are made only when they are written."""
    model = checkpoint.aim
    if isinstance(model, GptModel):
        yield "condition", gpt_condition_graph(model, contract, precision)
        for name in ("step", "scan"):
            yield name, gpt_decoder_graph(
                model, contract, lowering, precision, state_dtype, sequence=name == "scan"
            )
    else:
        yield "condition", condition_graph(model, contract, lowering, precision)
        for name in ("step", "scan"):
            sequence = name == "scan"
            yield name, decoder_graph(
                model, contract, lowering, precision, state_dtype, sequence=sequence,
                keep_float32=keep_float32, quantised=quantised,
            )
    yield "vq_decode", decode_graph(checkpoint.vq, contract, lowering, precision, decoder)
    yield "vq_encode", encode_graph(checkpoint.vq, contract, lowering, precision)
