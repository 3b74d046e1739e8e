"""AimConfig: presets, the published config.json, and everything that it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from aim_edge.aim import AimConfig

PUBLISHED_B: dict[str, Any] = {
    "d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 16384,
    "ssm_cfg": {"layer": "Mamba2", "use_mem_eff_path": False}, "attn_layer_idx": [], "attn_cfg": {},
    "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
    "tie_embeddings": True, "num_classes": 1000, "num_tokens": 256, "adaln_group": False, "num_groups": 1,
    "token_drop": 0.0, "mixer_drop": 0.0, "mlp_drop": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "d_model", "n_layer", "groups"),
    [("B", 768, 24, 1), ("L", 1024, 48, 4), ("XL", 1536, 48, 4), ("1B", 2048, 48, 4), ("AiM-XL", 1536, 48, 4)],
)
def test_presets(name: str, d_model: int, n_layer: int, groups: int) -> None:
    config = AimConfig.preset(name)
    assert (config.d_model, config.n_layer, config.adaln_num_groups) == (d_model, n_layer, groups)
    assert config.adaln_group == (groups > 1)
    assert (config.d_state, config.headdim, config.ngroups, config.d_conv) == (128, 64, 1, 4)


def test_demo_preset_can_tell_a_transposed_state() -> None:
    config = AimConfig.preset("demo")
    assert len({config.headdim, config.d_state, config.nheads}) == 3


def test_published_b_is_the_preset() -> None:
    assert AimConfig.from_published(PUBLISHED_B) == AimConfig.preset("B")
    assert AimConfig.from_published({"config": PUBLISHED_B}) == AimConfig.preset("B")


@pytest.mark.parametrize("name", ["B", "XL", "demo"])
def test_round_trip(name: str) -> None:
    config = AimConfig.preset(name)
    assert AimConfig.from_published(config.to_published()) == config


def test_mamba1_defaults() -> None:
    config = AimConfig.from_published(PUBLISHED_B | {"ssm_cfg": {"layer": "Mamba1", "dt_rank": "auto"}})
    assert (config.layer, config.d_state, config.dt_rank_size, config.nheads) == ("Mamba1", 16, 48, 1536)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attn_layer_idx": [3]}, "attention layers are not supported"),
        ({"dropout": 0.1}, "unknown key 'dropout'"),
        ({"rms_norm": False}, "LayerNorm"),
        ({"tie_embeddings": False}, "untied"),
        ({"ssm_cfg": {"layer": "Mamba2", "rmsnorm": False}}, "rmsnorm"),
        ({"ssm_cfg": {"layer": "Mamba2", "colour": 1}}, "unknown key ssm_cfg.'colour'"),
        ({"ssm_cfg": {"layer": "S4"}}, "layer is 'S4'"),
        ({"ssm_cfg": 3}, "expected a mapping"),
        ({"d_model": "768"}, "d_model is '768'"),
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": 50}}, "must divide d_inner"),
        ({"ssm_cfg": {"layer": "Mamba2", "ngroups": 5}}, "must divide nheads"),
        ({"ssm_cfg": {"layer": "Mamba2", "d_conv": 5}}, "allowed: 2, 3, 4"),
        ({"decode_position_offset": 2}, "allowed: 0, 1"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"published config|AimConfig") as caught:
        AimConfig.from_published(PUBLISHED_B | change)
    assert words in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'a'.*unknown key 'b'"):
        AimConfig.from_published(PUBLISHED_B | {"a": 1, "b": 2})
    with pytest.raises(ValueError, match=r"n_layer is 0.*d_conv is 9"):
        AimConfig(n_layer=0, d_conv=9)


def test_unknown_preset_and_kind() -> None:
    with pytest.raises(ValueError, match="allowed"):
        AimConfig.preset("XXL")
    with pytest.raises(TypeError, match="mapping"):
        AimConfig.from_published([1])  # type: ignore[arg-type]
