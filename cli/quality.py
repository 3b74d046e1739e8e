"""aim-edge quality: do two sets of images come from one distribution?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Report, errors, output, reporting
from .generate import refuse_checkpoint_name
from .validate import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from aim_edge.export.quality import Figure, QualityReport
    from aim_edge.export.quality_clip import ClipScore
    from aim_edge.export.quality_features import Features, ImageSet
    from aim_edge.export.quality_inception import InceptionFeatures

_STATUS = {"same": 0, "better": 0, "worse": 1, "different": 1, "can't tell": 2}
_COUNT = 500
PROMPT = "a picture of {}"


def quality(
    a: Annotated[Path, typer.Argument(help="A folder of PNG images, or a bundle's: what B is compared with.")],
    b: Annotated[Path, typer.Argument(help="The same, of what should be as good.")],
    reference: Annotated[
        Path | None, typer.Option(help="A folder of real PNG images, which both should look like.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=2, help="Images a side.", show_default="500 of a bundle, else all, 3000 at most")
    ] = None,
    backend: Annotated[str, typer.Option(help="Draws a bundle's images; see: aim-edge doctor.")] = "ort-cpu",
    backend_b: Annotated[str | None, typer.Option(help="The same for B.", show_default="--backend")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the images drawn, and of the resampling.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 8,
    features: Annotated[
        str, typer.Option(help="vq (the demo's tokenizer, offline) or inception (torch-fidelity).")
    ] = "vq",
    inception: Annotated[
        Path | None,
        typer.Option(help="Inception's weight file.", show_default="AIM_EDGE_INCEPTION, else torch-fidelity's own"),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="Folder of a CLIP model: scores images by their class's name.")
    ] = None,
    clip_prompt: Annotated[str, typer.Option(help="What CLIP compares with; {} is the class's name.")] = PROMPT,
    resamples: Annotated[int, typer.Option(min=40, help="Bootstrap resamples, and random halves.")] = 200,
    tolerance: Annotated[
        float, typer.Option(help="Share of A's distance to the reference that still counts as the same.")
    ] = 0.05,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")] = None,
) -> None:
    """Tell whether B's images are as good as A's; exit with 1 where they are worse or differ, 2 where none can tell.

    Of two bundles the same classes, seeds and indices are drawn, so that images are pairs; so are those of two folders
    with the same file names.
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise FileNotFoundError(f"{json_file}: there is no folder {json_file.absolute().parent}")
    if features not in ("vq", "inception"):
        raise ValueError(f"--features is {features!r}; allowed: vq, inception")
    if inception is not None and features != "inception":
        raise ValueError("--inception is for --features inception; give that too")
    for path in (a, b):
        refuse_checkpoint_name(path)
    with reporting() as report:
        report("loading PyTorch")
        from aim_edge.export.quality import MAX_IMAGES, Settings, compare_sets, measure_pairs
        from aim_edge.export.quality_classes import add_classes
        from aim_edge.export.quality_features import VqFeatures, read_folder

        if count is not None and count > MAX_IMAGES:
            raise ValueError(f"--count is {count}; allowed: 2..{MAX_IMAGES}")
        scorer = None if clip is None else _open_clip(clip, clip_prompt)
        extract: VqFeatures | InceptionFeatures
        if features == "inception":
            from aim_edge.export.quality_inception import InceptionFeatures

            # Too slow to resample: the roots of 2048 x 2048 matrices, for every resample.
            settings, extract = Settings(resamples, seed, tolerance, ("kernel",)), InceptionFeatures(inception)
        else:
            settings, extract = Settings(resamples, seed, tolerance), VqFeatures()
        one, two = _read_both(a, b, count, MAX_IMAGES, seed, (backend, backend_b or backend), batch, report)
        if one.size != two.size:
            raise ValueError(f"{a} has images of (height, width) {one.size}, {b} of {two.size}; expected one size")
        real = None if reference is None else read_folder(reference, MAX_IMAGES, seed, one.size, report)
        of_one, of_two = extract(one.images, report), extract(two.images, report)
        of_real = None if real is None else extract(real.images, report)
        paired = None
        if one.names == two.names:
            paired = measure_pairs(one.images, two.images, of_one.values, of_two.values)
        found = compare_sets(
            of_one.values, of_two.values, None if of_real is None else of_real.values, label=features, paired=paired,
            settings=settings, progress=report,
        )  # fmt: skip
        fidelity: dict[str, dict[str, float]] = {}
        computed_by = ""
        if isinstance(extract, VqFeatures):
            found = add_classes(found, (of_one.values, one.labels), (of_two.values, two.labels))
        else:
            report("computing torch-fidelity's figures")
            found, fidelity, computed_by = _add_inception(found, extract.warnings, of_one, of_two, of_real)
        if scorer is not None:
            found = _add_clip(found, scorer, one, two, report)
    if json_file is not None:
        sources = {"A": one.source, "B": two.source, "reference": None if real is None else real.source}
        write_json(json_file, {"sources": sources, **found.to_dict(), "torch_fidelity": fidelity,
                               "torch_fidelity_by": computed_by})  # fmt: skip
    _show(found, one, two, real, fidelity, computed_by)
    if _STATUS[found.verdict]:
        raise typer.Exit(_STATUS[found.verdict])


