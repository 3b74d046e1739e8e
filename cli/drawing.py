"""What `generate` and `demo` share: which classes, drawing in batches, the pictures' files."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aim_edge.runtime import Generator, Manifest
    from aim_edge.runtime.provenance import Provenance

    from .signing import Signer

    Images = NDArray[np.uint8]

# A grid larger than this is no picture to look at; the files are all there.
GRID_ROWS, GRID_COLUMNS = 50, 16
_STEPS_BETWEEN_REPORTS = 8


def class_label(manifest: Manifest, class_id: int) -> str:
    """The class's name, or its number where the checkpoint names none."""
    return manifest.class_names[class_id] if manifest.class_names else str(class_id)


def choose_classes(texts: Sequence[str], manifest: Manifest) -> list[int]:
    """Class ids from what was typed, in that order, each once.

    Args:
        texts: numbers, names (in any case), "all", or several of these with commas between them.
        manifest: says what there is.

    Raises:
        ValueError: every text that is no class, and what is allowed.
    """
    count = manifest.contract.dims.num_classes
    names = {name.casefold(): i for i, name in enumerate(manifest.class_names or ())}
    chosen: list[int] = []
    unknown = []
    # A text that is a name whole comes first: published names hold commas ("tench, Tinca tinca").
    parts = [[text] if text.strip().casefold() in names else text.split(",") for text in texts]
    for text in (part.strip() for several in parts for part in several):
        if text.casefold() in names:
            chosen.append(names[text.casefold()])
        elif text.casefold() == "all":
            chosen += range(count)
        elif text.isdecimal() and int(text) < count:
            chosen.append(int(text))
        else:
            unknown.append(text)
    if unknown:
        known = f" or one of {', '.join(manifest.class_names)}" if manifest.class_names else ""
        raise ValueError(f"no class {', '.join(map(repr, unknown))}; allowed: 'all', 0..{count - 1}{known}")
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Order:
    """What to draw: `count` images of each class, class by class.

    Image i of the order has image index `first_index` + i, so that a seed gives the same images in any batch.

    Attributes:
        batch: images drawn at once.
        every: codes between two previews; None for no previews.
        sampling: seed, guidance_scale, temperature, top_k, top_p as `Generator.stream` takes them.
        prefix: (H, W, 3) image whose top `prefix_rows` rows of codes every image keeps, or None.
        marked: write into every file where it comes from (`runtime.provenance`).
        signer: signs every file, which must be marked; None signs none.
    """

    classes: Sequence[int]
    count: int
    batch: int = 8
    first_index: int = 0
    every: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    prefix: Images | None = None
    prefix_rows: int | None = None
    marked: bool = True
    signer: Signer | None = None


@dataclass(frozen=True)
class Drawn:
    """What was drawn: the codes (images, T), in how many seconds, and the grid's file (rows and columns it shows)."""

    tokens: NDArray[np.int32]
    seconds: float
    grid: Path
    grid_rows: int
    grid_columns: int


def draw(generator: Generator, order: Order, folder: Path, grid_file: Path, report: Report) -> Drawn:
    """Draws an order: one PNG an image in `folder` (class_index_seed.png), and a grid with a row for each class.

    Previews go to `folder`/previews, as first-index_codes-known.png.

    Args:
        generator: an open bundle.
        order: what to draw.
        folder: made if need be; files of the same names are replaced.
        grid_file: where the grid goes.
        report: told how far it is.

    Raises:
        ValueError: a bad argument, or what the bundle's usage policy forbids; nothing was written.
    """
    import numpy as np

    from aim_edge.runtime.images import grid

    if not order.marked and order.signer is not None:
        raise ValueError("--no-provenance leaves out what --sign-certificate signs; give one of them")
    if not order.marked and generator.policy is not None and generator.policy.require_provenance:
        raise ValueError(f"{generator.bundle.path}: its usage policy requires provenance; leave --no-provenance away")
    manifest = generator.bundle.manifest
    labels = np.repeat(np.asarray(order.classes, np.int32), order.count)
    rows, columns = min(len(order.classes), GRID_ROWS), min(order.count, GRID_COLUMNS)
    shown: list[Images] = []
    tokens = np.empty((len(labels), generator.dims.num_tokens), np.int32)
    begin = time.perf_counter()
    for start in range(0, len(labels), order.batch):
        part = labels[start : start + order.batch]
        images, codes = _draw_batch(generator, order, part, start, len(labels), folder, report)
        tokens[start : start + len(part)] = codes
        for i, image in enumerate(images, start):
            name = re.sub(r"\W+", "-", class_label(manifest, int(labels[i])))
            index = order.first_index + i
            _write(
                folder / f"{name}_{index:05d}_{order.sampling.get('seed', 0)}.png", image,
                provenance(generator, order, codes[i - start], int(labels[i]), index), order.signer,
            )  # fmt: skip
            if i // order.count < rows and i % order.count < columns:
                shown.append(image)
    seconds = time.perf_counter() - begin
    names = [class_label(manifest, class_id) for class_id in order.classes[:rows]]
    grid_file.parent.mkdir(parents=True, exist_ok=True)
    mark = provenance(generator, order, tokens[0])
    _write(grid_file, grid(np.stack(shown), rows, columns, names), mark, order.signer)
    return Drawn(tokens, seconds, grid_file, rows, columns)


