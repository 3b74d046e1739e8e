"""aim-edge ab: two measured bundles, and what images cost on each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import output


def ab(
    a: Annotated[Path, typer.Argument(help="What `aim-edge bench --json` wrote for the bundle in use.")],
    b: Annotated[Path, typer.Argument(help="And for the one that may take its place.")],
    gpu_hour: Annotated[float, typer.Option(help="Price of one GPU for an hour.")],
    load: Annotated[
        float | None, typer.Option(help="Images a second to serve: how many GPUs, what a year costs.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="Share of the measured throughput reached in service.")] = 1.0,
    watts: Annotated[
        float | None, typer.Option(help="What a GPU draws, where power is paid apart; with --kwh.")
    ] = None,
    kwh: Annotated[float | None, typer.Option(help="Price of a kilowatt-hour.")] = None,
    switch_cost: Annotated[
        float | None, typer.Option(help="Paid once to change from A to B: when is it earned back; with --load.")
    ] = None,
    currency: Annotated[str, typer.Option(help="As it is to be shown.")] = "USD",
    language: Annotated[str, typer.Option(help="en or ja.")] = "en",
    out: Annotated[Path | None, typer.Option(help="Write the report, Markdown, to this file too.")] = None,
) -> None:
    """Compare two measured bundles: latency, throughput, memory and cost, with every assumption told."""
    from aim_edge.export.ab import Prices, compare_costs
    from aim_edge.export.ab_report import render_ab
    from aim_edge.runtime.bench_figures import read_report

    prices = Prices(gpu_hour, load, utilisation, watts, kwh, switch_cost, currency)
    if out is not None and not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.absolute().parent}")
    reports = read_report(a), read_report(b)
    text = render_ab(*reports, compare_costs(*reports, prices), prices, language)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    output.print(text, soft_wrap=True, markup=False, highlight=False)
