"""aim-edge verify: what images say of where they come from, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import output, reporting

if TYPE_CHECKING:
    from rich.table import Table

    from aim_edge.runtime import Bundle, Generator
    from aim_edge.runtime.provenance import Marks, Provenance

    from .credentials import Credentials

VERIFY_FAILED = 1
_LONGEST = 160


@dataclass
class Finding:
    """What was found of one image: what holds, and every reason to doubt it."""

    path: Path
    marks: Marks
    signed: Credentials | None = None
    holds: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(help="The bundle that should have drawn them.")] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Draw each anew with the recorded settings and compare the pixels.")
    ] = False,
    backend: Annotated[str, typer.Option(help="For --redraw; see: aim-edge doctor.")] = "ort-cpu",
    trust_anchors: Annotated[
        Path | None, typer.Option(help="CA certificates, PEM: fail what no certificate of theirs signed (C2PA).")
    ] = None,
) -> None:
    """Show where images say they come from; exit with 1 where marks are missing, disagree or do not hold."""
    from aim_edge.runtime import Bundle, Generator
    from aim_edge.runtime.provenance import read_marks

    from .credentials import read_anchors, read_credentials
    from .generate import refuse_checkpoint_name

    if redraw and bundle is None:
        raise ValueError("--redraw needs the bundle to draw with; give --bundle too")
    anchors = None if trust_anchors is None else read_anchors(trust_anchors)
    findings = [Finding(path, read_marks(path), read_credentials(path, anchors)) for path in images]
    for finding in findings:
        _check_marks(finding)
        _check_signature(finding, anchors is not None)
    if bundle is not None:
        refuse_checkpoint_name(bundle)
        opened = Bundle.open(bundle)
        for finding in findings:
            _check_bundle(finding, opened)
        if redraw:
            with reporting() as report, Generator.open(opened, backend=backend) as generator:
                for done, finding in enumerate(findings):
                    report(f"drawing {len(findings)} images anew", done, len(findings))
                    _check_redrawn(finding, generator)
    for finding in findings:
        output.print(marks_table(finding))
        signed = "no manifest (PNG files may hold one)" if finding.signed is None else finding.signed.summary()
        output.print(f"{finding.path}: C2PA: {_visible(signed)}", soft_wrap=True)
        verdict = "; ".join(finding.holds if not finding.problems else finding.problems)
        output.print(f"{finding.path}: {'FAILED' if finding.problems else 'ok'}: {verdict}", soft_wrap=True)
    if any(finding.problems for finding in findings):
        raise typer.Exit(VERIFY_FAILED)


def marks_table(finding: Finding) -> Table:
    """What the text chunks, the XMP packet and, in signed files, the C2PA manifest say, side by side."""
    from rich.table import Table
    from rich.text import Text

    text, xmp = finding.marks.fields(), finding.marks.xmp
    facts = {} if finding.signed is None else finding.signed.facts
    sides = [text, xmp, facts] if facts else [text, xmp]
    table = Table(title=str(finding.path), title_justify="left")
    for column in ("", "text", "XMP", "C2PA")[: len(sides) + 1]:
        table.add_column(column, overflow="fold")
    if "Title" in finding.marks.text:
        table.add_row("Title", Text(_visible(finding.marks.text["Title"])), "")
    for name in dict.fromkeys([*xmp, *text, *facts]):
        cells = [_visible(side[name]) if name in side else "-" for side in sides]
        first = 1 if name == "DigitalSourceType" else 0  # which text has not
        for i in range(first + 1, len(sides)):
            if name in sides[first] and sides[first][name] == sides[i].get(name):
                cells[i] = "same"
        if first:
            cells[0] = ""
        table.add_row(_visible(name), *map(Text, cells))  # as Text, ":cat:" stays what it is
    if not text and not xmp and not facts:
        table.add_row("no marks", "-", "-")
    return table


def _check_marks(finding: Finding) -> None:
    marks = finding.marks
    if not marks.text and not marks.xmp and marks.xmp_problem is None:
        finding.problems.append("no marks of aim-edge were found")
        return
    finding.problems += marks.problems()
    finding.holds += ["text and XMP agree", "the pixels are those recorded"]


def _check_signature(finding: Finding, trusting: bool) -> None:
    if finding.signed is not None:
        finding.problems += map(_visible, finding.signed.problems(finding.marks))
        finding.holds.append(f"C2PA agrees, and its signature is {_visible(str(finding.signed.state))}")
    elif trusting:
        finding.problems.append("not signed by C2PA, which --trust-anchors asks for")


def _check_bundle(finding: Finding, bundle: Bundle) -> None:
    """Whether this bundle, with what is recorded of the generation, would write the same marks."""
    from aim_edge.runtime.policy import UsagePolicy
    from aim_edge.runtime.provenance import Provenance, bundle_digest

    if finding.problems:
        return
    found, manifest = finding.marks.provenance(), bundle.manifest
    if found.bundle != bundle_digest(manifest):
        finding.problems.append(f"another bundle drew it: {found.bundle} is recorded, {bundle.path} has "
                                f"{bundle_digest(manifest)}")  # fmt: skip
        return
    classes = manifest.contract.dims.num_classes
    if found.class_id is not None and not 0 <= found.class_id < classes:
        finding.problems.append(f"class_id is {found.class_id}; the bundle has 0..{classes - 1}")
        return
    expected = Provenance.from_generation(
        manifest, UsagePolicy.of_bundle(bundle), found.backend, seed=found.seed, sampling=found.sampling,
        class_id=found.class_id, image_index=found.image_index, prefix_tokens=found.prefix_tokens,
    ).to_fields()  # fmt: skip
    said = found.to_fields()
    # Not the bundle's to say: the version that drew, and the pixels.
    names = sorted({*said, *expected} - {"software", "pixels"})
    wrong = [name for name in names if said.get(name) != expected.get(name)]
    finding.problems += [f"not what the bundle says: {', '.join(wrong)}"] if wrong else []
    finding.holds.append("the bundle's digest matches")


def _check_redrawn(finding: Finding, generator: Generator) -> None:
    if finding.problems:
        return
    found = finding.marks.provenance()
    if found.class_id is None or found.image_index is None:
        finding.problems.append("NOT redrawn: it shows several images; --redraw takes single ones")
        return
    problem = _difference(finding.path, found, generator)
    finding.problems += [problem] if problem else []
    finding.holds.append(f"drawn anew on {generator.backend.name}, the pixels are the same")


def _difference(path: Path, found: Provenance, generator: Generator) -> str | None:
    """In words, how an image differs from what its settings draw now; None where no pixel does."""
    import numpy as np

    from aim_edge.runtime.images import read_pixels

    try:
        images, _ = generator.generate(
            [found.class_id or 0], seed=found.seed, image_index=np.array([found.image_index], np.uint64),
            prefix_tokens=np.array([found.prefix_tokens], np.int32).reshape(1, -1), **found.sampling.to_dict(),
        )  # fmt: skip
    except (ValueError, OverflowError) as error:  # what is recorded is no setting
        return f"cannot be drawn anew: {error}"
    shown = read_pixels(path).astype(np.int32)
    if shown.shape != images[0].shape:
        return f"drawn anew its pixels have shape {images[0].shape}; the file's have {shown.shape}"
    apart = np.abs(shown - images[0])
    if not apart.any():
        return None
    count = int(apart.any(axis=-1).sum())
    return (f"drawn anew on {generator.backend.name} (recorded: {found.backend}), {count} of "
            f"{apart[..., 0].size} pixels differ, by up to {apart.max()}")  # fmt: skip


def _visible(text: str) -> str:
    """A mark as one line that is safe to print: control characters are written out."""
    from aim_edge.runtime.provenance import escape

    line = escape(text).replace("\\u005c", "\\").replace("\n", " ")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
