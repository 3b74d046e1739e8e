"""Integer codes for the matrices that every decoding step reads: in_proj, out_proj and the tied head.

int8 rounds each output feature by a scale of its own. int4 has a scale for each 128 inputs and rounds one input after
another, each time making up for its error in those that follow, as the layer's own inputs weigh them (GPTQ,
arXiv 2210.17323). Only codes and scales come of it, so the graphs need nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aim_edge.aim.model import AimModel
from aim_edge.runtime.manifest import QuantisationRecord
from aim_edge.runtime.sampler import SamplingConfig

from .states import feed, reference_tokens

WEIGHTS = ("int8", "int4")
GROUP = 128  # inputs that share a scale, of int4
STEP = 32  # the kernel takes inputs in steps of so many
HEAD = "backbone.embeddings.word_embeddings.weight"
_BITS = {"int8": 8, "int4": 4}
_DAMPING = 0.01  # of the mean second moment, added to each
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # scales tried for a group, of the one that clips nothing


@dataclass(frozen=True)
class Quantised:
    """A matrix as codes.

    Attributes:
        codes: (out, in) int8; int8: -127..127, int4: -8..7.
        scale: (out, groups) float32; int8 has one group.
        bits: 8 or 4.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bits: int

    @property
    def group_size(self) -> int:
        """Inputs that share a scale; 0: all."""
        return GROUP if self.bits == 4 else 0

    def dense(self) -> NDArray[np.float32]:
        """(out, in): what the codes stand for."""
        size = self.codes.shape[1]
        width = self.group_size or size
        result: NDArray[np.float32] = self.codes * np.repeat(self.scale, width, axis=1)[:, :size]
        return result

    def words(self) -> NDArray[np.int32]:
        """(out, in * bits / 32): the codes as little-endian words; two int4 a byte, as code + 8, the even one low."""
        if self.bits == 8:
            return np.ascontiguousarray(self.codes).view("<i4")
        shifted = (self.codes + 8).astype(np.uint8)
        return np.ascontiguousarray(shifted[:, ::2] | shifted[:, 1::2] << 4).view("<i4")


Table = dict[str, Quantised]


def check_weights(weights: str | None, lowering: str, precision: str) -> None:
    """Raises ValueError where `weights` is not to be had."""
    if weights is None:
        return
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; allowed: {', '.join(WEIGHTS)}, or None for the precision's own")
    lowerings = ("plugin-fused", "plugin-layers") if weights == "int8" else ("plugin-fused",)
    if lowering not in lowerings or precision != "float16":
        raise ValueError(
            f"weights is {weights!r} with lowering {lowering!r} and precision {precision!r}; it needs lowering "
            f"{' or '.join(map(repr, lowerings))} and precision 'float16'"
        )


def quantise(
    model: AimModel, weights: str, *, sampling: SamplingConfig, images: int = 16, seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Table, QuantisationRecord]:  # fmt: skip
    """Codes of every layer's in_proj and out_proj and of the head, by the name of the weight.

    Args:
        model: PyTorch's.
        weights: "int8" or "int4".
        sampling: how the samples that int4 is fitted to are drawn: by the model itself, classes in turn.
        images: how many of them (two rows each).
        seed: of the draw.
        progress: called with what is being done.

    Raises:
        ValueError: a projection has a bias, or its inputs are not a multiple of 32 (all are named).
    """
    tell = progress or (lambda what: None)
    layers = dict(model.named_modules())
    names = [
        f"backbone.layers.{i}.mixer.{name}" for i in range(model.config.n_layer) for name in ("in_proj", "out_proj")
    ]
    bad = [f"{name} has a bias" for name in names if getattr(layers[name], "bias", None) is not None]
    matrices = {f"{name}.weight": _weight(layers[name]) for name in names} | {HEAD: model.state_dict()[HEAD]}
    sizes = {name: matrix.shape[1] for name, matrix in matrices.items()}
    bad += [f"{name} has {size} inputs, not a multiple of {STEP}" for name, size in sizes.items() if size % STEP]
    if bad:
        raise ValueError(f"weights is {weights!r}, which this model does not allow: " + "; ".join(bad))
    if weights == "int8":
        table = {name: round_rows(matrix.float().cpu().numpy()) for name, matrix in matrices.items()}
        return table, QuantisationRecord(weights, 8, 0, "round", 0, seed, "")
    tell("drawing samples to fit int4 weights to")
    labels = (np.arange(images) % model.config.num_classes).astype(np.int32)
    tokens = reference_tokens(model, labels, seed, sampling)
    tell("measuring the layers' inputs")
    moments = second_moments(model, names, labels, tokens)
    table = {}
    for done, (name, matrix) in enumerate(matrices.items(), start=1):
        tell(f"fitting int4 weights: {done} of {len(matrices)}")
        table[name] = compensate(matrix.float(), moments[name])
    digest = hashlib.sha256(labels.astype("<i4").tobytes() + tokens.astype("<i4").tobytes()).hexdigest()
    return table, QuantisationRecord(weights, 4, GROUP, "gptq", images, seed, digest)


