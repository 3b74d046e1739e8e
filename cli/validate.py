"""aim-edge validate: is the bundle still the checkpoint's model?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import output, reporting
from .generate import refuse_checkpoint_name

if TYPE_CHECKING:
    from rich.table import Table

    from aim_edge.export import ParityReport
    from aim_edge.export.held_out import HeldOutReport
    from aim_edge.export.parity_report import StepParity

GATE_FAILED = 1


def validate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="What it was exported from.", show_default="the source that its manifest names")
    ] = None,
    backend: Annotated[str, typer.Option(help="See: aim-edge doctor.")] = "ort-cpu",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the backend, such as sampler=host; may be given again."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Compare with this bundle, which may be the same one, or with this checkpoint in PyTorch."),
    ] = None,
    against_backend: Annotated[
        str | None, typer.Option(help="What the bundle of --against runs on.", show_default="ort-cpu")
    ] = None,
    against_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of --against-backend; may be given again.")
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(help="With --against: an .npz of held-out labels (N) and tokens (N, T); compares cross-entropy."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Images to decode, of classes spread over all.", show_default="2; of --codes all"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Compare only the first so many steps.")] = None,
    seed: Annotated[int, typer.Option(help="Of the codes that are forced.")] = 0,
    all_steps: Annotated[bool, typer.Option("--all-steps", help="A row for every step.")] = False,
    state_every: Annotated[int, typer.Option(min=1, help="Compare states at every so many steps, and the last.")] = 16,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots and image pairs to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the summary in the bundle's manifest, which inspect shows.")
    ] = False,
) -> None:
    """Compare a bundle, step by step, with its checkpoint in PyTorch or another bundle; exit with 1 if a gate fails."""
    for file in (html, json_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"{file}: there is no folder {file.absolute().parent}")
    if against is not None and checkpoint is None and _is_checkpoint(against):
        checkpoint, against = str(against), None
    if codes is not None:
        if against is None:
            raise ValueError("--codes compares two bundles; name the other with --against")
        if checkpoint is not None or record or html is not None or steps is not None:
            raise ValueError("--codes goes with --images and --json; leave --checkpoint, --record, --html, --steps out")
        held_out = compare_codes(
            bundle, against, codes, backend, against_backend or "ort-cpu", images, option or (), against_option or ()
        )
        if json_file is not None:
            write_json(json_file, held_out.to_dict())
        _show_held_out(held_out)
        if not held_out.passed:
            raise typer.Exit(GATE_FAILED)
        return
    images = 2 if images is None else images
    if against is None:
        if against_backend is not None or against_option:
            raise ValueError("--against-backend and --against-option say how a bundle of --against runs; give that too")
        report = compare(
            bundle, checkpoint, backend, images, steps, seed, record=record, state_every=state_every, html=html,
            option=option or (),
        )  # fmt: skip
    else:
        if record:
            raise ValueError("--record keeps the comparison with PyTorch; leave it or --against out")
        if checkpoint is not None:
            raise ValueError("--checkpoint and --against both name the reference; leave one out")
        report = compare_with(
            bundle, against, backend, against_backend or "ort-cpu", images, steps, seed, state_every=state_every,
            html=html, option=option or (), against_option=against_option or (),
        )  # fmt: skip
    if json_file is not None:
        write_json(json_file, report.to_dict())
    _show(report, all_steps)
    if not report.passed:
        raise typer.Exit(GATE_FAILED)


def _is_checkpoint(path: Path) -> bool:
    """A folder with config.json, a weight file, or the bundled one by its name; a bundle is none."""
    if (path / "manifest.json").exists():
        return False
    return str(path) == "demo" or path.is_file() or (path / "config.json").is_file()


def _show(report: ParityReport, all_steps: bool) -> None:
    output.print(f"{report.compared()}: {report.images} images, logits before guidance", soft_wrap=True)
    output.print(steps_table(report, all_steps))
    output.print(states_line(report), soft_wrap=True)
    output.print(report.drift_line(), soft_wrap=True)
    output.print(report.line(), soft_wrap=True)
    for warning in report.warnings:
        output.print(f"warning: {warning}", soft_wrap=True)
    for failure in report.failures:
        output.print(f"failed gate: {failure}", soft_wrap=True)
    for line in report.diagnosis.lines() if report.diagnosis else ():
        output.print(f"diagnosis: {line}", soft_wrap=True)


def compare(
    bundle: Path, checkpoint: str | None, backend: str = "ort-cpu", images: int = 2, steps: int | None = None,
    seed: int = 0, *, record: bool, state_every: int = 16, html: Path | None = None, option: Sequence[str] = (),
) -> ParityReport:  # fmt: skip
    """Validates with progress shown, and looks for the cause where a gate fails.

    Args:
        record: keep the summary in the manifest.
        html: write the report with plots to this file.
        bundle and the rest: as the command's.
    """
    refuse_checkpoint_name(bundle)
    with reporting() as report:
        report("loading PyTorch")
        from aim_edge.export import examine, locate
        from aim_edge.runtime.backends import parse_options
        from aim_edge.runtime.bundle import read_manifest, write_manifest

        if html is not None:  # before the work, so that a library that is missing is told at once
            from aim_edge.export.report import render_report
        seen = examine(
            bundle, checkpoint, backend=backend, images=images, steps=steps, seed=seed, progress=report,
            state_every=state_every, options=parse_options(backend, option),
        )  # fmt: skip
        if not seen.report.passed:
            diagnosis = locate(bundle, seen.checkpoint, seen, backend=backend, progress=report)
            seen = replace(seen, report=replace(seen.report, diagnosis=diagnosis))
    if html is not None:
        html.write_text(render_report(seen), encoding="utf-8")
    if record:
        write_manifest(bundle, replace(read_manifest(bundle), parity=finite(seen.report.summary())))
    return seen.report


def compare_with(
    bundle: Path, against: Path, backend: str, against_backend: str, images: int, steps: int | None, seed: int, *,
    state_every: int, html: Path | None, option: Sequence[str], against_option: Sequence[str],
) -> ParityReport:  # fmt: skip
    """As `compare`, with another bundle in PyTorch's place."""
    for folder in (bundle, against):
        refuse_checkpoint_name(folder)
    with reporting() as report:
        from aim_edge.export import Side, compare_bundles
        from aim_edge.runtime.backends import parse_options

        if html is not None:
            from aim_edge.export.report import render_report
        seen = compare_bundles(
            Side(bundle, backend, parse_options(backend, option)),
            Side(against, against_backend, parse_options(against_backend, against_option)),
            images=images, steps=steps, seed=seed, progress=report, state_every=state_every,
        )  # fmt: skip
    if html is not None:
        html.write_text(render_report(seen), encoding="utf-8")
    return seen.report


