"""Checks of what callers pass in: each error names the argument, the value found and what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_integers(name: str, values: ArrayLike, shape: tuple[int | None, ...], high: int) -> NDArray[np.int32]:
    """`values` as a new int32 array, its shape (None: any size) and range [0, high) checked.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or a value out of range (the first is named).
    """
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer) and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
    if array.ndim != len(shape) or any(w is not None and w != h for w, h in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {array.shape}; expected ({wanted})")
    outside = (array < 0) | (array >= high)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(f"{name}{list(where)} is {array[where]}; allowed: 0..{high - 1}")
    return array.astype(np.int32)


def check_labels(name: str, values: ArrayLike, high: int) -> NDArray[np.int32]:
    """Class ids (B) or (B, 1) as a new int32 (B) array, B >= 1, all in [0, high)."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    labels = check_integers(name, array, (None,), high)
    if not labels.size:
        raise ValueError(f"{name} is empty; expected one class id an image")
    return labels


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as int, in [low, high].

    Raises:
        TypeError: not an integer (bool is not one).
        ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected an integer")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; allowed: {low}..{high}")
    return int(value)


def check_image_index(values: ArrayLike | None, batch: int) -> NDArray[np.uint64]:
    """Image indices (batch) as uint64; None gives 0..batch-1.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or a negative one.
    """
    if values is None:
        return np.arange(batch, dtype=np.uint64)
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"image_index has dtype {array.dtype}; expected integers")
    if array.shape != (batch,):
        raise ValueError(f"image_index has shape {array.shape}; expected ({batch},), one an image")
    if (array < 0).any():
        raise ValueError(f"image_index holds {array.min()}; allowed: 0..2^64-1")
    return array.astype(np.uint64)
