"""Reports of `aim-edge bench` against the floor that memory sets, the published code, and what Jetsons could reach.

    python benchmarks/roofline.py REPORT.json... --out benchmarks/roofline.md [--svg benchmarks/roofline.svg]
        [--name REPORT.json=NAME]

Tokens only. What was not measured is "-". The published code's figures and where they are from: `published.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roofline_plot import Series, batch_plot

from aim_edge.runtime import bench_figures
from aim_edge.runtime.contract import ModelDims, build_contract
from aim_edge.runtime.floor import StepBytes, floor, step_bytes

PUBLISHED = Path(__file__).with_name("published.json")
BATCHES = (1, 8, 64, 256)
STEPS = 256
_HALF = "float16"  # weights and states both
_INT8 = "float16, int8 weights"
# The published code has no float16; its 16-bit type stands beside ours.
_BESIDE = {"bfloat16": _HALF, "float32": "float32"}
_TOLD_BY = ("d_model", "n_layer", "vocab_size", "num_tokens", "nheads", "headdim", "d_state", "conv_dim")


def _dims(d_model: int, n_layer: int) -> ModelDims:
    heads = 2 * d_model // 64
    return ModelDims(
        d_model=d_model, n_layer=n_layer, vocab_size=16384, num_classes=1000, num_tokens=STEPS, adaln_factor=3,
        nheads=heads, headdim=64, d_state=128, d_conv=4, conv_dim=64 * heads + 2 * 128, image_channels=3,
        image_height=256, image_width=256, grid_height=16, grid_width=16,
    )  # fmt: skip


MODELS = {"AiM-B": _dims(768, 24), "AiM-L": _dims(1024, 48), "AiM-XL": _dims(1536, 48)}


def bytes_of(model: str, precision: str) -> StepBytes:
    """Bytes of a step of a published model, states in float16, weights too or in int8 without their scales."""
    half = step_bytes(build_contract(MODELS[model], state_dtype=_HALF), _HALF)
    return StepBytes(half.weights // 2, half.state_per_row) if precision == _INT8 else half


@dataclass(frozen=True)
class Board:
    """A board by NVIDIA's data sheet: nominal memory bandwidth (bytes a second) and memory (bytes)."""

    name: str
    bandwidth: float
    memory: float


BOARDS = (
    Board("Orin Nano 8GB", 68e9, 8e9),
    Board("Orin Nano 8GB, Super mode", 102e9, 8e9),
    Board("Orin NX 16GB", 102.4e9, 16e9),
    Board("AGX Orin 64GB", 204.8e9, 64e9),
    Board("Thor T5000 128GB", 273e9, 128e9),
)


@dataclass(frozen=True)
class Row:
    """What a report has of one batch.

    Attributes:
        precision: "float16", "float32", "float16, states float32" where the two differ, or with ", int8 weights".
        floor: (milliseconds a step, images a second, measured as a multiple of it), or None.
        memory: bytes of the device that the bundle took, None where not known.
    """

    file: str
    model: str
    batch: int
    precision: str
    ms_per_step: float
    images_per_second: float
    floor: tuple[float, float, float] | None
    memory: int | None

    @property
    def key(self) -> tuple[str, int, str]:
        return self.model, self.batch, self.precision


@dataclass(frozen=True)
class Report:
    """One JSON file of `aim-edge bench`.

    Attributes:
        gpu: its name, "" where there was none.
        bandwidth: bytes a second of copies, None where not measured.
        line: what was measured, for people.
        not_run: a line for each batch whose tokens were not measured.
    """

    model: str
    gpu: str
    bandwidth: float | None
    line: str
    rows: tuple[Row, ...]
    not_run: tuple[str, ...]


@dataclass(frozen=True)
class PublishedRow:
    model: str
    batch: int
    precision: str
    seconds: float
    ms_per_step: float
    images_per_second: float


@dataclass(frozen=True)
class Published:
    """The published code's figures, and what they are of."""

    code: str
    gpu: str
    versions: str
    timed: str
    rows: Mapping[tuple[str, int, str], PublishedRow]

    @classmethod
    def read(cls, path: Path = PUBLISHED) -> Published:
        """Reads `published.json`. Rows are found by the key of ours that they stand beside."""
        read = json.loads(path.read_text(encoding="utf-8"))
        rows = [PublishedRow(**row) for row in read.pop("rows")]
        return cls(**read, rows={(row.model, row.batch, _BESIDE[row.precision]): row for row in rows})

    def comparable(self, gpu: str) -> bool:
        """Whether a ratio to a figure of `gpu` is one of the code and not of the GPUs."""
        return self.gpu in gpu


