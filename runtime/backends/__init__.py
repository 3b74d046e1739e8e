"""Which engines can run a bundle, and what each must offer. An engine's library is imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arena import Snapshot
from ..bundle import Bundle
from ..contract import Contract
from ..sampler import SamplingConfig

# Backend name -> (module of this package, what installs its library).
BACKENDS: Mapping[str, tuple[str, str]] = {
    "ort-cpu": ("ort", 'pip install "aim-edge[ort]"'),
    "ort-cuda": ("ort", 'pip install "aim-edge[ort-gpu]"'),
    "tensorrt": ("tensorrt", 'pip install "aim-edge[tensorrt]" (Jetson: apt install python3-libnvinfer)'),
    "tensorrt-rtx": ("tensorrt", 'pip install "aim-edge[tensorrt-rtx]"'),
}


class Session(Protocol):
    """The decoder for one batch size: condition, state and bindings, all allocated when it is made.

    Attributes:
        batch: B, images.
        stride: after how many codes it costs `decode` nothing to tell what is known.
    """

    batch: int
    stride: int

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

    def decode(
        self, sampling: SamplingConfig, seed: int, image_index: NDArray[np.uint64], tokens: NDArray[np.int32],
        start: int, every: int,
    ) -> Iterator[int]:  # fmt: skip
        """Draws codes start..T-1, after tokens[:, :start] were scanned.

        Args:
            sampling: how to draw.
            seed: in [0, 2^64).
            image_index: (B) uint64.
            tokens: (B, T) int32, of which the columns from `start` on are filled.
            start: codes that are known, in [0, T).
            every: codes between two yields, counted from `start`.

        Yields:
            How many codes an image are known: after every `every`-th, and T. Their columns of `tokens` are filled.

        Raises:
            NonFiniteError: the engine gave NaN or infinity.
            EngineError: the engine failed.
        """

    def close(self) -> None:
        """Frees what it holds; it cannot be used afterwards. May be called again."""


class Backend(Protocol):
    """A bundle's graphs on one engine."""

    name: str
    contract: Contract

    @property
    def vq_batch(self) -> int:
        """How many images `decode_images` and `vq_decode` best take at once."""

    def session(self, batch: int) -> Session:
        """A new session for `batch` images; sessions do not share state."""

    def vq_decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Codes (B, grid height, grid width) to images (B, C, H, W) in [-1, 1]."""

    def decode_images(self, codes: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Codes (B, grid height, grid width) to pixels (B, H, W, C). Raises NonFiniteError on NaN or infinity."""

    def vq_encode(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """Images (B, C, H, W) in [-1, 1] to codes (B, grid height, grid width)."""

    def memory(self) -> dict[str, int]:
        """Device bytes by use; {} on the CPU."""

    def describe(self) -> str:
        """One line: library and version, device, where codes are drawn, CUDA graphs or not."""

    def close(self) -> None:
        """Frees the engines, and the sessions with them."""


def open_backend(name: str, bundle: Bundle, **options: Any) -> Backend:
    """Opens a bundle on a backend.

    Args:
        name: of `BACKENDS`.
        bundle: verified.
        options: the backend's own (`backends.ort.OrtOptions`, `backends.tensorrt.TrtOptions`).

    Raises:
        ValueError: an unknown backend or option, or an option out of range.
        BackendMissingError: its library or device is not here.
    """
    return cast(Backend, _module(name).open_backend(name, bundle, make_options(name, options)))


def parse_options(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Options as `open_backend` takes them from texts such as "device_id=1".

    Raises:
        ValueError: an unknown backend or option, one given twice, or a value that is not of its type.
    """
    types = {field.name: field.type for field in fields(_module(name).OPTIONS)}
    options: dict[str, Any] = {}
    for text in texts:
        option, equals, value = text.partition("=")
        if not equals or option not in types or option in options:
            why = "is given twice" if option in options else f"is none of {name}'s"
            raise ValueError(f"option {text!r} {why if equals else 'has no value'}; allowed: "
                             f"{', '.join(f'{known}=...' for known in types)}")  # fmt: skip
        if types[option] == "int":
            try:
                options[option] = int(value)
            except ValueError as error:
                raise ValueError(f"option {option} is {value!r}; expected an integer") from error
        else:
            options[option] = value
    return options


def make_options(name: str, options: Mapping[str, Any]) -> Any:
    """A backend's options as its own class has them. Raises ValueError on unknown ones and on values out of range."""
    kind = _module(name).OPTIONS
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{name}: unknown options {unknown}; allowed: {known}")
    return kind(**options)


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