def compare_codes(
    bundle: Path, against: Path, codes: Path, backend: str, against_backend: str, images: int | None,
    option: Sequence[str], against_option: Sequence[str],
) -> HeldOutReport:  # fmt: skip
    """Cross-entropy of held-out codes in both bundles."""
    for folder in (bundle, against):
        refuse_checkpoint_name(folder)
    with reporting() as report:
        from aim_edge.export.compare import Side
        from aim_edge.export.held_out import compare_held_out, read_codes
        from aim_edge.runtime.backends import parse_options

        return compare_held_out(
            Side(bundle, backend, parse_options(backend, option)),
            Side(against, against_backend, parse_options(against_backend, against_option)),
            *read_codes(codes, images), progress=report,
        )  # fmt: skip


def _show_held_out(report: HeldOutReport) -> None:
    from rich.table import Table

    table = Table()
    for name in ("bundle", "weights", "nats a code", "more", "allowed", "KL", "top-1"):
        table.add_column(name, justify="left" if name == "bundle" else "right")
    table.add_row(report.against, report.against_weights, f"{report.against_cross_entropy:.4f}", "", "", "", "")
    table.add_row(
        report.bundle, report.weights, f"{report.cross_entropy:.4f}", f"{report.loss:+.2%}", f"{report.allowed:+.1%}",
        f"{report.kl:.2e}", f"{report.top1:.2%}",
    )  # fmt: skip
    output.print(f"{report.images} held-out images of {report.codes} codes, codes forced")
    output.print(table)
    output.print(report.line(), soft_wrap=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON that any reader takes."""
    path.write_text(json.dumps(finite(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The same with NaN and infinities as text: JSON has none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# Measure -> how bad a step is by it (larger is worse).
_BADNESS: dict[str, Callable[[StepParity], float]] = {
    "cosine": lambda s: -s.cosine,
    "norm ratio": lambda s: abs(s.norm_ratio - 1),
    "max |diff|": lambda s: s.max_abs,
    "relative": lambda s: s.max_rel,
    "top-1": lambda s: -s.top1,
    "top-5": lambda s: -s.top5,
    "KL": lambda s: s.kl,
}

_MEASURES = ("cosine", "norm_ratio", "max_abs", "max_rel", "top1", "top5", "kl")


def steps_table(report: ParityReport, all_steps: bool) -> Table:
    """The measures of the first, the last and the worst steps (or of all), the totals and the gates."""
    from rich.table import Table

    notes = {s.step: [] for s in report.steps} if all_steps else dict[int, list[str]]()
    notes.setdefault(report.steps[0].step, []).append("first")
    notes.setdefault(report.steps[-1].step, []).append("last")
    for name, badness in _BADNESS.items():
        values = {s.step: _nan_is_worst(badness(s)) for s in report.steps}
        worst = max(values, key=lambda step: values[step])
        if values[worst] > min(values.values()):
            notes.setdefault(worst, []).append(f"worst {name}")
    table = Table()
    for name in ("step", *_BADNESS):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    by_step = {s.step: s for s in report.steps}
    for step in sorted(notes):
        s = by_step[step]
        cells = _cells(s.cosine, s.norm_ratio, s.max_abs, s.max_rel, s.top1, s.top5, s.kl)
        table.add_row(str(step), *cells, ", ".join(notes[step]))
    worst_of = report.worst()
    table.add_section()
    totals = _cells(*(worst_of[name] for name in _MEASURES))
    table.add_row(f"all {len(report.steps)}", *totals, "worst; top-1, top-5 and KL: mean")
    gates = report.gates
    limits = (
        _limit(">= {:g}", gates.cosine), _limit("1 +- {:g}", gates.norm_ratio), _limit("<= {:g}", gates.max_abs),
        "none", _limit(">= {:.2%}", gates.top1), "none", "none",
    )  # fmt: skip
    table.add_row("gate", *limits, "of every step")
    return table


def _nan_is_worst(badness: float) -> float:
    return math.inf if math.isnan(badness) else badness


def states_line(report: ParityReport) -> str:
    """States, images, the first parting and NaN or infinity, in one line."""
    worst = report.worst_states()
    parted = "none" if report.first_parting is None else f"step {report.first_parting}"
    found = [*report.non_finite[:3], *report.reference_non_finite[:3]]
    watch = ", ".join(f.where if f.step is None else f"{f.where} at step {f.step}" for f in found)
    return (
        f"states of {len({s.layer for s in report.states})} layers at {len({s.step for s in report.states})} steps: "
        f"cosine >= {worst['cosine']:.7f}, norm ratio {worst['norm_ratio']:.5f}, max |diff| {worst['max_abs']:.2e}; "
        f"greedy codes part: {parted}; NaN or infinity: {watch or 'none'}; image PSNR {report.image_psnr:.1f} dB, "
        f"SSIM {report.image_ssim:.6f}"
    )


def _cells(
    cosine: float, norm_ratio: float, max_abs: float, max_rel: float, top1: float, top5: float, kl: float
) -> tuple[str, ...]:
    """In the order of `_MEASURES`."""
    exact = f"{cosine:.8f}", f"{norm_ratio:.6f}", f"{max_abs:.2e}", f"{max_rel:.2e}"
    return *exact, f"{top1:.2%}", f"{top5:.2%}", f"{kl:.2e}"


def _limit(form: str, value: float | None) -> str:
    return "none" if value is None else form.format(value)
