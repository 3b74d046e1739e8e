"""Checking a checkpoint's keys against a module before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn


def load_checked(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    prefix: str,
    other_prefixes: Collection[str] = (),
    tied: Mapping[str, str] | None = None,
    dropped: Collection[str] = (),
) -> None:
    """Copies `state_dict` into `module`, or raises naming every key that is wrong.

    Args:
        module: what to fill; parameters keep their own dtype.
        state_dict: checkpoint keys with `prefix`, or all without it.
        prefix: the module's place in a whole checkpoint, such as "mamba.".
        other_prefixes: keys with these belong to other modules and are left alone.
        tied: keys that may be missing, each with the key that holds the same tensor.
        dropped: keys that are accepted and ignored (training statistics).

    Raises:
        TypeError: not a mapping of tensors.
        ValueError: every missing, unexpected and mis-shaped key, all at once.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict is a {type(state_dict).__name__}; expected a mapping of names to tensors")
    not_tensors = [str(k) for k, v in state_dict.items() if not isinstance(v, Tensor)]
    if not_tensors:
        raise TypeError(f"state_dict: these values are no tensors: {not_tensors[:20]}")
    own = {k: v for k, v in state_dict.items() if not k.startswith(tuple(other_prefixes) or ("\0",))}
    given = {k.removeprefix(prefix): v for k, v in own.items()}
    for key in dropped:
        given.pop(key, None)
    wanted = module.state_dict()
    tied = tied or {}
    for key, twin in tied.items():
        if key in given and twin in given and not torch.equal(given[key], given[twin]):
            raise ValueError(f"checkpoint: {key} differs from {twin}, but only tied heads are supported")
    missing = sorted(k for k in wanted if k not in given and k not in tied)
    unexpected = sorted(k for k in given if k not in wanted)
    shapes = [
        f"{k}: found {tuple(given[k].shape)}, expected {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in given and given[k].shape != v.shape
    ]
    problems = [
        f"{len(found)} {what}:\n  " + "\n  ".join(found)
        for what, found in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if found
    ]
    if problems:
        raise ValueError(f"checkpoint does not fit {type(module).__name__}; " + "\n".join(problems))
    with torch.no_grad():
        for key, target in wanted.items():
            if key in given:
                target.copy_(given[key])
