"""Arrays to and from image files, and the labelled grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import NonFiniteError

if TYPE_CHECKING:
    from .provenance import Provenance

Image8 = NDArray[np.uint8]

_MARGIN = 4
_INK, _PAPER = (24, 24, 24), (255, 255, 255)


def to_uint8(images: NDArray[np.float32]) -> Image8:
    """(B, C, H, W) float in [-1, 1] to (B, H, W, C) uint8: clipped, and rounded to nearest.

    Raises:
        NonFiniteError: an image holds NaN or infinity (a float16 tokenizer overflowed, say).
    """
    if not np.isfinite(images).all():
        raise NonFiniteError("a decoded image holds NaN or infinity; export vq_decode in float32")
    scaled = (np.clip(images.astype(np.float32, copy=False), -1, 1) + 1) * np.float32(127.5)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1))


def from_uint8(images: Image8) -> NDArray[np.float32]:
    """(B, H, W, C) uint8 to (B, C, H, W) float32 in [-1, 1], contiguous."""
    return np.ascontiguousarray((images.astype(np.float32) / np.float32(127.5) - 1).transpose(0, 3, 1, 2))


def save_png(path: str | os.PathLike[str], image: Image8, provenance: Provenance | None = None) -> None:
    """Writes one (H, W, 3) uint8 image as PNG, whole or not at all (a temporary sibling is renamed).

    Args:
        path: the file.
        image: its pixels.
        provenance: where it comes from, which the file then says; the pixels' digest is filled in.
    """
    from PIL import Image

    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        picture = Image.fromarray(image)
        marks = None if provenance is None else provenance.with_pixels(picture).to_png_info()
        picture.save(partial, format="PNG", pnginfo=marks)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def read_pixels(path: str | os.PathLike[str]) -> Image8:
    """An image file's pixels as they stand: (H, W, channels) uint8 of the file's own mode. Raises OSError."""
    from PIL import Image

    with Image.open(path) as file:
        return np.array(file)


def load_image(path: str | os.PathLike[str], height: int, width: int) -> Image8:
    """Reads an image file as (height, width, 3) uint8: cropped about its centre, resized, alpha over white.

    Raises:
        OSError: the file is missing or no image that Pillow reads.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGBA")
    paper = Image.new("RGBA", image.size, (*_PAPER, 255))
    flat = Image.alpha_composite(paper, image).convert("RGB")
    return np.asarray(ImageOps.fit(flat, (width, height), Image.Resampling.LANCZOS))


def grid(images: Image8, rows: int, cols: int, labels: Sequence[str] | None = None) -> Image8:
    """Lays images out row by row, each row's label at its left.

    Args:
        images: (rows * cols, H, W, 3) uint8. Images less than 128 pixels high are enlarged, pixels kept square.
        rows: of the grid.
        cols: of the grid.
        labels: one a row (class names), or None.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: the number of images or of labels does not fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    if images.ndim != 4 or len(images) != rows * cols:
        raise ValueError(f"images have shape {images.shape}; expected ({rows * cols}, H, W, 3) for {rows} x {cols}")
    if labels is not None and len(labels) != rows:
        raise ValueError(f"labels has {len(labels)} entries; expected one for each of {rows} rows")
    zoom = -(-128 // images.shape[1])
    tiles = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = tiles.shape[1:3]
    font = ImageFont.load_default(size=max(16, height // 8))
    boxes = [font.getbbox(label) for label in labels or ()]
    left = _MARGIN + max((int(box[2]) + 3 * _MARGIN for box in boxes), default=0)
    size = (left + cols * (width + _MARGIN), _MARGIN + rows * (height + _MARGIN))
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for row in range(rows):
        top = _MARGIN + row * (height + _MARGIN)
        if labels is not None:
            draw.text((2 * _MARGIN, top + height // 2), labels[row], fill=_INK, font=font, anchor="lm")
        for col in range(cols):
            canvas.paste(Image.fromarray(tiles[row * cols + col]), (left + col * (width + _MARGIN), top))
    return np.asarray(canvas)
