"""aim-edge bench: how fast a bundle is on this machine, and how far from what its memory allows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import output, reporting
from .generate import refuse_checkpoint_name
from .validate import write_json

NOT_RUN = 1
BACKEND, BATCHES, REPEATS = "ort-cpu", "1,8,64", 5


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    backend: Annotated[str, typer.Option(help="See: aim-edge doctor.")] = BACKEND,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the backend, such as sampler=host; may be given again."),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="B,B,...", help="Images at once, each measured by itself.")] = BATCHES,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each part.")] = REPEATS,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before them that are not counted.")] = 1,
    profile: Annotated[bool, typer.Option(help="Time the step's layers where the backend can.")] = True,
    cold_start: Annotated[bool, typer.Option(help="Time new processes to their first image.")] = True,
    pixels: Annotated[
        bool, typer.Option(help="Run the image decoder too; without, tokens alone: no pixels and no first image.")
    ] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that was measured to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with charts to this file.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier --json file to show ratios to.")] = None,
) -> None:
    """Measure a bundle here: tokens, pixels, both, the first image, memory; exit with 1 where a batch did not run."""
    refuse_checkpoint_name(bundle)
    for file in (html, json_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"{file}: there is no folder {file.absolute().parent}")
    with reporting() as report:
        report(f"opening {bundle}")
        from aim_edge.runtime.backends import parse_options
        from aim_edge.runtime.bench import BenchSettings, run_bench
        from aim_edge.runtime.bench_figures import compare, read_baseline

        from .power import open_meter

        if html is not None:  # before the work, so that a library that is missing is told at once
            from aim_edge.export.bench_report import render_bench
        settings = BenchSettings(parse_batches(batch), repeats, warmup, profile, cold_start, pixels)
        earlier = None if baseline is None else read_baseline(baseline, settings.batches)
        found = run_bench(bundle, backend, parse_options(backend, option or []), settings, report, open_meter)
    if earlier is not None:
        found["baseline"] = compare(found, earlier, str(baseline))
    if json_file is not None:
        write_json(json_file, found)
    if html is not None:
        html.write_text(render_bench(found), encoding="utf-8")
    _show(found)
    if any(one["not_run"] for one in found["batches"]):
        raise typer.Exit(NOT_RUN)


def parse_batches(text: str) -> tuple[int, ...]:
    """What --batch says. Raises ValueError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--batch is {text!r}; expected integers with commas between them, such as 1,8,64") from error


def _show(found: dict[str, Any]) -> None:
    from aim_edge.runtime.bench_text import head, notes

    from .bench_tables import figures_table, profile_tables

    for line in head(found):
        output.print(line, soft_wrap=True)
    settings = found["settings"]
    output.print(f"{settings['repeats']} runs each, after {settings['warmup']} uncounted")
    output.print(figures_table(found))
    for line in notes(found):
        output.print(line, soft_wrap=True)
    for title, table in profile_tables(found):
        output.print(title, soft_wrap=True)
        output.print(table)