def _open_clip(folder: Path, prompt: str) -> ClipScore:
    from aim_edge.export.quality_clip import ClipScore

    return ClipScore(folder, prompt)


def _add_clip(
    found: QualityReport, score: ClipScore, one: ImageSet, two: ImageSet, report: Report
) -> QualityReport:
    """The report with CLIP's row. Raises ValueError where the class of an image is not known."""
    from aim_edge.export.quality_classes import mean_row

    values = []
    for side in (one, two):
        names = [label for label in side.labels if label is not None]
        if len(names) < len(side.labels):
            raise ValueError(
                f"--clip: {len(side.labels) - len(names)} images of {side.source} do not say their class; expected a "
                "bundle with class names, or files with aim-edge's marks"
            )
        values.append(score(side.images, names, report))
    row = mean_row("clip-score", *values, paired=found.paired is not None, settings=found.settings)
    return replace(found, rows=(*found.rows, row))


def _add_inception(
    found: QualityReport, warnings: tuple[str, ...], one: Features, two: Features, real: Features | None
) -> tuple[QualityReport, dict[str, dict[str, float]], str]:
    """The report with the Inception score's row, and torch-fidelity's figures with who computed them."""
    from aim_edge.export.quality_classes import score_row
    from aim_edge.export.quality_inception import fidelity_figures

    sides = {"A-R": one, "B-R": two} if real is not None else {"B-A": two}
    fidelity, by = {}, ""
    for key, side in sides.items():
        fidelity[key], by = fidelity_figures(side, real or one)
    rows = found.rows
    if one.logits is not None and two.logits is not None:
        pairs, settings = found.paired is not None, found.settings
        rows = (*rows, score_row("inception-score", one.logits.astype(float), two.logits.astype(float), paired=pairs,
                                 settings=settings))  # fmt: skip
    said = "inception-score is of all images at once, torch-fidelity's inception_score_mean of ten parts"
    return replace(found, rows=rows, warnings=(*found.warnings, *warnings, said)), fidelity, by


def _read_both(
    a: Path, b: Path, count: int | None, limit: int, seed: int, backends: tuple[str, str], batch: int, report: Report
) -> tuple[ImageSet, ImageSet]:
    """Both sets, of as many images each: bundles draw as many as a folder on the other side has."""
    from aim_edge.export.quality_features import read_folder

    kinds = [_is_bundle(path) for path in (a, b)]
    sets: dict[int, Any] = {}
    for i, path in enumerate((a, b)):
        if not kinds[i]:
            sets[i] = read_folder(path, count or limit, seed, None, report)
            if count is not None and len(sets[i].images) < count:
                raise ValueError(f"{path} holds {len(sets[i].images)} PNG images; --count is {count}")
    n = min([len(one.images) for one in sets.values()] or [count or _COUNT])
    if not all(kinds):
        # Two folders: of the larger one as many as of the other. Chosen at random, as names are in order of class.
        sets = {i: one.take(n, seed) for i, one in sets.items()}
    if any(kinds):
        sets |= draw_bundles({i: path for i, path in enumerate((a, b)) if kinds[i]}, n, seed, backends, batch, report)
    return sets[0], sets[1]


