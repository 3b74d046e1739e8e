"""The PyTorch model drawing codes with the runtime's sampler: what every exported graph must reproduce."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aim_edge.aim import AimModel, GptModel
from aim_edge.runtime.sampler import Sampler, SamplingConfig


@torch.inference_mode()
def draw_tokens(
    model: AimModel | GptModel, class_ids: NDArray[np.int64], seed: int, config: SamplingConfig, first_image: int = 0
) -> NDArray[np.int32]:
    """(B) class ids -> (B, T) codes."""
    batch, count = len(class_ids), model.config.num_tokens
    sampler = Sampler(model.config.vocab_size, batch, config)
    condition: Any = model.condition(torch.as_tensor(class_ids))
    state: Any = model.init_state(2 * batch)
    position = torch.zeros(batch, dtype=torch.int64)
    index = np.arange(first_image, first_image + batch, dtype=np.uint64)
    tokens = np.zeros((batch, count), np.int32)
    previous = torch.zeros(batch, dtype=torch.int64)
    for t in range(count):
        logits, state = model.step(previous, position + t, condition, state)
        tokens[:, t] = sampler.draw(logits.numpy(), seed, index, t)
        previous = torch.from_numpy(tokens[:, t].astype(np.int64))
    return tokens


def run_state(model: AimModel, labels: NDArray[np.int64], tokens: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Every layer's state after decoding `tokens` forced, named as the contract's inputs, canonical."""
    position, ids = torch.zeros(len(labels), dtype=torch.int64), torch.from_numpy(tokens)
    with torch.inference_mode():
        condition = model.condition(torch.from_numpy(labels))
        state = model.init_state(2 * len(labels))
        for t in range(tokens.shape[1]):
            given = ids[:, t - 1] if t else torch.zeros_like(ids[:, 0])
            _, state = model.step(given, position + t, condition, state)
    return {
        f"{kind}_{i}": tensor.float().numpy()
        for i, layer in enumerate(state)
        for kind, tensor in (("conv_state", layer.conv), ("ssm_state", layer.ssm))
    }
