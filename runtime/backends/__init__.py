"""Which engines can run a bundle, and what each must offer. An engine's library is imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arena import Snapshot
from ..bundle import Bundle
from ..contract import Contract

# Backend name -> (module of this package, what installs its library).
BACKENDS: Mapping[str, tuple[str, str]] = {
    "ort-cpu": ("ort", 'pip install "aim-edge[ort]"'),
    "ort-cuda": ("ort", 'pip install "aim-edge[ort-gpu]"'),
}


class Session(Protocol):
    """The decoder for one batch size: condition, state and bindings, all allocated when it is made."""

    batch: int

    def set_condition(self, class_ids: ArrayLike) -> None:
        """Computes what the classes decide, (B) integers in [0, num_classes], for all steps to come."""

    def reset(self) -> None:
        """Zeroes the state."""

    def step(self, token: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
        """One step; (2 B, V) float32 before guidance, a view that the next step overwrites.

        Args:
            token: (B) integers, the codes drawn last; ignored at position 0.
            position: an integer or (B), the index of the code to draw.
        """

    def scan(self, tokens: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
        """Several steps at once; (2 B, L, V) float32 before guidance.

        Args:
            tokens: (B, L) integers; [:, i] is the code before position + i (ignored at position 0).
            position: an integer or (B), the position of the first.
        """

    def snapshot(self) -> Snapshot:
        """Canonical copies of the state (see `arena`); the condition and the position are not part of it."""

    def restore(self, snapshot: Snapshot) -> None:
        """Takes a snapshot's state. Raises ValueError where it does not fit."""


class Backend(Protocol):
    """A bundle's graphs on one engine."""

    name: str
    contract: Contract

    def session(self, batch: int) -> Session:
        """A new session for `batch` images; sessions do not share state."""

    def vq_decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Codes (B, grid height, grid width) to images (B, C, H, W) in [-1, 1]."""

    def vq_encode(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """Images (B, C, H, W) in [-1, 1] to codes (B, grid height, grid width)."""

    def close(self) -> None:
        """Frees the engines."""


def open_backend(name: str, bundle: Bundle, **options: Any) -> Backend:
    """Opens a bundle on a backend.

    Args:
        name: of `BACKENDS`.
        bundle: verified.
        options: the backend's own (`backends.ort.OrtOptions`).

    Raises:
        ValueError: an unknown backend or option, or an option out of range.
        BackendMissingError: its library or device is not here.
    """
    return cast(Backend, _module(name).open_backend(name, bundle, options))


def check_backend(name: str) -> str:
    """What the backend would run on here, as one line.

    Raises:
        ValueError: an unknown backend.
        BackendMissingError: its library or device is not here; the message names what installs it.
    """
    return cast(str, _module(name).check(name))


def _module(name: str) -> Any:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; known: {sorted(BACKENDS)}")
    return importlib.import_module(f".{BACKENDS[name][0]}", __name__)
