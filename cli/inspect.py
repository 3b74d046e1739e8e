"""aim-edge inspect: what a bundle is, without running it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .build import counted, summary
from .console import megabytes, output
from .generate import refuse_checkpoint_name

if TYPE_CHECKING:
    from aim_edge.runtime import Bundle, Contract, Manifest

_OPS_SHOWN = 6
_PORTS_SHOWN = 8


def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it all as JSON.")] = False,
) -> None:
    """Show a bundle's manifest, graphs, sizes, state and recorded parity. Every file's digest is checked."""
    from aim_edge.runtime import Bundle

    refuse_checkpoint_name(bundle)
    opened = Bundle.open(bundle)
    if as_json:
        typer.echo(json.dumps(describe(opened), indent=2))
        return
    _show_manifest(opened)
    _show_graphs(opened)
    _show_engines(opened.manifest)
    _show_files(opened.manifest)


def describe(bundle: Bundle) -> dict[str, Any]:
    """What `inspect` shows, JSON-ready: the manifest, and what follows from it and from the graphs."""
    manifest = bundle.manifest
    nodes = {}
    for name in manifest.contract.graphs:
        counted = count_nodes(bundle, name)
        nodes[name] = None if counted is None else {"opsets": counted[0], "operators": dict(counted[1].most_common())}
    return {
        "path": str(bundle.path),
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "state_bytes_per_row": state_bytes(manifest.contract),
        "state_bytes_per_image": 2 * state_bytes(manifest.contract),
        "nodes": nodes,
        "manifest": manifest.to_dict(),
    }


def _show_manifest(bundle: Bundle) -> None:
    from rich.table import Table

    manifest, dims = bundle.manifest, bundle.manifest.contract.dims
    config = ", ".join(f"{key} {value}" for key, value in _flat(manifest.model_config))
    rows = {
        "bundle": f"{bundle.path} (schema {manifest.schema_version}, written by aim-edge {manifest.aim_edge_version})",
        "checkpoint": f"{manifest.checkpoint.source}, SHA-256 {manifest.checkpoint.sha256}",
        "family": {"aim": "AiM", "gpt": "Transformer (LlamaGen)"}[manifest.family],
        "lowering": f"{manifest.lowering}, {manifest.precision}, states {manifest.state_dtype}"
        + (", fused convolutions" if manifest.fused_convolutions else "")
        + (f", layers {', '.join(map(str, manifest.keep_float32))} in float32" if manifest.keep_float32 else "")
        + (", lazily folded" if manifest.lazy_states else ""),
        "weights": _weights(manifest),
        "image": f"{dims.image_width} x {dims.image_height} from {dims.num_tokens} codes of {dims.vocab_size}",
        "classes": f"{dims.num_classes}" + (f": {', '.join(manifest.class_names)}" if manifest.class_names else ""),
        "model": config or "not recorded",
        "sampling": ", ".join(f"{k} {v}" for k, v in manifest.to_dict()["sampling_defaults"].items()),
        "state": _state(manifest.contract),
        "parity": _parity(manifest.parity),
        "engines": ", ".join(manifest.engines) or "none built",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.tool_versions.items()),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    output.print(table)


def _weights(manifest: Manifest) -> str:
    q = manifest.quantisation
    if q is None:
        return manifest.precision
    shared = f"a scale for {q.group_size} inputs" if q.group_size else "a scale for an output feature"
    fitted = f", {q.method} on {q.images} images of seed {q.seed}, SHA-256 {q.calibration_sha256}" if q.images else ""
    return f"in_proj, out_proj and head {q.weights}, {shared}{fitted or ', rounded'}; the rest {manifest.precision}"


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested dicts as dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def state_bytes(contract: Contract) -> int:
    """The state's size for one row; an image has two. It does not grow with the codes drawn."""
    return sum(math.prod(state.shape) * (2 if state.dtype == "float16" else 4) for state in contract.states)


