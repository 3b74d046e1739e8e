"""The PyTorch model against what the published code computes, and against the equations in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aim_edge.aim import AimModel, decode_logits
from golden.cases import SMALL, Case, load_case

EXACT = 2e-4  # float32 against float64 by an independent implementation
PUBLISHED = {"step": 3e-3, "state": 5e-4, "forward": 1e-2}  # the published code multiplies in TF32


def final_state(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """conv_state and ssm_state of each layer after the last step."""
    model = case.model
    labels, tokens = torch.from_numpy(case["labels"][:, 0]), torch.from_numpy(case["tokens"])
    state, position = model.init_state(2 * len(labels)), torch.zeros_like(labels)
    with torch.inference_mode():
        condition = model.condition(labels)
        for t in range(tokens.shape[1]):
            given = tokens[:, t - 1] if t else torch.zeros_like(labels)
            _, state = model.step(given, position + t, condition, state)
    return [(s.conv.numpy(), s.ssm.numpy()) for s in state]


@pytest.mark.parametrize("via", ["step", "scan"])
@pytest.mark.parametrize("name", SMALL)
def test_decoding_logits(name: str, via: str) -> None:
    case = load_case(name)
    logits = decode_logits(case.model, case["labels"], case["tokens"], via=via)
    if "exact_step_logits" in case:
        np.testing.assert_allclose(logits, case["exact_step_logits"], rtol=0, atol=EXACT)
    np.testing.assert_allclose(logits, case["step_logits"], rtol=0, atol=PUBLISHED["step"])


@pytest.mark.parametrize("name", SMALL)
def test_final_states(name: str) -> None:
    case = load_case(name)
    for i, (conv, ssm) in enumerate(final_state(case)):
        if f"exact_ssm_state_{i}" in case:
            np.testing.assert_allclose(ssm, case[f"exact_ssm_state_{i}"], rtol=0, atol=EXACT)
        np.testing.assert_allclose(ssm, case[f"ssm_state_{i}"], rtol=0, atol=PUBLISHED["state"])
        # The published conv_state keeps d_conv inputs; the oldest is never used again, so ours keeps d_conv - 1.
        np.testing.assert_allclose(conv, case[f"conv_state_{i}"][:, :, 1:], rtol=0, atol=PUBLISHED["state"])


@pytest.mark.parametrize("name", SMALL)
def test_training_mode_forward_has_positions_one_less(name: str) -> None:
    case = load_case(name)
    model = AimModel(replace(case.model.config, decode_position_offset=0))
    model.load_state_dict(case.model.state_dict())
    labels = torch.from_numpy(case["labels"][:, 0].copy())
    if name == "mamba2_mlp":
        labels[1] = case.model.config.num_classes  # the reference dropped this row's label
    with torch.inference_mode():
        logits = model.eval().teacher_forced(labels, torch.from_numpy(case["tokens"])).numpy()
        other = case.model.teacher_forced(labels, torch.from_numpy(case["tokens"])).numpy()
    np.testing.assert_allclose(logits, case["forward_logits"], rtol=0, atol=PUBLISHED["forward"])
    assert np.abs(other - case["forward_logits"]).max() > 0.1  # the offset is no rounding error


def test_aim_b() -> None:
    case = load_case("aim_b")
    logits = decode_logits(case.model, case["labels"], case["tokens"], via="scan")[case["positions"]]
    top = np.take_along_axis(logits, case["top_ids"].astype(np.int64), axis=-1)
    np.testing.assert_allclose(top, case["exact_top_logits"], rtol=0, atol=EXACT)
    np.testing.assert_allclose(top, case["top_logits"], rtol=0, atol=PUBLISHED["step"])
    np.testing.assert_allclose(logits.mean(-1), case["mean"], rtol=0, atol=EXACT)
    np.testing.assert_allclose(logits.std(-1), case["std"], rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", SMALL)
def test_float64_is_exact(name: str) -> None:
    case = load_case(name)
    if "exact_step_logits" not in case:
        return
    model = AimModel(case.model.config).load_published(case.model.state_dict()).set_precision(torch.float64)
    labels, tokens = torch.from_numpy(case["labels"][:, 0]), torch.from_numpy(case["tokens"])
    given = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
    with torch.inference_mode():
        state = model.init_state(2 * len(labels), torch.float64)
        logits, _ = model.scan(given, torch.zeros_like(labels), model.condition(labels), state)
    np.testing.assert_allclose(logits.transpose(0, 1).numpy(), case["exact_step_logits"], rtol=0, atol=2e-6)
