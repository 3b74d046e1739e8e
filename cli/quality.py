"""aim-edge quality: do two sets of images come from one distribution?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Report, errors, output, reporting
from .generate import refuse_checkpoint_name
from .validate import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from aim_edge.export.quality import Figure, QualityReport
    from aim_edge.export.quality_features import ImageSet

_STATUS = {"same": 0, "better": 0, "worse": 1, "different": 1, "can't tell": 2}
_COUNT = 500


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
    inception_weights: Annotated[
        Path | None, typer.Option(help="Inception's weight file.", show_default="torch-fidelity's own")
    ] = None,
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
    if inception_weights is not None and features != "inception":
        raise ValueError("--inception-weights is for --features inception; give that too")
    for path in (a, b):
        refuse_checkpoint_name(path)
    with reporting() as report:
        report("loading PyTorch")
        from aim_edge.export.quality import MAX_IMAGES, Settings, compare_sets, measure_pairs
        from aim_edge.export.quality_features import InceptionFeatures, VqFeatures, fidelity_figures, read_folder

        if count is not None and count > MAX_IMAGES:
            raise ValueError(f"--count is {count}; allowed: 2..{MAX_IMAGES}")
        extract: VqFeatures | InceptionFeatures
        if features == "inception":
            # Too slow to resample: the roots of 2048 x 2048 matrices, for every resample.
            settings, extract = Settings(resamples, seed, tolerance, ("kernel",)), InceptionFeatures(inception_weights)
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
        if features == "inception":
            report("computing torch-fidelity's figures")
            sides = {"A-R": of_one, "B-R": of_two} if of_real is not None else {"B-A": of_two}
            fidelity = {key: fidelity_figures(side, of_real or of_one) for key, side in sides.items()}
    if json_file is not None:
        sources = {"A": one.source, "B": two.source, "reference": None if real is None else real.source}
        write_json(json_file, {"sources": sources, **found.to_dict(), "torch_fidelity": fidelity})
    _show(found, one, two, real, fidelity)
    if _STATUS[found.verdict]:
        raise typer.Exit(_STATUS[found.verdict])


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
    counts = {bundle.manifest.contract.dims.num_classes for bundle in opened.values()}
    if len(counts) > 1:
        raise ValueError(f"the bundles have {' and '.join(map(str, sorted(counts)))} classes; expected as many")
    classes = set(range(counts.pop()))
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
    found: QualityReport, one: ImageSet, two: ImageSet, real: ImageSet | None, fidelity: dict[str, dict[str, float]]
) -> None:
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
        output.print(f"torch-fidelity {key}: {said}", soft_wrap=True)
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