def read_report(path: Path, name: str | None = None) -> Report:
    """Reads what `aim-edge bench --json` wrote.

    Args:
        path: the file.
        name: of the model; None where its sizes tell.

    Raises:
        ValueError: no such report, another version's, or of a model that neither sizes nor `name` tell; a published
            model's name for other sizes.
        OSError: it cannot be read.
    """
    read = bench_figures.read_report(path)
    try:
        return _report(path, read, name)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not as `aim-edge bench --json` writes it: {error!r}") from error


def _report(path: Path, read: Mapping[str, Any], name: str | None) -> Report:
    bundle, backend, settings, bandwidth = read["bundle"], read["backend"], read["settings"], read["bandwidth"]
    model = _model(path, bundle["dims"], name)
    states = bundle["state_dtype"]
    precision = backend["precision"] + ("" if states == backend["precision"] else f", states {states}")
    weights = bundle.get("weights", backend["precision"])
    if weights != backend["precision"]:
        precision += f", {weights} weights"
    rows, not_run = [], []
    for one in read["batches"]:
        tokens, least, memory = one["tokens"], one["floor"], one["memory"]
        if tokens is None:
            not_run.append(f"{model}, {precision}, batch {one['batch']} did not run: {one['not_run']}")
            continue
        if not tokens["ms_per_step"] > 0:
            raise ValueError(f"{path}: batch {one['batch']}: {tokens['ms_per_step']!r} ms a step; expected more than 0")
        rows.append(Row(
            path.name, model, one["batch"], precision, tokens["ms_per_step"], tokens["images_per_second"],
            None if least is None
            else (1e3 * least["step_seconds"], least["images_per_second"], least["measured_over_floor"]),
            None if memory is None or "device_total" not in memory else sum(memory["by_use"].values()),
        ))  # fmt: skip
    sampling = ", ".join(f"{key} {value}" for key, value in settings["sampling"].items())
    line = (
        f"`{path.name}`: {model}, {precision}, lowering {bundle['lowering']}; {backend['description']}; {sampling}; "
        f"median of {settings['repeats']} runs"
    )
    if bandwidth is not None:
        line += f"; copies reached {bandwidth['bytes_per_second'] / 1e12:.3f} TB/s"
    reached = None if bandwidth is None else bandwidth["bytes_per_second"]
    return Report(model, read["machine"]["gpu"] or "", reached, line, tuple(rows), tuple(not_run))


def _model(path: Path, dims: Mapping[str, int], name: str | None) -> str:
    told = next((m for m, sizes in MODELS.items() if all(dims[k] == getattr(sizes, k) for k in _TOLD_BY)), None)
    sizes = ", ".join(f"{key} {dims[key]}" for key in _TOLD_BY)
    if name is None and told is None:
        raise ValueError(f"{path}: a model of {sizes} is none of {', '.join(MODELS)}; name it: --name {path}=NAME")
    if name in MODELS and name != told:
        raise ValueError(f"{path}: named {name}, but a model of {sizes} is {told or 'none of the published sizes'}")
    return name or told or ""


def read_reports(paths: Iterable[Path], names: Mapping[Path, str]) -> list[Report]:
    """Reads reports that belong in one table.

    Args:
        paths: the files.
        names: of the models, for those whose sizes do not tell.

    Raises:
        ValueError: as `read_report`; a name for a file that is not given; two GPUs; two rows of one model, batch and
            precision.
        OSError: as `read_report`.
    """
    paths = list(paths)
    stray = [str(path) for path in names if path not in paths]
    if stray:
        raise ValueError(f"--name is given for {', '.join(stray)}; reports are {', '.join(map(str, paths))}")
    reports = [read_report(path, names.get(path)) for path in paths]
    gpus = sorted({report.gpu or "none" for report in reports})
    if len(gpus) > 1:
        raise ValueError(f"reports are of GPUs {', '.join(gpus)}; expected one: make a table for each")
    seen: dict[tuple[str, int, str], Row] = {}
    for row in (row for report in reports for row in report.rows):
        if row.key in seen:
            raise ValueError(
                f"{row.model}, batch {row.batch}, {row.precision} is in {seen[row.key].file} and in {row.file}; "
                "expected once: leave one out"
            )
        seen[row.key] = row
    return reports


