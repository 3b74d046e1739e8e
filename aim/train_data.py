"""The demo's pictures on the training device: sampling, augmentation and figures."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_FIELDS = ("images", "labels", "weights", "held_out", "flippable", "class_names")


@dataclass(frozen=True)
class DemoData:
    """What `demo_data` wrote, on one device.

    Attributes:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,); -1 trains the tokenizer only.
        weights: float32 (N,), summing to one over the variants of an emoji.
        held_out: bool (N,).
        flippable: bool (N,), whether a mirrored picture is still one of its class.
        class_names: one a class.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    held_out: Tensor
    flippable: Tensor
    class_names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path, device: torch.device) -> DemoData:
        """Reads the .npz of `demo_data`.

        Raises:
            ValueError: fields are missing (all listed), or no picture is held out or left to train on.
        """
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in _FIELDS if name not in file.files]
            if missing:
                raise ValueError(f"{path} lacks {missing}; write it with `python -m aim_edge.aim.demo_data`")
            images = torch.from_numpy(file["images"]).permute(0, 3, 1, 2).contiguous()
            labels, weights, held_out, flippable = (torch.from_numpy(file[name]).to(device) for name in _FIELDS[1:-1])
            names = tuple(str(name) for name in file["class_names"])
        data = cls(images.to(device), labels, weights, held_out, flippable, names)
        if not len(data.rows(held_out=False)) or not len(data.rows(held_out=True)):
            raise ValueError(f"{path} needs pictures with a class both to train on and held out")
        return data

    def rows(self, *, held_out: bool, classed: bool = True) -> Tensor:
        """Indices (M,) of the held-out or the training pictures; with `classed`, of those with a class."""
        chosen = self.held_out == held_out
        return torch.nonzero(chosen & (self.labels >= 0) if classed else chosen).flatten()

    def balanced(self, rows: Tensor) -> Tensor:
        """Sampling probabilities (M,) for `rows`: equal by class, then by emoji, then by variant."""
        labels, weights = self.labels[rows], self.weights[rows]
        total = torch.zeros(len(self.class_names), device=weights.device).index_add_(0, labels, weights)
        share = weights / total[labels]
        return share / share.sum()


def half_where_fast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast on a GPU; a CPU computes in float32, which is faster there."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def to_unit(images: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_bytes(images: Tensor) -> Tensor:
    """float in [-1, 1] (clamped) -> uint8."""
    return ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may be changed. Everything leaves the white around an emoji white.

    Attributes:
        moved: share of pictures that are shifted (whole pixels) and no more.
        warped: share that are shifted, scaled and turned.
        recoloured: share that change in hue and strength.
        shift: largest shift in pixels.
        zoom: largest change of scale.
        turn: largest turn in degrees.
        hue: largest turn of the hue in degrees.
        gain: largest change of the ink's strength.
    """

    moved: float = 0.3
    warped: float = 0.3
    recoloured: float = 0.6
    shift: int = 3
    zoom: float = 0.1
    turn: float = 6.0
    hue: float = 12.0
    gain: float = 0.1

    def __call__(self, images: Tensor, flippable: Tensor) -> Tensor:
        """Augments images (B, 3, H, W) in [-1, 1]; flippable (B,) says which may be mirrored."""
        ink = (1.0 - self._colour(images)) * 0.5  # 0 is white, so what comes in at the edges is white too
        return 1.0 - 2.0 * self._geometry(ink, flippable)

    def _colour(self, images: Tensor) -> Tensor:
        count, device = images.shape[0], images.device
        chosen = torch.rand(count, device=device) < self.recoloured
        uniform = (torch.rand(2, count, device=device) * 2 - 1) * chosen
        angle, gain = uniform[0] * math.radians(self.hue), 1.0 + uniform[1] * self.gain
        # Turning about the grey axis (Rodrigues) keeps greys, so white stays white.
        cos, sin = angle.cos(), angle.sin()
        third, root = (1 - cos) / 3, sin / math.sqrt(3.0)
        same, ahead, behind = cos + third, third - root, third + root
        rows = (same, ahead, behind, behind, same, ahead, ahead, behind, same)
        matrix = torch.stack(rows, dim=1).view(count, 3, 3) * gain[:, None, None]
        ink = torch.einsum("bij,bjhw->bihw", matrix, 1.0 - images)
        return 1.0 - ink.clamp(0.0, 2.0)

    def _geometry(self, ink: Tensor, flippable: Tensor) -> Tensor:
        count, side, device = ink.shape[0], ink.shape[-1], ink.device
        kind = torch.rand(count, device=device)
        warped = kind < self.warped
        moved = kind < self.warped + self.moved
        uniform = torch.rand(5, count, device=device) * 2 - 1
        scale = torch.where(warped, 1.0 + uniform[0] * self.zoom, 1.0)
        angle = torch.where(warped, uniform[1] * math.radians(self.turn), 0.0)
        shift = (uniform[2:4] * (self.shift + 0.5)).round() * moved * (2.0 / side)
        flip = torch.where(flippable & (uniform[4] > 0), -1.0, 1.0)
        cos, sin = angle.cos() * scale, angle.sin() * scale
        first = torch.stack([cos * flip, -sin, shift[0]], dim=1)
        second = torch.stack([sin * flip, cos, shift[1]], dim=1)
        grid = F.affine_grid(torch.stack([first, second], dim=1), list(ink.shape), align_corners=False)
        return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def psnr(found: Tensor, expected: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image (B,), both uint8 (B, 3, H, W)."""
    error = (found.float() - expected.float()).square().mean(dim=(1, 2, 3))
    return 10.0 * torch.log10(255.0**2 / error.clamp(min=1e-3))


def entropy(codes: Tensor, weights: Tensor, n_embed: int) -> float:
    """Entropy in nats of the codes' own distribution: what a model that knows only frequencies would need.

    Args:
        codes: int64 (M, T).
        weights: (M,), how much each row counts.
        n_embed: codes in the codebook.
    """
    each = weights[:, None].expand(codes.shape).flatten().double()
    counts = torch.zeros(n_embed, dtype=torch.float64, device=codes.device).index_add_(0, codes.flatten(), each)
    share = counts / counts.sum()
    return float(-(share * share.clamp(min=1e-30).log()).sum())


def cosine_rate(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Share of the peak learning rate: linear up to `warmup` steps, then a cosine down to `floor` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
