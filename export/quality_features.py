"""Images and what is measured of them offline: the demo tokenizer's features."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aim_edge.aim.checkpoint import load_checkpoint
from aim_edge.runtime import Generator
from aim_edge.runtime.images import Image8, from_uint8, load_image
from aim_edge.runtime.provenance import read_marks

from .quality_stats import Floats

Progress = Callable[[str, int, int], None]

VQ = "vq"
_BATCH = 32
_GRID = "grid.png"  # what generate writes beside the images


@dataclass(frozen=True)
class ImageSet:
    """Images of one source.

    Attributes:
        source: where they are from, for people.
        images: (N, H, W, 3) uint8.
        names: of each image; two sets of the same names in the same order are paired.
        found: how many there were to take from.
        labels: the name of each image's class, None where it is not known.
    """

    source: str
    images: Image8
    names: tuple[str, ...]
    found: int
    labels: tuple[str | None, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return self.images.shape[1], self.images.shape[2]

    def take(self, count: int, seed: int) -> ImageSet:
        """`count` of them at random, the same for sets of the same size; in their order."""
        if count >= len(self.images):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.images))[:count])
        names, labels = (tuple(values[i] for i in chosen) for values in (self.names, self.labels))
        return replace(self, images=self.images[chosen], names=names, labels=labels)


def read_folder(
    folder: str | os.PathLike[str], limit: int, seed: int, size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> ImageSet:  # fmt: skip
    """Reads a folder's PNG files; grid.png, which `aim-edge generate` writes, is left out.

    Args:
        folder: its files are read, not those in folders below.
        limit: where it holds more, so many are taken at random.
        seed: of that choice; folders of equally many files give the same places.
        size: (H, W) that every image is cropped about its centre and resized to; None: all must be of one size.
        progress: called with (what, done, total).

    Raises:
        ValueError: not a folder, fewer than two images, or images of several sizes.
        OSError: a file is no readable image.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; expected a folder of PNG images, or a bundle's")
    files = sorted(file for file in path.glob("*.png") if file.name != _GRID)
    if len(files) < 2:
        raise ValueError(f"{path} holds {len(files)} PNG images ({_GRID} not counted); expected at least two")
    found = len(files)
    if limit < found:
        files = [files[i] for i in np.sort(np.random.default_rng(seed).permutation(found)[:limit])]
    if size is None:
        size = _one_size(files)
    images = []
    for done, file in enumerate(files, 1):
        try:
            images.append(load_image(file, *size))
        except (OSError, ValueError, SyntaxError, MemoryError) as error:  # SyntaxError: Pillow's, of a broken PNG
            raise OSError(f"{file} is no readable image: {error}") from error
        if progress is not None:
            progress(f"reading {path}", done, len(files))
    return ImageSet(
        str(path), np.stack(images), tuple(file.name for file in files), found, tuple(map(_marked_class, files))
    )


def _marked_class(file: Path) -> str | None:
    """The class that aim-edge's marks in the file name; None where they name none, or are altered."""
    marks = read_marks(file)
    if not marks.text or marks.problems():
        return None
    provenance = marks.provenance()
    return None if provenance.class_id is None else provenance.class_name


def _one_size(files: Sequence[Path]) -> tuple[int, int]:
    """The (H, W) of all files. Raises ValueError where they differ."""
    from PIL import Image

    sizes: dict[tuple[int, int], Path] = {}
    for file in files:
        try:
            with Image.open(file) as opened:
                sizes.setdefault((opened.height, opened.width), file)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise OSError(f"{file} is no readable image: {error}") from error
    if len(sizes) > 1:
        said = ", ".join(f"{file} is {width} x {height}" for (height, width), file in list(sizes.items())[:2])
        raise ValueError(f"images of several sizes: {said} pixels; expected one size")
    return next(iter(sizes))


def draw_set(
    generator: Generator, classes: Sequence[int], count: int, seed: int, batch: int, progress: Progress | None = None
) -> ImageSet:
    """Draws images: the i-th has image index i and the class classes[i % len(classes)].

    Two generators that are given the same arguments draw pairs.

    Args:
        generator: an open bundle.
        classes: ids.
        count: images.
        seed: of the draws.
        batch: images drawn at once; it does not change them.
        progress: called with (what, done, total).
    """
    labels = np.resize(np.asarray(classes, np.int32), count)
    parts = []
    source = f"{generator.bundle.path} on {generator.backend.name}"
    for start in range(0, count, batch):
        part = labels[start : start + batch]
        index = np.arange(start, start + len(part), dtype=np.uint64)
        parts.append(generator.generate(part, seed=seed, image_index=index)[0])
        if progress is not None:
            progress(f"drawing with {source}", start + len(part), count)
    names = tuple(f"class {label}, seed {seed}, index {i}" for i, label in enumerate(labels))
    called = generator.bundle.manifest.class_names
    known = tuple(called[label] if called else None for label in labels.tolist())
    return ImageSet(source, np.concatenate(parts), names, count, known)


@dataclass(frozen=True)
class Features:
    """What was measured of a set's images.

    Attributes:
        values: (N, F) float64.
        logits: (N, classes) float32 for torch-fidelity's Inception score, or None.
    """

    values: Floats
    logits: NDArray[np.float32] | None = field(default=None, repr=False)


class VqFeatures:
    """The demo tokenizer's encoder as an extractor: 256 features, offline. Not FID's, and not comparable with FID.

    They are the mean and the standard deviation of each channel after the encoder's first level (32 channels at
    32 x 32) and after its last (96 at 16 x 16), of images resized to 64 x 64.
    """

    name = VQ

    def __init__(self) -> None:
        self._vq = load_checkpoint("demo").vq

    def __call__(self, images: Image8, progress: Progress | None = None) -> Features:
        """Features (N, 256) of images (N, H, W, 3) uint8."""
        side = self._vq.config.image_size(16)
        encoder = self._vq.encoder
        levels = (encoder.conv_blocks[0], encoder.conv_blocks[-1])
        found = []
        for start in range(0, len(images), _BATCH):
            with torch.inference_mode():
                x = encoder.conv_in(torch.from_numpy(from_uint8(resize(images[start : start + _BATCH], side))))
                parts = []
                for level in encoder.conv_blocks:
                    x = level(x)
                    if level in levels:
                        deviation, mean = torch.std_mean(x, dim=(2, 3), correction=0)
                        parts += [mean, deviation]
                found.append(torch.cat(parts, dim=1).double().numpy())
            if progress is not None:
                progress("measuring features", min(start + _BATCH, len(images)), len(images))
        return Features(np.concatenate(found))


def resize(images: Image8, side: int) -> Image8:
    """(N, H, W, 3) uint8 cropped about the centre and resized to (N, side, side, 3); unchanged where of that size."""
    from PIL import Image, ImageOps

    if images.shape[1:3] == (side, side):
        return images
    return np.stack([
        np.asarray(ImageOps.fit(Image.fromarray(image), (side, side), Image.Resampling.LANCZOS)) for image in images
    ])  # fmt: skip
