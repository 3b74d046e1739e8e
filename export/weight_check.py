"""A bundle's weights beside its checkpoint's: the graphs' initialisers are named by the checkpoint's keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from aim_edge.aim.checkpoint import Checkpoint
from aim_edge.runtime import Bundle

Array = NDArray[np.floating]
_RESHAPED = re.compile(r"\.as_(\d+(?:x\d+)*)$")
_LAYER = re.compile(r"(^|\.)layers\.(\d+)\.")
_CONSTANT = re.compile(r"const_\d+")
_ROUNDING = 1e-6  # -exp(A_log) is computed anew, and another machine's exp may round otherwise


@dataclass(frozen=True)
class WeightDifference:
    """A weight that is not the checkpoint's.

    Attributes:
        graph: of the bundle.
        key: the checkpoint's.
        relative: norm of the difference by the norm of the checkpoint's; infinity where it is not finite.
        differing, flipped, total: numbers that differ, those of them that have the other sign only, and all.
        finite: the bundle's holds neither NaN nor infinity.
        layer_taken: the layer of the checkpoint whose weight it is instead, or None.
    """

    graph: str
    key: str
    relative: float
    differing: int
    flipped: int
    total: int
    finite: bool
    layer_taken: int | None

    @property
    def layer(self) -> int | None:
        """The layer it belongs to, or None."""
        found = _LAYER.search(self.key)
        return int(found[2]) if found else None


@dataclass(frozen=True)
class WeightCheck:
    """What was compared: differences, how many weights of each graph, and those of no known name."""

    differences: tuple[WeightDifference, ...]
    compared: dict[str, int]
    unknown: tuple[str, ...]


def check_weights(bundle: Bundle, checkpoint: Checkpoint) -> WeightCheck:
    """Compares every named initialiser of the contract's graphs; constants of the graphs themselves are left out."""
    sides: dict[bool, Mapping[str, torch.Tensor]] = {
        False: checkpoint.aim.state_dict(),
        True: dict(checkpoint.vq.state_dict()) | {"quantize.unit": checkpoint.vq.quantize.unit().detach()},
    }
    differences, compared, unknown = [], dict[str, int](), []
    for graph in bundle.manifest.contract.graphs:
        tensors = sides[graph.startswith("vq_")]
        compared[graph] = 0
        for initialiser in onnx.load(bundle.graph_path(graph)).graph.initializer:
            if _CONSTANT.fullmatch(initialiser.name):
                continue
            found = numpy_helper.to_array(initialiser)
            wanted = expected_weight(initialiser.name, tensors, found)
            if wanted is None:
                unknown.append(f"{graph}: {initialiser.name}")
                continue
            compared[graph] += 1
            if not _same(wanted, found):
                differences.append(_describe(graph, initialiser.name, tensors, wanted, found))
    return WeightCheck(tuple(differences), compared, tuple(unknown))


def expected_weight(name: str, tensors: Mapping[str, torch.Tensor], like: Array) -> Array | None:
    """What an initialiser of that name should hold, in the dtype of `like`; None where the name says nothing.

    ".T" is transposed, ".as_12x1" reshaped, ".A" is -exp(A_log), as `weights.Weights` names them.
    """
    if not np.issubdtype(like.dtype, np.floating):
        return None
    key = checkpoint_key(name)
    if key not in tensors:
        absent_bias = key.endswith("conv1d.bias") and f"{key.removesuffix('bias')}weight" in tensors
        return np.zeros_like(like) if absent_bias else None
    array = tensors[key].detach().float().cpu().numpy()
    shape = _RESHAPED.search(name)
    if shape:
        sizes = tuple(map(int, shape[1].split("x")))
        if array.size != np.prod(sizes):
            return None
        array = array.reshape(sizes)
    elif name.endswith(".T"):
        array = array.T
    elif name.endswith(".A"):
        array = -np.exp(array)
    if array.shape != like.shape:
        return None
    with np.errstate(over="ignore"):
        result: Array = array.astype(like.dtype)
    return result


def checkpoint_key(name: str) -> str:
    """The checkpoint's key of an initialiser."""
    key = _RESHAPED.sub("", name).removesuffix(".T")
    return key.removesuffix(".A") + ".A_log" if key.endswith(".A") else key


def _same(wanted: Array, found: Array) -> bool:
    return bool(np.isfinite(found).all()) and bool(np.allclose(found, wanted, rtol=_ROUNDING, atol=0))


def _describe(
    graph: str, name: str, tensors: Mapping[str, torch.Tensor], wanted: Array, found: Array
) -> WeightDifference:
    finite = bool(np.isfinite(found).all())
    w, f = wanted.astype(np.float64), found.astype(np.float64)
    near = np.isclose(f, w, rtol=_ROUNDING, atol=0)
    flipped = np.isclose(f, -w, rtol=_ROUNDING, atol=0) & ~near
    relative = float(np.linalg.norm(f - w) / max(float(np.linalg.norm(w)), 1e-300)) if finite else float("inf")
    taken = None
    own = _LAYER.search(name)
    layers = {int(match[2]) for key in tensors if (match := _LAYER.search(key))} if own else set()
    for layer in sorted(layers - {int(own[2])} if own else ()):
        other = expected_weight(_LAYER.sub(rf"\g<1>layers.{layer}.", name), tensors, found)
        if other is not None and _same(other, found):
            taken = layer
            break
    return WeightDifference(
        graph, checkpoint_key(name), relative, int((~near).sum()), int(flipped.sum()), found.size, finite, taken
    )