def three(value: float | None) -> str:
    """Three digits that count, without an exponent; "-" for None."""
    return "-" if value is None else f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A markdown table whose first `left` columns are text."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def measured_table(reports: Sequence[Report], published: Published) -> str:
    """Measured, floor and published code by model, precision and batch."""
    rows = {row.key: row for report in reports for row in report.rows}
    same_gpu = published.comparable(reports[0].gpu)
    kinds = (_HALF, _INT8) if any(row.precision == _INT8 for row in rows.values()) else (_HALF,)
    keys = {(model, batch, kind) for model in MODELS for batch in BATCHES for kind in kinds}
    keys |= set(rows) | set(published.rows)
    order = [*MODELS, *sorted({model for model, _, _ in keys} - set(MODELS))]
    lines = []
    for key in sorted(keys, key=lambda key: (order.index(key[0]), key[2], key[1])):
        row, theirs = rows.get(key), published.rows.get((*key[:2], _HALF) if key[2] == _INT8 else key)
        least = row.floor if row is not None and row.floor is not None else (None, None, None)
        faster = theirs.ms_per_step / row.ms_per_step if row is not None and theirs is not None and same_gpu else None
        lines.append([
            key[0], key[2], str(key[1]),
            three(row.ms_per_step if row else None), three(row.images_per_second if row else None),
            three(least[0]), three(least[1]), "-" if least[2] is None else f"{least[2]:.1f}x",
            three(theirs.ms_per_step if theirs else None), three(theirs.images_per_second if theirs else None),
            "-" if faster is None else f"{faster:.1f}x",
        ])  # fmt: skip
    head = ["model", "precision", "batch", "ms/step", "images/s", "floor ms/step", "floor images/s", "of the floor",
            "published ms/step", "published images/s", "times as fast"]  # fmt: skip
    return _table(head, lines, 2)


def predicted_table(reports: Sequence[Report], boards: Sequence[Board] = BOARDS) -> str:
    """Milliseconds an image on boards: floors, and the measured multiple of the floor carried over."""
    rows = {row.key: row for report in reports for row in report.rows}
    lines = []
    for model in MODELS:
        for batch in (1, 8):
            lines_of = []
            for name, kind in (("float16", _HALF), ("int8 weights", _INT8)):
                moved = bytes_of(model, kind)
                row = rows.get((model, batch, kind))
                multiple = row.floor[2] if row is not None and row.floor is not None else None
                carried = f"{name}, predicted" + ("" if multiple is None else f" ({multiple:.1f}x)")
                lines_of += [(f"{name}, floor", moved, None, 1.0), (carried, moved, row, multiple)]
            for what, moved, row, times in lines_of:
                need = moved.weights + batch * moved.state_per_row  # two rows an image, each half of what it moves
                cells = []
                for board in boards:
                    image = 1e3 / floor(moved, board.bandwidth, batch, STEPS).images_per_second
                    cell = three(None if times is None else times * image)
                    if need > board.memory:
                        cell = "does not fit"
                    elif times is not None and row is not None and (row.memory or 0) > board.memory:
                        cell += " (!)"
                    cells.append(cell)
                lines.append([model, str(batch), what, *cells])
    head = ["model", "batch", "ms an image", *(f"{b.name} ({b.bandwidth / 1e9:g} GB/s)" for b in boards)]
    return _table(head, lines, 3)


_PREDICTED = """## Jetson: predicted, not measured

**None of these figures has been measured.** Milliseconds an image of 256 tokens (a batch's time over its images),
tokens only. Floor: a step's bytes over 100% of the nominal memory bandwidth of NVIDIA's data sheets. Predicted: that
floor times the multiple of the floor that was measured on {gpu} for the same model and batch. It is
assumed that the multiple carries over. There it is of the bandwidth that copies reach, which is less than nominal; at
small batches it holds launches and waits, which need not grow as memory gets slower; and a board's arithmetic is not in
it: the truth may lie on either side. int8: weights of half the bytes (the few scales are not counted), states in
float16."""
_MEMORY = """"does not fit": the weights of a step and the states alone exceed the board's memory, of which the system
takes its part too. "(!)": they do not, but on the GPU of the report the bundle took more than the board has, its image
decoder's scratch included, which an engine built for fewer images at once shrinks."""