def _state(contract: Contract) -> str:
    size = state_bytes(contract)
    layout = " (ssm_state transposed)" if any(state.transposed for state in contract.states) else ""
    return f"{size:,} bytes a row in {len(contract.states)} tensors, {2 * size:,} an image (two rows){layout}"


def _parity(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "not recorded yet: aim-edge validate BUNDLE --record"
    measures: dict[str, Any] = parity.get("worst", {})
    worst = ", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in measures.items())
    verdict = "passed" if parity.get("passed") else "FAILED: " + "; ".join(parity.get("failures", ()))
    return f"{verdict} on {parity.get('backend')}, {parity.get('images')} images, {parity.get('steps')} steps: {worst}"


def _show_graphs(bundle: Bundle) -> None:
    from rich.table import Table

    table = Table(title="graphs", title_justify="left", show_lines=True)
    for name in ("graph", "inputs", "outputs", "nodes"):
        table.add_column(name)
    contract = bundle.manifest.contract
    for name, graph in contract.graphs.items():
        counted = count_nodes(bundle, name)
        nodes = 'not counted: pip install "aim-edge[export]"' if counted is None else _nodes(*counted)
        sides = ("\n".join(_ports(side)) for side in (graph.inputs, graph.outputs))
        table.add_row(f"{name}\n{graph.file}", *sides, nodes)
    output.print(table)


def _ports(specs: Iterable[Any]) -> list[str]:
    lines = [f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in specs]
    hidden = len(lines) - _PORTS_SHOWN
    return lines if hidden <= 0 else [*lines[:_PORTS_SHOWN], f"and {hidden} more states"]


def count_nodes(bundle: Bundle, name: str) -> tuple[dict[str, int], Counter[str]] | None:
    """A graph's opset by domain and its nodes by operator, subgraphs and functions' bodies included.

    Returns:
        None where onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        return None
    model = onnx.load(str(bundle.graph_path(name)), load_external_data=False)
    counts: Counter[str] = Counter()

    def add(nodes: Iterable[Any]) -> None:
        for node in nodes:
            counts[f"{node.domain}::{node.op_type}" if node.domain else node.op_type] += 1
            for attribute in node.attribute:
                for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    add(graph.node)

    add(model.graph.node)
    for function in model.functions:
        add(function.node)
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}, counts


def _nodes(opsets: dict[str, int], counts: Counter[str]) -> str:
    """How many nodes, with the operators used most."""
    imports = ", ".join(f"{domain} {version}" for domain, version in opsets.items())
    rest = len(counts) - _OPS_SHOWN
    lines = [f"{count} {name}" for name, count in counts.most_common(_OPS_SHOWN)]
    lines += [f"{rest} more operators"] if rest > 0 else []
    return "\n".join([f"{counts.total()} nodes ({imports})", *lines])


def _show_engines(manifest: Manifest) -> None:
    from rich.table import Table

    if not manifest.engines:
        return
    table = Table(title="engines", title_justify="left", show_lines=True)
    for name in ("target", "graph", "size", "on the device", "layers compute in", "plugins"):
        table.add_column(name)
    for target, engines in manifest.engines.items():
        for graph, file in engines.graphs.items():
            device = megabytes(file.device_bytes) if file.device_bytes else "not known"
            plugins = counted(file.plugins) if file.plugins else "none"
            table.add_row(target, graph, megabytes(file.bytes), device, counted(file.layers), plugins)
    output.print(table)
    for target, engines in manifest.engines.items():
        output.print(f"{target}: {summary(engines)}", soft_wrap=True)


def _show_files(manifest: Manifest) -> None:
    from rich.table import Table

    table = Table(title="files", title_justify="left")
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("SHA-256", no_wrap=True)
    for name, record in manifest.files.items():
        table.add_row(name, megabytes(record.bytes), record.sha256[:16])
    table.add_section()
    table.add_row("all", megabytes(sum(record.bytes for record in manifest.files.values())), "")
    output.print(table)
