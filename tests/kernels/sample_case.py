"""A row of the sampler's table: its logits, its settings, and the codes that runtime.sampler draws from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernels.abi import SampleParams
from kernels.harness import Device
from numpy.typing import NDArray

from aim_edge.runtime.sampler import Sampler, SamplingConfig

# Mirrors aim_sampling.
SAMPLING = np.dtype(
    [
        ("seed", np.uint64),
        ("top_p", np.float64),
        ("guidance_scale", np.float32),
        ("temperature", np.float32),
        ("top_k", np.int32),
        ("reserved", np.int32, 3),
    ]
)
POISONED = -1  # every output before a call: the harness fills buffers with 0xff
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SampleCase:
    name: str = "base"
    vocab_size: int = 16384
    batch: int = 3
    steps: int = 50  # draws on a GPU
    cpu_steps: int = 2
    guidance_scale: float = 4.0
    temperature: float = 0.7
    top_k: int = 600
    top_p: float = 0.98
    logits: str = "normal"
    seed: int = 20240611
    first_image: int = 0
    first_position: int = 0  # of image 0; each further image begins 3 later
    inactive: bool = False

    @property
    def work(self) -> int:
        return 20_000 * self.cpu_steps * self.batch  # a block takes the emulator about as long whatever V is

    def but(self, **changes: Any) -> SampleCase:
        return dataclasses.replace(self, name=",".join(f"{key}={value}" for key, value in changes.items()), **changes)

    def __str__(self) -> str:
        return self.name

    @property
    def config(self) -> SamplingConfig:
        return SamplingConfig(self.guidance_scale, self.temperature, self.top_k, self.top_p)

    @property
    def image_index(self) -> NDArray[np.uint64]:
        return np.arange(self.batch).astype(np.uint64) * np.uint64(7) + np.uint64(self.first_image)

    @property
    def position(self) -> NDArray[np.int32]:
        return (self.first_position + 3 * np.arange(self.batch)).astype(np.int32)

    @property
    def active(self) -> NDArray[np.bool_]:
        return np.arange(self.batch) % 2 == 1 if self.inactive else np.ones(self.batch, bool)


def _normal(rng: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return (2 * rng.standard_normal(shape)).astype(np.float32)


def _ties(rng: np.random.Generator, shape: tuple[int, int]) -> Logits:
    """Few values, and both zeros: whole groups lie at the k-th place and at top-p's cut."""
    values = rng.integers(-3, 4, shape) / np.float32(2)
    return np.copysign(values, rng.integers(0, 2, shape) - np.float32(0.5)).astype(np.float32)


def _minus_infinity(rng: np.random.Generator, shape: tuple[int, int]) -> Logits:
    """All but every fifth code of the label rows are forbidden."""
    logits = _normal(rng, shape)
    logits[: shape[0] // 2, np.arange(shape[1]) % 5 != 0] = -np.inf
    return logits


def _one_finite(rng: np.random.Generator, shape: tuple[int, int]) -> Logits:
    logits = _normal(rng, shape)
    logits[: shape[0] // 2, np.arange(shape[1]) != shape[1] - 1] = -np.inf
    return logits


LOGITS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Logits]] = {
    "normal": _normal,
    "ties": _ties,
    "constant": lambda rng, shape: np.full(shape, 1.25, np.float32),
    "signed zeros": lambda rng, shape: _normal(rng, shape) * np.float32(0),
    "tiny": lambda rng, shape: _normal(rng, shape) * np.float32(1e-30),
    "subnormal": lambda rng, shape: _normal(rng, shape) * np.float32(1e-40),
    "large": lambda rng, shape: _normal(rng, shape) * np.float32(1e30),
    "steep": lambda rng, shape: _normal(rng, shape) * np.float32(40),
    "shifted": lambda rng, shape: _normal(rng, shape) * np.float32(0.01) + np.float32(900),
    "sorted": lambda rng, shape: np.sort(_normal(rng, shape), axis=1),
    "-inf": _minus_infinity,
    "one finite": _one_finite,
}


def draw_logits(case: SampleCase) -> Logits:
    rng = np.random.default_rng([case.vocab_size, case.batch, len(case.logits)])
    return LOGITS[case.logits](rng, (2 * case.batch, case.vocab_size))


@dataclass(frozen=True)
class Outputs:
    """After all steps. tokens has `steps` columns more than the largest first position."""

    token: NDArray[np.int32]
    position: NDArray[np.int32]
    tokens: NDArray[np.int32]
    status: NDArray[np.int32]


def columns(case: SampleCase, steps: int) -> int:
    return int(case.position.max()) + steps + 1


def run(device: Device, case: SampleCase, logits: Logits, steps: int, num_tokens: int = 0) -> Outputs:
    """`steps` launches over one set of buffers, as a captured graph replays them."""
    num_tokens = num_tokens or columns(case, steps)
    sampling = np.zeros(1, SAMPLING)
    for field in ("seed", "top_p", "guidance_scale", "temperature", "top_k"):
        sampling[field] = getattr(case, field)
    batch = (case.batch,)
    inputs = [logits, sampling.view(np.uint64), case.image_index]
    held = [device.plain(values.shape, values.dtype.type) for values in inputs]
    for buffer, values in zip(held, inputs, strict=True):
        buffer.fill(values)
    token, position, status = (device.plain(batch, np.int32) for _ in range(3))
    tokens = device.plain((case.batch, num_tokens), np.int32)
    position.fill(case.position)
    status.fill(np.zeros(batch, np.int32))
    params = SampleParams(
        batch=case.batch,
        vocab_size=case.vocab_size,
        num_tokens=num_tokens,
        logits=held[0].pointer,
        sampling=held[1].pointer,
        image_index=held[2].pointer,
        token=token.pointer,
        position=position.pointer,
        tokens=tokens.pointer,
        status=status.pointer,
        active=device.mask(case.active).pointer if case.inactive else None,
    )
    for _ in range(steps):
        device.run("sample", params)
    for buffer, values in zip(held, inputs, strict=True):
        assert (buffer.read().view(np.uint8) == values.view(np.uint8)).all(), "the kernel wrote to an input"
    return Outputs(*(buffer.read() for buffer in (token, position, tokens, status)))


def expected(case: SampleCase, logits: Logits, steps: int) -> Outputs:
    """What the host's sampler draws, image by image, since each has a position of its own."""
    token = np.full(case.batch, POISONED, np.int32)
    position = case.position
    tokens = np.full((case.batch, columns(case, steps)), POISONED, np.int32)
    sampler = Sampler(case.vocab_size, 1, case.config)
    for image in np.flatnonzero(case.active):
        rows = logits[[image, case.batch + image]]
        for _ in range(steps):
            drawn = sampler.draw(rows, case.seed, case.image_index[image : image + 1], int(position[image]))
            token[image] = tokens[image, position[image]] = drawn[0]
            position[image] += 1
    return Outputs(token, position, tokens, np.zeros(case.batch, np.int32))
