"""aim-edge gate: may this bundle be shipped?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import output, reporting
from .gate_files import write_junit, write_markdown
from .generate import refuse_checkpoint_name
from .validate import GATE_FAILED

if TYPE_CHECKING:
    from rich.table import Table

    from aim_edge.export import GateReport


def gate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    rules: Annotated[Path, typer.Option("--rules", help="A TOML file: [parity], [engines], [max_megabytes].")],
    checkpoint: Annotated[
        str | None, typer.Option(help="What it was exported from.", show_default="the source that its manifest names")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="In place of the rules'.", show_default="the rules'")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write a summary to this file; GitHub: $GITHUB_STEP_SUMMARY.")
    ] = None,
) -> None:
    """Hold a bundle to rules: exit with 0 if it keeps them all, 1 if not, 2 where that cannot be told."""
    refuse_checkpoint_name(bundle)
    with reporting() as report:
        report("loading PyTorch")
        from dataclasses import replace

        from aim_edge.export import Rules, check_gates

        read = Rules.read(rules)
        if backend is not None:
            if read.parity is None:
                raise ValueError(f"--backend is {backend!r}, but {rules} has no [parity] that would use it")
            read = replace(read, parity=replace(read.parity, backend=backend))
        found = check_gates(bundle, read, checkpoint, progress=report)
    if junit is not None:
        write_junit(junit, found)
    if markdown is not None:
        write_markdown(markdown, found)
    output.print(gate_table(found))
    for verdict in found.verdicts:
        if verdict.why:
            output.print(f"{verdict.group} {verdict.name}: {verdict.status}: {verdict.why}", soft_wrap=True)
    if found.parity is not None:
        output.print(found.parity.line(), soft_wrap=True)
    output.print(found.line(), soft_wrap=True)
    if not found.passed:
        raise typer.Exit(GATE_FAILED)


def gate_table(report: GateReport) -> Table:
    """A row a gate."""
    from rich.table import Table

    table = Table(title=f"gates of {report.bundle}", title_justify="left")
    for column in ("gate", "limit", "found", ""):
        table.add_column(column)
    for verdict in report.verdicts:
        table.add_row(f"{verdict.group}: {verdict.name}", verdict.limit, verdict.found, verdict.status)
    return table
