"""aim-edge build: a bundle's graphs become engines."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import megabytes, output, reporting
from .generate import refuse_checkpoint_name

if TYPE_CHECKING:
    from aim_edge.runtime.manifest import EngineRecord

Sizes = tuple[int, int, int]
_TENSORRT = "TensorRT only"


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            help="tensorrt (the GPU at hand; trt:SM says which it must be), or rtx:SM with SM of sm80, sm86, sm89, "
            "sm120, sm121; commas between.",
        ),
    ],
    batch: Annotated[
        str, typer.Option(help="Images at once, min:opt:max; with commas between, an optimisation profile each.")
    ] = "1:1:8",
    length: Annotated[
        str | None, typer.Option(help="Codes that scan takes, min:opt:max.", show_default="1, half of them, all")
    ] = None,
    graph: Annotated[
        list[str] | None,
        typer.Option("--graph", help="May be given again.", show_default="condition, step, scan, vq_decode"),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(help="How long to look for fast layers, 0 to 5.", show_default="TensorRT's",
                     rich_help_panel=_TENSORRT),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(help="MiB that a layer may take for itself.", show_default="TensorRT's",
                     rich_help_panel=_TENSORRT),
    ] = None,
    plugins: Annotated[
        Path | None,
        typer.Option(help="libaim_edge_tensorrt.so.", show_default="$AIM_EDGE_PLUGINS, or build/plugins/",
                     rich_help_panel=_TENSORRT),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="File of timings, read and written.", show_default="in the user's cache folder",
                     rich_help_panel=_TENSORRT),
    ] = None,
    tactic_sources: Annotated[
        str | None,
        typer.Option(help="none or default.", show_default="none below TensorRT 10", rich_help_panel=_TENSORRT),
    ] = None,
    prefer_precision: Annotated[
        bool, typer.Option("--prefer-precision", help="Below TensorRT 10: wish for the graph's types, don't order.",
                           rich_help_panel=_TENSORRT)
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Other versions may load them.", rich_help_panel=_TENSORRT)
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Other GPUs from Ampere on may load them.",
                           rich_help_panel=_TENSORRT)
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Engines without weights; TensorRT 10 and later.",
                           rich_help_panel=_TENSORRT)
    ] = False,
) -> None:  # fmt: skip
    """Build engines and record them in the bundle: TensorRT's for the GPU at hand, TensorRT-RTX's without a GPU."""
    refuse_checkpoint_name(bundle)
    begin = time.perf_counter()
    with reporting() as report:
        report("loading the builder")
        from aim_edge.export.engines import ENGINE_GRAPHS, build_engines
        from aim_edge.export.engines_trt_options import TrtOptions

        options = TrtOptions(
            level=level, workspace=workspace, tactic_sources=tactic_sources, prefer_precision=prefer_precision,
            timing_cache=timing_cache, plugins=plugins, version_compatible=version_compatible,
            hardware_compatible=hardware_compatible, strip_weights=strip_weights,
        )  # fmt: skip
        built = build_engines(
            bundle, target, batch=read_batches("--batch", batch),
            length=None if length is None else read_sizes("--length", length), graphs=graph or ENGINE_GRAPHS,
            options=options if options.given() else None, progress=report,
        )  # fmt: skip
    _show(bundle, built)
    for engines in built.values():
        output.print(f"{engines.target}: {summary(engines)}", soft_wrap=True)
    count = sum(len(engines.graphs) for engines in built.values())
    output.print(f"{count} engines in {time.perf_counter() - begin:.1f} s")
    output.print(f"next: aim-edge gate {shlex.quote(str(bundle))} --rules gates.toml", soft_wrap=True)


def _show(bundle: Path, built: dict[str, EngineRecord]) -> None:
    from rich.table import Table

    table = Table(title=f"engines in {bundle}", title_justify="left")
    for column in ("target", "graph", "file"):
        table.add_column(column, no_wrap=True)
    table.add_column("size", justify="right")
    told = any(file.layers for engines in built.values() for file in engines.graphs.values())
    if told:
        table.add_column("layers compute in")
    for name, engines in built.items():
        for graph, file in engines.graphs.items():
            row = (name, graph, file.file, megabytes(file.bytes))
            table.add_row(*row, *([counted(file.layers)] if told else []))
    output.print(table)


def summary(engines: EngineRecord) -> str:
    """What built a target's engines, on what and for what, in one line."""
    parts = [f"{engines.library} {engines.version}"]
    if engines.gpu:
        parts.append(f"on {engines.gpu}, driver {engines.driver or 'unknown'}")
    batches = ", ".join(map(_colons, engines.batch))
    parts += [engines.precision, f"batch {batches}", f"length {_colons(engines.length)}"]
    if engines.level >= 0:
        parts.append(f"level {engines.level}")
    parts += engines.flags
    if engines.plugin is not None:
        parts.append(f"plugin library version {engines.plugin.version}")
    return ", ".join(parts)


def counted(counts: dict[str, int]) -> str:
    """Such as "120 float16, 24 plugin"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "not known"


def read_batches(option: str, text: str) -> tuple[Sizes, ...]:
    """Profiles with commas between. Raises ValueError."""
    return tuple(read_sizes(option, part) for part in text.split(","))


def read_sizes(option: str, text: str) -> Sizes:
    """Three numbers with colons between. Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{option} is {text!r}; expected min:opt:max, such as 1:1:8")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _colons(sizes: tuple[int, ...]) -> str:
    return ":".join(map(str, sizes))
