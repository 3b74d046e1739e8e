"""What the benchmarks share: checkpoints of random weights and a table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from aim_edge.aim import AimConfig, AimModel, Checkpoint, VqConfig, VqModel, load_checkpoint

console = Console(width=140)


def checkpoint(preset: str) -> Checkpoint:
    """The demo, or a published size with random weights (speed and memory do not depend on their values)."""
    if preset == "demo":
        return load_checkpoint("demo")
    torch.manual_seed(0)
    aim = AimModel(AimConfig.preset(preset)).eval()
    with torch.no_grad():  # modulation starts at zero, which would leave every gate shut
        for name, parameter in aim.named_parameters():
            if "adaLN" in name or "adaln" in name:
                parameter.normal_(0, 0.02)
    return Checkpoint(aim, VqModel(VqConfig()).eval(), None, {}, f"random AiM-{preset}", "0" * 64)


def versions(*packages: str) -> str:
    """Python's, the machine's and the packages' versions in one line."""
    found = [f"Python {platform.python_version()}", platform.machine()]
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} missing")
    return ", ".join(found)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
