"""aim-edge ab: two sides, measured here or before, by number of codes and batch, and what images cost on each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .bench import BACKEND, BATCHES, NOT_RUN, REPEATS, parse_batches
from .console import output, reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aim_edge.export.quality import QualityReport

    from .ab_sides import Source

_SEED = 0


def ab(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A[,A...]",
            help="The bundle in use: its folder, or what `aim-edge bench --json` wrote; with commas between them "
            "several of one model, each of another number of codes.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B[,B...]", help="And what may take its place.")],
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
    codes: Annotated[
        int | None,
        typer.Option(help="The pair whose costs and quality are told, by its number of codes.", show_default="first"),
    ] = None,
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
    pixels: Annotated[
        bool | None,
        typer.Option("--pixels/--no-pixels", help="Measure the image decoder too, or codes alone.",
                     show_default="pixels"),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=4, metavar="N", help="Draw N images a side and tell whether B's are as good; of bundles."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A folder of real PNG images for --quality, which both should look like.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report, Markdown, to this file too.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it with plots to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write its figures to this file.")] = None,
) -> None:  # fmt: skip
    """Compare two sides: latency, throughput, memory, energy, cost and quality, with every assumption told.

    A folder is measured first, A before B, and its report kept beside --out or --html as NAME_a.json or NAME_b.json
    (NAME_a_256.json where A has several); exit with 1 where one of its batches did not run.
    """
    from aim_edge.export.ab_costs import Prices
    from aim_edge.export.ab_report import render_ab
    from aim_edge.export.ab_sides import compare_sides
    from aim_edge.export.ab_texts import LANGUAGES
    from aim_edge.runtime.bench import BenchSettings

    from .ab_sides import measure_sides, read_sides
    from .validate import write_json

    if html is not None:  # before the work, so that a library that is missing is told at once
        from aim_edge.export.ab_html import render_ab_html
    prices = Prices(gpu_hour, load, utilisation, watts, kwh, switch_cost, currency)
    if language not in LANGUAGES:
        raise ValueError(f"--language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    for file in (out, html, json_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"{file}: there is no folder {file.absolute().parent}")
    pairs, lengths = read_sides(a, b, out or html)
    _check_unused(pairs, {"--backend": backend, "--batch": batch, "--repeats": repeats, "--pixels": pixels}, quality)
    chosen = _choose(pairs, codes)
    if json_file is not None and json_file.absolute() in [one.file.absolute() for pair in pairs for one in pair]:
        raise ValueError(f"--json is {json_file}, which a report of `aim-edge bench` is to lie in; give another name")
    if quality is not None:
        _check_quality(chosen, quality)
    elif reference is not None:
        raise ValueError("--reference is for --quality N; give that too")
    # Nothing of `ab` needs layers or first images.
    settings = BenchSettings(
        parse_batches(BATCHES if batch is None else batch), repeats or REPEATS, profile=False, cold_start=False,
        pixels=pixels is not False,
    )  # fmt: skip
    engine = BACKEND if backend is None else backend
    pairs = measure_sides(pairs, engine, settings)
    told = None if quality is None else _judge(chosen, quality, reference, engine, settings.batches)
    ours, theirs = ([source.report or {} for source in side] for side in zip(*pairs, strict=True))
    found = compare_sides(
        ours, theirs, prices, codes=chosen[0].codes, alone=lengths.alone, quality=told,
        files=([one.file.name for one, _ in pairs], [other.file.name for _, other in pairs]),
    )  # fmt: skip
    text = render_ab(found, language)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if html is not None:
        html.write_text(render_ab_html(found, language), encoding="utf-8")
    if json_file is not None:
        write_json(json_file, found.to_dict())
    output.print(text, soft_wrap=True, markup=False, highlight=False)
    measured = [source for pair in pairs for source in pair if source.is_bundle]
    if any(one["not_run"] for source in measured for one in (source.report or {})["batches"]):
        raise typer.Exit(NOT_RUN)


def _check_unused(pairs: Sequence[tuple[Source, Source]], given: dict[str, Any], quality: int | None) -> None:
    """Raises ValueError where settings of the measurement are given and there is nothing to measure."""
    unused = [name for name, value in given.items() if value is not None]
    if unused and quality is None and not any(source.is_bundle for pair in pairs for source in pair):
        raise ValueError(f"{', '.join(unused)}: only bundles are measured here; A and B are reports")


def _choose(pairs: Sequence[tuple[Source, Source]], codes: int | None) -> tuple[Source, Source]:
    """The pair of a number of codes; None: the first of A's. Raises ValueError where there is none."""
    by_codes = {pair[0].codes: pair for pair in pairs}
    if codes is not None and codes not in by_codes:
        raise ValueError(f"--codes is {codes}; compared are {', '.join(map(str, sorted(by_codes)))}")
    return pairs[0] if codes is None else by_codes[codes]


def _check_quality(pair: tuple[Source, Source], count: int) -> None:
    """Raises ValueError where images can't be drawn, or not so many compared."""
    from aim_edge.export.quality import MAX_IMAGES

    for source in pair:
        if not source.is_bundle:
            raise ValueError(f"--quality draws images, of bundles only; {source.side} is {source.path}, a report")
    if count > MAX_IMAGES:
        raise ValueError(f"--quality is {count}; allowed: 4..{MAX_IMAGES}")


def _judge(
    pair: tuple[Source, Source], count: int, reference: Path | None, backend: str, batches: Sequence[int]
) -> QualityReport:
    """What `aim-edge quality` says of the pair: images of the same classes, seeds and indices, features offline."""
    with reporting() as report:
        report("loading PyTorch")
        from aim_edge.export.quality import MAX_IMAGES, Settings, compare_sets, measure_pairs
        from aim_edge.export.quality_features import VqFeatures, read_folder

        from .quality import draw_bundles

        # An engine may take no other batch than those that are measured.
        batch = max([n for n in batches if count % n == 0], default=min(batches))
        paths = {i: source.path for i, source in enumerate(pair)}
        drawn = draw_bundles(paths, count, _SEED, (backend, backend), batch, report)
        one, two = drawn[0], drawn[1]
        extract = VqFeatures()
        real = None if reference is None else read_folder(reference, MAX_IMAGES, _SEED, one.size, report)
        of_one, of_two = extract(one.images, report).values, extract(two.images, report).values
        of_real = None if real is None else extract(real.images, report).values
        return compare_sets(
            of_one, of_two, of_real, label="vq", paired=measure_pairs(one.images, two.images, of_one, of_two),
            settings=Settings(seed=_SEED), progress=report,
        )  # fmt: skip
