"""aim-edge ab: two bundles, measured here or before, and what images cost on each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .bench import BACKEND, BATCHES, NOT_RUN, REPEATS, parse_batches
from .console import errors, output, reporting
from .generate import refuse_checkpoint_name

if TYPE_CHECKING:
    from aim_edge.runtime.bench import BenchSettings

_MANIFEST = "manifest.json"


def ab(
    a: Annotated[Path, typer.Argument(help="The bundle in use: its folder, or what `aim-edge bench --json` wrote.")],
    b: Annotated[Path, typer.Argument(help="And the one that may take its place.")],
    gpu_hour: Annotated[float, typer.Option(help="Price of one GPU for an hour.")],
    load: Annotated[
        float | None, typer.Option(help="Images a second to serve: how many GPUs, what a year costs.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="Share of the measured throughput reached in service.")] = 1.0,
    watts: Annotated[
        float | None, typer.Option(help="What a GPU draws, where energy was not measured; with --kwh.")
    ] = None,
    kwh: Annotated[float | None, typer.Option(help="Price of a kilowatt-hour, where power is paid apart.")] = None,
    switch_cost: Annotated[
        float | None, typer.Option(help="Paid once to change from A to B: when is it earned back; with --load.")
    ] = None,
    currency: Annotated[str, typer.Option(help="As it is to be shown.")] = "USD",
    language: Annotated[str, typer.Option(help="en or ja.")] = "en",
    backend: Annotated[
        str | None, typer.Option(help="To measure bundles with; see: aim-edge doctor.", show_default=BACKEND)
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="B,B,...", help="Images at once to measure bundles with.", show_default=BATCHES),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Timed runs of each part of a bundle.", show_default=str(REPEATS))
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report, Markdown, to this file too.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it with plots to this file.")] = None,
) -> None:
    """Compare two bundles: latency, throughput, memory, energy and cost, with every assumption told.

    A folder is measured first, A before B, and its report kept beside --out or --html as NAME_a.json or NAME_b.json;
    exit with 1 where one of its batches did not run.
    """
    from aim_edge.export.ab import Prices, compare_costs
    from aim_edge.export.ab_report import render_ab
    from aim_edge.export.ab_texts import LANGUAGES

    if html is not None:  # before the work, so that a library that is missing is told at once
        from aim_edge.export.ab_html import render_ab_html
    prices = Prices(gpu_hour, load, utilisation, watts, kwh, switch_cost, currency)
    if language not in LANGUAGES:
        raise ValueError(f"--language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    for file in (out, html):
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"{file}: there is no folder {file.absolute().parent}")
    found, files = _reports({"A": a, "B": b}, out or html, backend, batch, repeats)
    rows = compare_costs(found["A"], found["B"], prices)
    names = (files["A"].name, files["B"].name)
    text = render_ab(found["A"], found["B"], rows, prices, language, names)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if html is not None:
        html.write_text(render_ab_html(found["A"], found["B"], rows, prices, language, names), encoding="utf-8")
    output.print(text, soft_wrap=True, markup=False, highlight=False)
    measured = [side for side, path in (("A", a), ("B", b)) if files[side] != path]
    if any(one["not_run"] for side in measured for one in found[side]["batches"]):
        raise typer.Exit(NOT_RUN)


def _reports(
    sides: dict[str, Path], beside: Path | None, backend: str | None, batch: str | None, repeats: int | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    """Both reports and their files: those given are read, then bundles measured. All that can be refused is, first."""
    from aim_edge.export.ab import refuse_other_images
    from aim_edge.runtime.bench import BenchSettings
    from aim_edge.runtime.bench_figures import read_baseline
    from aim_edge.runtime.bundle import read_manifest

    bundles = [side for side, path in sides.items() if _is_bundle(side, path)]
    given = {"--backend": backend, "--batch": batch, "--repeats": repeats}
    unused = [name for name, value in given.items() if value is not None]
    if not bundles and unused:
        raise ValueError(f"{', '.join(unused)}: only bundles are measured here; A and B are reports")
    files = dict(sides)
    for side in bundles:
        if beside is None:
            raise ValueError(f"{side} is a bundle, whose report is kept beside --out or --html: give one of them")
        files[side] = beside.with_name(f"{beside.stem}_{side.lower()}.json")
        if any(files[side].absolute() == path.absolute() for path in sides.values()):
            raise ValueError(f"{files[side]} is to be written and is what was given; give --out another name")
    # Nothing of `ab` needs layers or first images.
    batches = parse_batches(BATCHES if batch is None else batch)
    settings = BenchSettings(batches, repeats or REPEATS, profile=False, cold_start=False)
    found = {side: _read(side, path) for side, path in sides.items() if side not in bundles}
    if len(bundles) == 1:
        for side in found:
            read_baseline(sides[side], settings.batches)  # refused where no batch would be in both
    dims = [
        vars(read_manifest(path).contract.dims) if side in bundles else found[side]["bundle"]["dims"]
        for side, path in sides.items()
    ]
    refuse_other_images(*dims)
    for side in bundles:
        found[side] = _measure(side, sides[side], BACKEND if backend is None else backend, settings, files[side])
    return found, files


def _is_bundle(side: str, path: Path) -> bool:
    """Whether it is a bundle's folder and not a file. Raises ValueError where it is neither."""
    refuse_checkpoint_name(path)
    if not path.is_file() and not (path / _MANIFEST).is_file():
        what = f"a folder without {_MANIFEST}" if path.is_dir() else "not there"
        raise ValueError(
            f"{side} is {path}, which is {what}; expected a bundle's folder or what `aim-edge bench --json` wrote"
        )
    return path.is_dir()


def _read(side: str, path: Path) -> dict[str, Any]:
    from aim_edge.runtime.bench_figures import read_report

    try:
        return read_report(path)
    except ValueError as error:
        raise ValueError(f"{side} is neither a bundle's folder nor a report: {error}") from error


def _measure(side: str, bundle: Path, backend: str, settings: BenchSettings, file: Path) -> dict[str, Any]:
    """What `aim-edge bench` finds, kept in a file."""
    from aim_edge.runtime.bench import run_bench

    from .power import open_meter
    from .validate import write_json

    with reporting() as report:
        report(f"{side}: opening {bundle}")
        found = run_bench(
            bundle, backend, {}, settings, lambda what, done, total: report(f"{side}: {what}", done, total), open_meter
        )
    write_json(file, found)
    for one in found["batches"]:
        if one["not_run"]:
            errors.print(f"{side}: batch {one['batch']} not run: {one['not_run']}", soft_wrap=True)
    return found
