"""Device memory that is cut up once, and the choice of an optimisation profile."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..contract import TensorSpec
from ..cuda import ALIGNMENT, Device, megabytes

Sizes = tuple[int, int, int]


class Arena:
    """One allocation for many buffers.

    Args:
        device: where.
        owner: whose it is, for the message where it does not fit.
        plan: use, name and bytes of each buffer; names differ.

    Attributes:
        at: address by name, each a multiple of `ALIGNMENT`.
        size: bytes by name, as asked for.
        uses: bytes by use.

    Raises:
        DeviceMemoryError: there is not enough; the message tells the bytes by use.
    """

    def __init__(self, device: Device, owner: str, plan: Sequence[tuple[str, str, int]]) -> None:
        self.at: dict[str, int] = {}
        self.size: dict[str, int] = {}
        self.uses: dict[str, int] = {}
        offset = 0
        for use, name, size in plan:
            self.at[name], self.size[name] = offset, size
            padded = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
            self.uses[use] = self.uses.get(use, 0) + padded
            offset += padded
        told = ", ".join(f"{use} {megabytes(size)}" for use, size in self.uses.items())
        self._memory = device.alloc(offset, f"{owner} ({told})")
        self.at = {name: self._memory.handle + at for name, at in self.at.items()}

    def close(self) -> None:
        """Frees it. May be called again."""
        self._memory.close()
        self.uses = {}


def tensor_shape(spec: TensorSpec, batch: int, length: int = 1) -> tuple[int, ...]:
    """A tensor's shape for so many images and codes."""
    sizes = {"batch": batch, "rows": 2 * batch, "length": length}
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def tensor_bytes(spec: TensorSpec, batch: int, length: int = 1) -> int:
    """A tensor's size for so many images and codes."""
    return math.prod(tensor_shape(spec, batch, length)) * np.dtype(spec.dtype).itemsize


def choose_profile(profiles: Sequence[Sizes], batch: int) -> int:
    """The profile that holds a batch and has its best size nearest to it. Raises ValueError where none does."""
    fitting = [i for i, (low, _, high) in enumerate(profiles) if low <= batch <= high]
    if not fitting:
        known = ", ".join(":".join(map(str, sizes)) for sizes in profiles)
        raise ValueError(f"batch is {batch}; the engines' profiles (min:opt:max) are {known}; choose another batch, or "
                         "build engines for this one with: aim-edge build --batch")  # fmt: skip
    return min(fitting, key=lambda i: abs(profiles[i][1] - batch))


def padded_batch(profiles: Sequence[Sizes], batch: int) -> int:
    """The smallest batch, at least the given one, that a profile holds. `batch` is at most the largest."""
    return min(max(batch, low) for low, _, high in profiles if high >= batch)
