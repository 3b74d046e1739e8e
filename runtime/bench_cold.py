"""How long a new process takes to its first image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EngineError
from .generator import Generator
from .images import save_png

# The clock starts before anything of ours or of an engine's library is imported.
_START = (
    "import sys, time; begin = time.perf_counter(); "
    "from aim_edge.runtime.bench_cold import draw_first_image; draw_first_image(sys.argv[1], begin)"
)
_MARK = "aim-edge first image: "
_TOLD = 2000


def allowed_classes(generator: Generator) -> NDArray[np.int32]:
    """Ids of the classes that the bundle's policy lets be drawn. Raises ValueError where it denies all."""
    count, policy = generator.dims.num_classes, generator.policy
    denied = policy.denied_ids(count, generator.bundle.manifest.class_names) if policy else frozenset[int]()
    allowed = np.array([i for i in range(count) if i not in denied], np.int32)
    if not allowed.size:
        raise ValueError(f"{generator.bundle.path}: its usage policy denies every class, so nothing can be drawn")
    return allowed


def measure_first_images(
    path: str | os.PathLike[str], backend: str, options: Mapping[str, Any], repeats: int,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:  # fmt: skip
    """Starts new processes that draw one image each, one after the other.

    Returns:
        JSON-ready: "samples" in seconds, their "median", and "parts": of the run that is the median, seconds by what
        took them, in order.

    Raises:
        EngineError: a process failed; its stderr is told.
    """
    runs = []
    for i in range(repeats):
        progress("first image of a new process", i, repeats)
        runs.append(_first_image(path, backend, options))
    ordered = sorted(runs, key=lambda run: run[0])
    total, parts = ordered[(len(ordered) - 1) // 2]
    return {"samples": [run[0] for run in runs], "median": total, "parts": parts}


def _first_image(
    path: str | os.PathLike[str], backend: str, options: Mapping[str, Any]
) -> tuple[float, dict[str, float]]:
    """Seconds from the process's start to its first PNG, and by part."""
    with tempfile.TemporaryDirectory(prefix="aim-edge-bench-") as folder:
        png, log = Path(folder) / "first.png", Path(folder) / "stderr"
        order = {"path": os.fspath(path), "backend": backend, "options": dict(options), "png": str(png)}
        with log.open("wb") as stderr:
            begin = time.perf_counter()
            child = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(order)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", errors="replace",
            )  # fmt: skip
            total, told = 0.0, ""
            try:
                for line in child.stdout or ():  # an engine's library may say things there too
                    if line.startswith(_MARK):
                        total, told = time.perf_counter() - begin, line.removeprefix(_MARK)
                status = child.wait()
            except BaseException:
                child.kill()
                raise
            finally:
                child.wait()
                if child.stdout is not None:
                    child.stdout.close()
        said = log.read_text(encoding="utf-8", errors="replace").strip()[-_TOLD:]
        # A process that drew its image and then failed to end is broken too.
        if status or not told or not png.is_file():
            raise EngineError(
                f"the new process that draws a first image ended with {status}: {said or 'it said nothing'}; "
                "--no-cold-start leaves it out"
            )
    parts: dict[str, float] = json.loads(told)
    return total, {"start of Python": total - sum(parts.values()), **parts}


def draw_first_image(order: str, begin: float) -> None:
    """What the new process does: draws one image and tells on stdout what took how long.

    Args:
        order: JSON: path, backend, options, png.
        begin: `time.perf_counter()` before the import.
    """
    given = json.loads(order)
    marks = [("import", time.perf_counter())]
    with Generator.open(given["path"], given["backend"], **given["options"]) as generator:
        marks.append(("open bundle and library", time.perf_counter()))
        labels = allowed_classes(generator)[:1]
        session = generator.session(1)
        session.set_condition(labels)
        session.reset()
        marks.append(("load decoder and make session", time.perf_counter()))
        steps = generator.dims.num_tokens
        tokens = np.zeros((1, steps), np.int32)
        sampling = generator.bundle.manifest.sampling_defaults
        for _ in session.decode(sampling, 0, np.zeros(1, np.uint64), tokens, 0, steps):
            pass
        marks.append(("draw codes", time.perf_counter()))
        images = generator.decode_tokens(tokens)
        marks.append(("load image decoder and pixels", time.perf_counter()))
        save_png(given["png"], images[0])
        marks.append(("PNG", time.perf_counter()))
        ends = [begin, *(at for _, at in marks)]
        parts = {name: at - before for (name, at), before in zip(marks, ends, strict=False)}
        sys.stdout.write(f"\n{_MARK}{json.dumps(parts)}\n")
        sys.stdout.flush()
        session.close()
