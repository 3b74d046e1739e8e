"""PyTorch's side of a comparison: logits and states with codes forced, codes that it draws, images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from aim_edge.aim.checkpoint import Checkpoint
from aim_edge.aim.gpt import GptModel, KvCache
from aim_edge.aim.mixer import LayerState
from aim_edge.aim.model import AimModel
from aim_edge.runtime.arena import Snapshot
from aim_edge.runtime.images import Image8, to_uint8
from aim_edge.runtime.sampler import Sampler, SamplingConfig

from .measures import Decoded, Floats, Ids, NonFinite, StateParity, compare_states, decode_against, feed, similarity

__all__ = [
    "Decoded",
    "Floats",
    "Ids",
    "NonFinite",
    "StateParity",
    "compare_states",
    "decode_beside",
    "feed",
    "reference_images",
    "reference_steps",
    "reference_tokens",
    "similarity",
    "to_snapshot",
]

Model = AimModel | GptModel
States = Sequence[LayerState | KvCache]
Step = tuple[Floats, States]


def to_snapshot(states: States) -> Snapshot:
    """PyTorch's states as a session's snapshot has them: canonical, layer by layer, conv before ssm or k before v."""
    snapshot: Snapshot = {}
    for i, state in enumerate(states):
        if isinstance(state, KvCache):  # copied: the next step writes in place
            tensors = {f"k_cache_{i}": state.k.clone(), f"v_cache_{i}": state.v.clone()}
        else:
            tensors = {f"conv_state_{i}": state.conv, f"ssm_state_{i}": state.ssm}
        snapshot |= {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
    return snapshot


@torch.inference_mode()
def reference_steps(model: Model, labels: Ids, tokens: Ids) -> Iterator[Step]:
    """PyTorch's logits (2 B, V) and states after each step with tokens (B, T) forced.

    A Transformer's caches are written in place: read them before the next step.
    """
    given = torch.from_numpy(feed(tokens)).to(model.device)
    condition: Any = model.condition(torch.from_numpy(labels.astype(np.int64)).to(model.device))
    state: Any = model.init_state(2 * len(labels))
    position = torch.zeros(len(labels), dtype=torch.int64, device=model.device)
    for t in range(tokens.shape[1]):
        logits, state = model.step(given[:, t], position + t, condition, state)
        yield logits.float().cpu().numpy(), state


@torch.inference_mode()
def reference_tokens(model: Model, labels: Ids, seed: int, config: SamplingConfig) -> Ids:
    """Codes (B, T) that PyTorch draws as a bundle would: what is forced where the bundle draws none."""
    batch, count = len(labels), model.config.num_tokens
    sampler = Sampler(model.config.vocab_size, batch, config)
    condition: Any = model.condition(torch.from_numpy(labels.astype(np.int64)).to(model.device))
    state: Any = model.init_state(2 * batch)
    position = torch.zeros(batch, dtype=torch.int64, device=model.device)
    index = np.arange(batch, dtype=np.uint64)
    tokens = np.zeros((batch, count), np.int32)
    previous = torch.zeros_like(position)
    for t in range(count):
        logits, state = model.step(previous, position + t, condition, state)
        tokens[:, t] = sampler.draw(logits.float().cpu().numpy(), seed, index, t)
        previous = torch.from_numpy(tokens[:, t].astype(np.int64)).to(model.device)
    return tokens


def decode_beside(session: Any, model: Model, labels: Ids, tokens: Ids, every: int) -> Decoded:
    """`decode_against` with PyTorch as the reference."""
    steps = reference_steps(model, labels, tokens)
    reference = ((logits, partial(to_snapshot, states)) for logits, states in steps)
    return decode_against(session, reference, labels, tokens, every, model.config.vocab_size)


@torch.inference_mode()
def reference_images(checkpoint: Checkpoint, tokens: Ids) -> Image8:
    """PyTorch's images (B, H, W, C) uint8 of codes (B, T)."""
    side = round(tokens.shape[1] ** 0.5)
    codes = torch.from_numpy(tokens.astype(np.int64)).view(-1, side, side)
    return to_uint8(checkpoint.vq.decode(codes).float().numpy())
