"""Which layers to keep in float32: PyTorch with layers rounded to float16, one at a time and together.

What is rounded is what a float16 bundle stores or hands on in half precision: the weights, inputs and outputs of each
linear layer. Norms, the recurrence and the residual are float32 in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aim_edge.aim.model import AimModel

from .measures import Floats, Ids, compare_steps, feed
from .parity_report import Gates, find_failures, nan_lowest

STEPS = 32  # at the start of each image


@dataclass(frozen=True)
class LayerEffect:
    """What one layer's rounding alone does to the logits.

    Attributes:
        layer: from 0.
        cosine: the lowest of any step; NaN: the logits hold NaN or infinity.
        max_abs: the largest difference of a logit.
    """

    layer: int
    cosine: float
    max_abs: float


@dataclass(frozen=True)
class Proposal:
    """What `propose` found.

    Attributes:
        effects: of each layer that is not kept yet, the largest first.
        cosine: the lowest of any step, with all of those rounded.
        keep: the fewest of them, by effect, that must stay float32 for the gates to hold; () none.
    """

    effects: tuple[LayerEffect, ...]
    cosine: float
    keep: tuple[int, ...]


def propose(
    model: AimModel, labels: Ids, tokens: Ids, gates: Gates, *, kept: Sequence[int] = (), steps: int = STEPS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Proposal:  # fmt: skip
    """Looks for the layers whose rounding moves the logits out of the gates.

    Args:
        model: in float32.
        labels: (B) classes.
        tokens: (B, T) codes that are forced.
        gates: what must hold.
        kept: layers that stay float32 as it is.
        steps: only so many, from the first, are looked at.
        progress: called with (what, done, total).

    Raises:
        ValueError: `kept` holds no layer's number.
    """
    count = model.config.n_layer
    if bad := [i for i in kept if not 0 <= i < count]:
        raise ValueError(f"kept holds {bad}; allowed: layers 0..{count - 1}")
    given = tokens[:, :steps]
    reference = _logits(model, labels, given)
    free = [i for i in range(count) if i not in kept]
    effects = []
    for done, layer in enumerate(free, 1):
        effects.append(_effect(layer, reference, _rounded(model, labels, given, [layer])))
        if progress is not None:
            progress("rounding one layer after another", done, len(free))
    effects.sort(key=lambda effect: nan_lowest(effect.cosine))

    def holds(exact: int) -> bool:
        """With the first `exact` layers by effect in float32 and the others rounded."""
        rest = [effect.layer for effect in effects[exact:]]
        return not find_failures(compare_steps(reference, _rounded(model, labels, given, rest)), 0.0, gates)

    low, high = 0, len(effects)  # with all in float32 it holds
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    together = _effect(-1, reference, _rounded(model, labels, given, free))
    return Proposal(tuple(effects), together.cosine, tuple(sorted(effect.layer for effect in effects[:low])))


def _effect(layer: int, reference: Floats, found: Floats) -> LayerEffect:
    steps = compare_steps(reference, found)
    cosine = min((step.cosine for step in steps), key=nan_lowest)
    return LayerEffect(layer, cosine, float(np.abs(reference - found).max()))


@torch.inference_mode()
def _logits(model: AimModel, labels: Ids, tokens: Ids) -> Floats:
    """(T, 2 B, V) with tokens (B, T) forced."""
    given = torch.from_numpy(feed(tokens)).to(model.device)
    condition: Any = model.condition(torch.from_numpy(labels.astype(np.int64)).to(model.device))
    position = torch.zeros(len(labels), dtype=torch.int64, device=model.device)
    logits, _ = model.scan(given, position, condition, model.init_state(2 * len(labels)))
    result: Floats = logits.float().cpu().numpy().swapaxes(0, 1)
    return result


def _rounded(model: AimModel, labels: Ids, tokens: Ids, layers: Sequence[int]) -> Floats:
    with _rounding(model, layers), np.errstate(invalid="ignore", over="ignore"):
        return _logits(model, labels, tokens)


@contextmanager
def _rounding(model: AimModel, layers: Sequence[int]) -> Iterator[None]:
    """The linear layers of these blocks round what they read, hold and give; the weights stay as they are."""
    hooks = [
        module.register_forward_hook(_round)
        for i in layers
        for name, module in model.backbone.layers[i].named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("adaLN")  # modulation is float32 in every bundle
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _round(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    bias: Any = module.bias
    weight: Any = module.weight
    bias = None if bias is None else _half(bias)
    return _half(nn.functional.linear(_half(inputs[0]), _half(weight), bias)).to(output.dtype)


def _half(x: Tensor) -> Tensor:
    return x.half().float()