def draw_bundles(
    bundles: dict[int, Path], n: int, seed: int, backends: tuple[str, str], batch: int, report: Report
) -> dict[int, ImageSet]:
    """The sets of the bundles: of classes that every bundle's usage policy allows, in turn."""
    from aim_edge.export.quality_features import draw_set
    from aim_edge.runtime import Bundle, Generator
    from aim_edge.runtime.policy import UsagePolicy

    opened = {i: Bundle.open(path) for i, path in bundles.items()}
    dims = [bundle.manifest.contract.dims for bundle in opened.values()]
    kinds = {
        "classes": [str(d.num_classes) for d in dims],
        "codes in their vocabularies": [str(d.vocab_size) for d in dims],
        "pixels an image": [f"{d.image_height} x {d.image_width}" for d in dims],
    }
    differing = [f"{' and '.join(values)} {what}" for what, values in kinds.items() if len(set(values)) > 1]
    if differing:
        raise ValueError(
            f"the bundles have {', '.join(differing)}; expected as many, for draws to be pairs (two folders of images "
            "need only be of one size)"
        )
    classes = set(range(dims[0].num_classes))
    for bundle in opened.values():
        policy = UsagePolicy.of_bundle(bundle)
        if policy is not None:
            classes -= policy.denied_ids(bundle.manifest.contract.dims.num_classes, bundle.manifest.class_names)
    if not classes:
        raise ValueError("the bundles' usage policies leave no class to draw")
    drawn = {}
    for i, bundle in opened.items():
        with Generator.open(bundle, backend=backends[i]) as generator:
            drawn[i] = draw_set(generator, sorted(classes), n, seed, batch, report)
    return drawn


def _is_bundle(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def _show(
    found: QualityReport, one: ImageSet, two: ImageSet, real: ImageSet | None, fidelity: dict[str, dict[str, float]],
    computed_by: str,
) -> None:  # fmt: skip
    for key, images in (("A", one), ("B", two), ("R", real)):
        if images is not None:
            output.print(f"{key}: {len(images.images)} of {images.found} images: {images.source}", soft_wrap=True)
    output.print(_table(found))
    if found.paired is not None:
        pairs, (median, most, largest) = found.paired, found.paired.pixel_rms
        output.print(
            f"{pairs.pairs} pairs: {pairs.identical} identical; RMS difference of pixels {median:.3g} (median), "
            f"{most:.3g} (95%), {largest:.3g} (largest) of 255; features {pairs.feature_ratio:.3g} times as far apart "
            "as those of images that are no pair", soft_wrap=True,
        )  # fmt: skip
    for key, figures in fidelity.items():
        said = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        output.print(f"{key}: {said} (by {computed_by})", soft_wrap=True)
    for warning in found.warnings:
        errors.print(f"warning: {warning}", soft_wrap=True)
    output.print(f"B against A: {found.verdict}: {found.reason}", soft_wrap=True)


def _table(found: QualityReport) -> Table:
    from rich.table import Table

    table = Table(title=f"n = {found.n} a side, {found.settings.resamples} resamples", title_justify="left")
    for name in ("statistic", "of", "value", "interval, bias removed", "same up to", "verdict"):
        table.add_column(name, justify="left" if name in ("statistic", "of", "verdict") else "right", no_wrap=True)
    for row in found.rows:
        for i, (key, figure) in enumerate(row.figures.items()):
            last = i == len(row.figures) - 1
            limit = row.chance if row.chance is not None else row.margin
            table.add_row(
                "" if i else row.name, key, f"{figure.value:.5g}", _ends(figure),
                f"{limit:.5g}" if last and limit is not None else "", (row.verdict or "") if last else "",
            )  # fmt: skip
    return table


def _ends(figure: Figure) -> str:
    return "" if figure.low is None or figure.high is None else f"{figure.low:.5g} .. {figure.high:.5g}"
