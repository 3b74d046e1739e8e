"""The two sides of aim-edge ab: bundles and reports, paired by number of codes, and measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import errors, reporting
from .generate import refuse_checkpoint_name

if TYPE_CHECKING:
    from aim_edge.export.ab import Lengths
    from aim_edge.runtime.bench import BenchSettings

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """A bundle or a report.

    Attributes:
        side: "A" or "B".
        path: as given.
        described: what its report calls "bundle", or as much of it as the manifest says.
        report: read or measured; None where the bundle is still to be measured.
        file: where the report lies, or will.
    """

    side: str
    path: Path
    described: dict[str, Any]
    report: dict[str, Any] | None
    file: Path

    @property
    def codes(self) -> int:
        """Codes of an image."""
        return int(self.described["dims"]["num_tokens"])

    @property
    def is_bundle(self) -> bool:
        """Whether it was given as a bundle."""
        return self.path != self.file


def read_sides(a: str, b: str, beside: Path | None) -> tuple[list[tuple[Source, Source]], Lengths]:
    """What was given, paired by number of codes in A's order; nothing is measured yet.

    Args:
        a: paths with commas between them, one a number of codes.
        b: the same.
        beside: the output that reports of bundles are kept beside; None where there is none.

    Returns:
        The pairs, and what has no counterpart.

    Raises:
        ValueError: a path is neither bundle nor report, bundles and no place for their reports, or what
            `pair_lengths` refuses.
    """
    from aim_edge.export.ab import pair_lengths

    sides = [list(_read_side(side, text, beside)) for side, text in (("A", a), ("B", b))]
    given = {source.path.absolute() for sources in sides for source in sources}
    for source in (source for sources in sides for source in sources if source.is_bundle):
        if source.file.absolute() in given:
            raise ValueError(f"{source.file} is to be written and is what was given; give --out another name")
    ours, theirs = sides
    lengths = pair_lengths([one.described for one in ours], [one.described for one in theirs])
    pairs = [(ours[i], theirs[j]) for _, i, j in sorted(lengths.pairs, key=lambda pair: pair[1])]
    return pairs, lengths


def _read_side(side: str, text: str, beside: Path | None) -> Iterator[Source]:
    from aim_edge.runtime.bundle import read_manifest

    paths = [Path(part) for part in text.split(",") if part]
    if not paths or len(paths) != text.count(",") + 1:
        raise ValueError(f"{side} is {text!r}; expected a path, or several with commas between them")
    for path in paths:
        if not _is_bundle(side, path):
            report = _read(side, path)
            yield Source(side, path, report["bundle"], report, path)
            continue
        manifest = read_manifest(path)
        dims = asdict(manifest.contract.dims)
        described = {"name": path.resolve().name, "family": manifest.family, "dims": dims}
        if beside is None:
            raise ValueError(f"{side} is a bundle, whose report is kept beside --out or --html: give one of them")
        length = f"_{dims['num_tokens']}" if len(paths) > 1 else ""
        file = beside.with_name(f"{beside.stem}_{side.lower()}{length}.json")
        yield Source(side, path, described, None, file)


def measure_sides(
    pairs: Sequence[tuple[Source, Source]], backend: str, settings: BenchSettings
) -> list[tuple[Source, Source]]:
    """The same with every bundle measured, pair by pair, A first.

    Raises:
        ValueError: a report has none of the batches that its counterpart is to be measured with.
    """
    from aim_edge.runtime.bench_figures import read_baseline

    for one, other in pairs:
        for given, measured in ((one, other), (other, one)):
            if measured.is_bundle and not given.is_bundle:
                read_baseline(given.file, settings.batches)
    return [(_measured(one, backend, settings), _measured(other, backend, settings)) for one, other in pairs]


def _measured(source: Source, backend: str, settings: BenchSettings) -> Source:
    """What `aim-edge bench` finds, kept in the source's file; a report as it is."""
    if not source.is_bundle:
        return source
    from aim_edge.runtime.bench import run_bench

    from .power import open_meter
    from .validate import write_json

    side = source.side
    with reporting() as report:
        report(f"{side}: opening {source.path}")
        found = run_bench(
            source.path, backend, {}, settings, lambda what, done, total: report(f"{side}: {what}", done, total),
            open_meter,
        )  # fmt: skip
    write_json(source.file, found)
    for one in found["batches"]:
        if one["not_run"]:
            where = f"{side}: {source.codes} codes, batch {one['batch']}"
            errors.print(f"{where} not run: {one['not_run']}", soft_wrap=True)
    return replace(source, report=found)


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
