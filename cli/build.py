"""aim-edge build: a bundle's graphs become engines."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from .console import megabytes, output, reporting
from .generate import refuse_checkpoint_name


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, of the primitive lowering.")],
    target: Annotated[
        list[str], typer.Option("--target", help="rtx:SM with SM of sm80, sm86, sm89, sm120, sm121; commas between.")
    ],
    batch: Annotated[str, typer.Option(help="Images at once, min:opt:max.")] = "1:1:8",
    length: Annotated[
        str | None, typer.Option(help="Codes that scan takes, min:opt:max.", show_default="1, half of them, all")
    ] = None,
    graph: Annotated[
        list[str] | None,
        typer.Option("--graph", help="May be given again.", show_default="condition, step, scan, vq_decode"),
    ] = None,
) -> None:
    """Build TensorRT-RTX engines, for GPUs that need not be here, and record them in the bundle."""
    from rich.table import Table

    refuse_checkpoint_name(bundle)
    begin = time.perf_counter()
    with reporting() as report:
        report("loading the exporter")
        from aim_edge.export.engines import ENGINE_GRAPHS, build_engines

        built = build_engines(
            bundle, target, batch=read_sizes("--batch", batch),
            length=None if length is None else read_sizes("--length", length),
            graphs=graph or ENGINE_GRAPHS, progress=report,
        )  # fmt: skip
    table = Table(title=f"engines in {bundle}", title_justify="left")
    for column in ("target", "graph", "file"):
        table.add_column(column, no_wrap=True)
    table.add_column("size", justify="right")
    for name, engines in built.items():
        for graph_name, file in engines.graphs.items():
            table.add_row(name, graph_name, file.file, megabytes(file.bytes))
    output.print(table)
    first = next(iter(built.values()))
    output.print(
        f"{sum(len(engines.graphs) for engines in built.values())} engines by {first.library} {first.version}, "
        f"{first.precision}, batch {_colons(first.batch)}, length {_colons(first.length)}, "
        f"in {time.perf_counter() - begin:.1f} s",
        soft_wrap=True,
    )
    output.print(f"next: aim-edge gate {shlex.quote(str(bundle))} --rules gates.toml", soft_wrap=True)


def read_sizes(option: str, text: str) -> tuple[int, int, int]:
    """Three numbers with colons between. Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{option} is {text!r}; expected min:opt:max, such as 1:1:8")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _colons(sizes: tuple[int, ...]) -> str:
    return ":".join(map(str, sizes))