def render(reports: Sequence[Report], published: Published, pictures: Sequence[str] = ()) -> str:
    """The page in markdown.

    Args:
        reports: as `read_reports` gives them.
        published: the published code's figures.
        pictures: paths of the plots as seen from the page.
    """
    gpu = reports[0].gpu
    parts = ["# Measured, the floor, and the published code", f"GPU: {gpu or 'none'}. Tokens only (no image decoder)."]
    parts.append("\n".join(f"- {line}" for report in reports for line in (report.line, *report.not_run)))
    parts += [f"![Milliseconds a step by batch: floor, measured, published]({picture})" for picture in pictures]
    parts.append(measured_table(reports, published))
    parts.append(
        "Floor: every weight read once and every ssm_state read and written once a step, over the bandwidth that "
        'copies reached in the same run (`runtime/floor.py`); "of the floor" is measured time over it. "-" was not '
        "measured."
    )
    parts.append(
        f"Published: {published.code}, {published.versions}, one {published.gpu}: {published.timed}. Its bfloat16 "
        "stands beside our float16, and beside our int8 weights."
    )
    if not published.comparable(gpu):
        parts.append(f'No "times as fast": the GPU here is not the {published.gpu} of the published figures.')
    parts += [_PREDICTED.format(gpu=gpu or "the machine"), predicted_table(reports), _MEMORY]
    return "\n\n".join(parts) + "\n"


def plot(reports: Sequence[Report], published: Published, precision: str = _HALF) -> str:
    """Milliseconds a step of the published sizes in this precision that were measured, as SVG.

    Raises:
        ValueError: none was.
    """
    gpu, rows = reports[0].gpu, [row for report in reports for row in report.rows if row.precision == precision]
    last = max((row.batch for row in rows), default=1)
    sizes = sorted({1, 2, 4, 8, 16, 32, 64, 128, *BATCHES, last})
    series = []
    for model in MODELS:
        ours = sorted((row.batch, row.ms_per_step) for row in rows if row.model == model)
        if not ours:
            continue
        bandwidth = next((report.bandwidth for report in reports if report.model == model and report.bandwidth), None)
        moved = bytes_of(model, precision)
        least = [] if bandwidth is None else [floor(moved, bandwidth, size, STEPS) for size in sizes]
        theirs = [row for key, row in published.rows.items() if key[0] == model and key[2] == _HALF]
        shown = [(row.batch, row.ms_per_step) for row in theirs if published.comparable(gpu)]
        series.append(Series(model, ours, [(one.batch, 1e3 * one.step_seconds) for one in least], shown))
    if not series:
        raise ValueError(f"no report has a measured row of {', '.join(MODELS)} in {precision}, which the plot is of")
    title = f"Milliseconds a decoding step by batch, tokens only, {gpu or 'no GPU'}"
    theirs_name = f"published code, bfloat16, {published.gpu}"
    return batch_plot(title, series, BATCHES, f"aim-edge, {precision}", theirs_name)


def _name(text: str) -> tuple[Path, str]:
    file, _, name = text.rpartition("=")
    if not file or not name:
        raise argparse.ArgumentTypeError(f"{text!r}; expected FILE=NAME, such as bench.json=AiM-B")
    return Path(file), name


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page and the plot, or ends with status 2 and what was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="what aim-edge bench --json wrote")
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    parser.add_argument("--svg", type=Path, help="plot to write; that of int8 weights, if any, beside it as *_int8")
    parser.add_argument("--name", type=_name, action="append", default=[], metavar="FILE=NAME",
                        help="the model of a report whose sizes do not tell; may be given again")  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        for file in (given.out, given.svg):
            if file is not None and not file.absolute().parent.is_dir():
                raise FileNotFoundError(f"{file}: there is no folder {file.absolute().parent}")
        reports, published = read_reports(given.reports, dict(given.name)), Published.read()
        drawn: dict[Path, str] = {}
        if given.svg is not None:
            drawn[given.svg] = plot(reports, published)
            if any(row.precision == _INT8 for report in reports for row in report.rows):
                drawn[given.svg.with_stem(f"{given.svg.stem}_int8")] = plot(reports, published, _INT8)
        pictures = [Path(os.path.relpath(file, given.out.parent)).as_posix() for file in drawn]
        given.out.write_text(render(reports, published, pictures), encoding="utf-8")
        for file, picture in drawn.items():
            file.write_text(picture, encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
