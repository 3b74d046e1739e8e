"""Where commands print: results on stdout; progress and errors on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# A log's width, where rich would take 80 columns; a terminal knows its own.
_LOG_WIDTH = 120

# No markup, no emoji: messages hold paths, `aim-edge[extra]` and 1:1:8, whose brackets and colons are text.
output = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)

_QUARTERS = 4


class Report(Protocol):
    """Tells how far something is."""

    def __call__(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """`what` is being done; `done` of `total` are behind it (None: not known)."""


@contextmanager
def reporting() -> Iterator[Report]:
    """Yields a `Report`: a progress bar on a terminal, elsewhere a line for each new thing and each quarter of it."""
    if errors.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda what, done=None, total=None: bar.update(
                task, description=what, completed=done, total=total
            )
    else:
        yield _Lines()


class _Lines:
    """A `Report` for logs."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, what: str, done: int | None = None, total: int | None = None) -> None:
        quarter = _QUARTERS * (done or 0) // (total or 1)
        if (what, quarter) != self._last:
            errors.print(what if done is None else f"{what} ({done}/{total})", soft_wrap=True)
        self._last = (what, quarter)


def megabytes(size: int) -> str:
    """A size in bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