def provenance(
    generator: Generator, order: Order, codes: NDArray[np.int32], class_id: int | None = None,
    index: int | None = None,
) -> Provenance | None:  # fmt: skip
    """What a file of an order is marked with, or None. Without a class: a grid; `codes` (T) are of an image of it."""
    from aim_edge.runtime.provenance import Provenance

    if not order.marked:
        return None
    settings = dict(order.sampling)
    seed = settings.pop("seed", 0)
    kept = 0 if order.prefix is None else (order.prefix_rows or 0) * generator.dims.grid_width
    manifest = generator.bundle.manifest
    return Provenance.from_generation(
        manifest, generator.policy, generator.backend.name, seed=seed,
        sampling=manifest.sampling_defaults.override(**settings), class_id=class_id, image_index=index,
        prefix_tokens=codes[:kept].tolist(),
    )  # fmt: skip


def _write(path: Path, image: Images, mark: Provenance | None, signer: Signer | None) -> None:
    from aim_edge.runtime.images import save_png

    save_png(path, image, mark)
    if signer is not None:
        signer.sign(path)


def _draw_batch(
    generator: Generator, order: Order, labels: NDArray[np.int32], start: int, total: int, folder: Path,
    report: Report,
) -> tuple[Images, NDArray[np.int32]]:  # fmt: skip
    """The images and codes of one batch; previews of it are written as it grows."""
    import numpy as np

    from aim_edge.runtime.images import grid

    length = generator.dims.num_tokens
    first = order.first_index + start
    prefix: dict[str, Any] = {}
    if order.prefix is not None:
        prefix = {"prefix_image": np.stack([order.prefix] * len(labels)), "prefix_rows": order.prefix_rows}
    stream = generator.stream(
        labels, every=order.every or min(_STEPS_BETWEEN_REPORTS, length), images=order.every is not None,
        image_index=np.arange(first, first + len(labels), dtype=np.uint64), **order.sampling, **prefix,
    )  # fmt: skip
    # Only now, as `stream` has checked its arguments: a refused one leaves no empty folder.
    previews = folder / "previews"
    (folder if order.every is None else previews).mkdir(parents=True, exist_ok=True)
    images = None
    for known in stream:
        images = known.images
        report(f"drawing {total} images", start * length + known.step * len(labels), total * length)
        if order.every is not None and images is not None and known.step < length:
            mark = provenance(generator, order, known.tokens[0])
            _write(previews / f"{first:05d}_{known.step:04d}.png", grid(images, 1, len(images)), mark, order.signer)
    if images is None:
        raise RuntimeError("the stream ended without its images")
    return images, known.tokens


def summary(drawn: Drawn, folder: Path) -> str:
    """What was drawn, how fast and where, for the user."""
    count = len(drawn.tokens)
    return (
        f"{count} images in {drawn.seconds:.1f} s ({count / drawn.seconds:.2f} images/s, loading the "
        f"graphs and writing files included): {folder}; grid of {drawn.grid_rows} x {drawn.grid_columns}: {drawn.grid}"
    )