def round_rows(matrix: NDArray[np.float32]) -> Quantised:
    """int8: each row by its largest magnitude; a row of zeros has scale 1."""
    scale = np.abs(matrix).max(1, keepdims=True) / np.float32(127)
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return Quantised(np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale, 8)


@torch.inference_mode()
def second_moments(model: AimModel, names: list[str], labels: NDArray[Any], tokens: NDArray[Any]) -> dict[str, Tensor]:
    """Of each matrix's inputs while these codes (B, T) are decoded: (in, in) float64, the mean of x x^T."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    layers = dict(model.named_modules())

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x
            counts[name] = counts.get(name, 0) + len(x)

        return see

    watched = {name: f"{name}.weight" for name in names} | {"lm_head": HEAD}
    hooks = [layers[module].register_forward_pre_hook(watch(name)) for module, name in watched.items()]
    try:
        for start in range(0, len(labels), 4):
            part = slice(start, start + 4)
            given = torch.from_numpy(feed(tokens[part])).to(model.device)
            condition = model.condition(torch.from_numpy(labels[part].astype(np.int64)).to(model.device))
            position = torch.zeros(len(given), dtype=torch.int64, device=model.device)
            model.scan(given, position, condition, model.init_state(2 * len(given)))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: sums[name] / counts[name] for name in sums}


def compensate(matrix: Tensor, moment: Tensor) -> Quantised:
    """int4 codes of (out, in) with error compensation; moment (in, in) float64."""
    w = matrix.double().clone()
    outputs, inputs = w.shape
    hessian = moment.to(w.device).clone()
    hessian.diagonal().add_(max(float(hessian.diagonal().mean()) * _DAMPING, 1e-12))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    weigh = moment.diagonal().to(w.device)
    codes = torch.empty(outputs, inputs, dtype=torch.int8)
    scales = []
    for start in range(0, inputs, GROUP):
        stop = min(start + GROUP, inputs)
        block = w[:, start:stop]
        scale = _best_scale(block, weigh[start:stop])
        errors = torch.empty_like(block)
        for i in range(stop - start):
            code = (block[:, i] / scale).round().clamp(-8, 7)
            codes[:, start + i] = code.to(torch.int8).cpu()
            errors[:, i] = (block[:, i] - code * scale) / inverse[start + i, start + i]
            block[:, i:] -= errors[:, i, None] * inverse[start + i, start + i : stop]
        w[:, stop:] -= errors @ inverse[start:stop, stop:]
        scales.append(scale)
    stacked = torch.stack(scales, 1).float().cpu().numpy()
    return Quantised(codes.numpy(), stacked, 4)


def _best_scale(block: Tensor, weigh: Tensor) -> Tensor:
    """(out): of the scales tried, the one whose rounding errors, weighed by the inputs, are least. float32 values."""
    peak = block.abs().amax(1)
    full = torch.where(peak > 0, peak / 7.5, torch.ones_like(peak))
    best, least = full, torch.full_like(full, torch.inf)
    for shrink in _SHRINK:
        scale = (full * shrink).float().double()
        rounded = (block / scale[:, None]).round().clamp(-8, 7) * scale[:, None]
        error = ((block - rounded).square() * weigh).sum(1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
