"""The Transformer against what the published code computes (gpt_*.npz), in float32 on a CPU.

Source: FoundationVision/LlamaGen at ce98ec4, autoregressive/models/gpt.py and generate.py.
Fields, for batch B, T = num_tokens: `config` and `keys` as in the other cases, `labels` (B) and `tokens` (B, T) by
the formula; `forward_logits` (B, T, V). Of gpt_small also, decoded with the published cache, `step_logits` (T, 2B, V);
`k_cache` and `v_cache` (layers, the label rows, nheads, every 8th position, headdim) after the last step; and with
guidance `greedy_tokens` (B, T) and `guided_logits` at every 4th step. Of GPT-B, decoded likewise, the 16 largest
logits at 12 positions with their ids, mean and std.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from aim_edge.aim import GptConfig, GptModel, decode_logits
from golden.cases import state_dict

HERE = Path(__file__).parent
TOLERANCE = 1e-5
Case = tuple[dict[str, np.ndarray], GptModel]


@lru_cache(maxsize=3)
def load(name: str) -> Case:
    with np.load(HERE / f"{name}.npz") as file:
        arrays = dict(file)
    config = GptConfig.from_published(json.loads(str(arrays["config"])))
    return arrays, GptModel(config).load_published(state_dict(arrays["keys"]))


def inputs(arrays: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(arrays["labels"]), torch.from_numpy(arrays["tokens"]).long()


@pytest.mark.parametrize("name", ["gpt_small", "gpt_grid24", "gpt_b"])
def test_keys_are_the_published_ones(name: str) -> None:
    arrays, model = load(name)
    published = {key: tuple(shape) for key, shape in json.loads(str(arrays["keys"]))}
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == published


@pytest.mark.parametrize("name", ["gpt_small", "gpt_grid24"])
def test_forward(name: str) -> None:
    arrays, model = load(name)
    labels, tokens = inputs(arrays)
    with torch.inference_mode():
        logits = model(tokens, labels).numpy()
    np.testing.assert_allclose(logits, arrays["forward_logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("via", ["step", "scan"])
def test_decoding_logits(via: str) -> None:
    arrays, model = load("gpt_small")
    logits = decode_logits(model, arrays["labels"], arrays["tokens"], via=via)
    np.testing.assert_allclose(logits, arrays["step_logits"], rtol=0, atol=TOLERANCE)
    assert np.abs(logits[:, :2] - logits[:, 2:]).max() > 0.1  # the null rows are no copies


def test_cache() -> None:
    arrays, model = load("gpt_small")
    labels, tokens = inputs(arrays)
    state = model.init_state(2 * len(labels))
    given = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
    with torch.inference_mode():
        model.prefill(given, torch.zeros_like(labels), model.condition(labels), state)
    for name in ("k", "v"):
        ours = torch.stack([getattr(cache, name)[: len(labels), :, ::8] for cache in state]).numpy()
        np.testing.assert_allclose(ours, arrays[f"{name}_cache"], rtol=0, atol=TOLERANCE)
    # The published quirk: the class token's key is zero, so what an image sees of its class is the value alone.
    assert not arrays["k_cache"][:, :, :, 0].any()
    assert all(not cache.k[:, :, 0].any() and cache.v[:, :, 0].any() for cache in state)


def test_guided_greedy_decoding() -> None:
    arrays, model = load("gpt_small")
    labels, tokens = inputs(arrays)
    batch, scale = len(labels), float(arrays["guidance_scale"])
    state, token, drawn, guided = model.init_state(2 * batch), torch.zeros_like(labels), [], []
    with torch.inference_mode():
        condition = model.condition(labels)
        for t in range(tokens.shape[1]):
            logits, state = model.step(token, torch.full_like(labels, t), condition, state)
            cond, uncond = logits[:batch], logits[batch:]
            guided.append(uncond + (cond - uncond) * scale)
            token = guided[-1].argmax(-1)
            drawn.append(token)
    np.testing.assert_array_equal(torch.stack(drawn, 1).numpy(), arrays["greedy_tokens"])
    np.testing.assert_allclose(
        torch.stack(guided)[::4].numpy(), arrays["guided_logits"], rtol=0, atol=2 * scale * TOLERANCE
    )


def test_gpt_b() -> None:
    arrays, model = load("gpt_b")
    logits = decode_logits(model, arrays["labels"], arrays["tokens"], via="scan")[arrays["positions"]]
    top = np.take_along_axis(logits, arrays["top_ids"].astype(np.int64), axis=-1)
    # The published code's own two ways (cache or not) differ by 9e-6 here.
    np.testing.assert_allclose(top, arrays["top_logits"], rtol=0, atol=5 * TOLERANCE)
    np.testing.assert_allclose(logits.mean(-1), arrays["mean"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(logits.std(-1), arrays["std"], rtol=0, atol=TOLERANCE)
