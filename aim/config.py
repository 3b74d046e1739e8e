"""The model's configuration: one frozen dataclass, read from the published config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

MIXERS = ("Mamba1", "Mamba2")
Config = TypeVar("Config")

# Keys of the published MambaConfig (hp-l33/AiM at 0a91c60, models/stage2/config_mamba.py) that we keep, by our name.
_PUBLISHED = {
    "d_model": "d_model",
    "d_intermediate": "d_intermediate",
    "n_layer": "n_layer",
    "vocab_size": "vocab_size",
    "num_classes": "num_classes",
    "num_tokens": "num_tokens",
    "adaln_group": "adaln_group",
    "num_groups": "adaln_num_groups",
    "token_drop": "token_drop",
    "mixer_drop": "mixer_drop",
    "mlp_drop": "mlp_drop",
}
# Published keys that must hold the one value that the published models use; anything else is another model.
_FIXED: dict[str, tuple[Any, str]] = {
    "rms_norm": (True, "LayerNorm blocks are not supported"),
    "residual_in_fp32": (True, "the residual is always float32 here"),
    "tie_embeddings": (True, "an untied lm_head is not supported"),
}
_IGNORED = ("fused_add_norm", "pad_vocab_size_multiple")  # choose a kernel, and pad nothing in the published code
_SSM = {"d_state", "d_conv", "expand", "headdim", "ngroups", "dt_rank", "conv_bias", "bias"}
_SSM_FIXED: dict[str, Any] = {
    "rmsnorm": True,
    "norm_before_gate": False,
    "D_has_hdim": False,
    "d_ssm": None,
    "process_group": None,
}
_SSM_IGNORED = {  # initialisation and kernel choice: no effect on a trained model
    "use_mem_eff_path", "use_fast_path", "chunk_size", "conv_init", "A_init_range", "dt_min", "dt_max",
    "dt_init", "dt_scale", "dt_init_floor", "sequence_parallel", "layer_idx", "device", "dtype",
}  # fmt: skip



def find_preset(presets: Mapping[str, Config], name: str, prefix: str) -> Config:
    """The one of that name, in any case, with or without the prefix. Raises ValueError naming those that there are."""
    key = name.lower().removeprefix(prefix)
    if key not in presets:
        raise ValueError(f"preset {name!r} is unknown; allowed: {sorted(presets)}")
    return presets[key]


def wrong_types(config: Any) -> list[str]:
    """The fields of a configuration whose value is not of their default's type; an int may stand for a float."""
    bad = []
    for field in fields(config):
        value, kind = getattr(config, field.name), type(field.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            bad.append(f"{field.name} is {value!r}; expected {kind.__name__}")
    return bad


@dataclass(frozen=True)
class AimConfig:
    """Sizes and options of an AiM model. Every bad field is reported at once.

    Source: hp-l33/AiM at 0a91c60, models/stage2/config_mamba.py and mixer_seq_simple.py; the mixers' sizes
    are those of mamba_ssm's Mamba2 and Mamba. `adaln_num_groups` is the published `num_groups`.

    Attributes:
        layer: "Mamba2" or "Mamba1".
        d_state, d_conv, expand, headdim, ngroups: the mixer's sizes (headdim and ngroups: Mamba-2 only).
        dt_rank: Mamba-1 only; 0 means ceil(d_model / 16).
        decode_position_offset: step t > 0 uses position embedding t - 1 + offset. The published decoding has
            1, its training has 0 (see shared quirks in README).
        token_drop, mixer_drop, mlp_drop: dropout rates, used in training only.
    """

    d_model: int = 768
    n_layer: int = 24
    vocab_size: int = 16384
    num_classes: int = 1000
    num_tokens: int = 256
    d_intermediate: int = 0
    layer: str = "Mamba2"
    d_state: int = 128
    d_conv: int = 4
    expand: int = 2
    headdim: int = 64
    ngroups: int = 1
    dt_rank: int = 0
    conv_bias: bool = True
    bias: bool = False
    adaln_group: bool = False
    adaln_num_groups: int = 1
    decode_position_offset: int = 1
    norm_epsilon: float = 1e-5
    token_drop: float = 0.0
    mixer_drop: float = 0.0
    mlp_drop: float = 0.0

    def __post_init__(self) -> None:
        bad = list(self._problems())
        if bad:
            raise ValueError("AimConfig: " + "; ".join(bad))

    def _problems(self) -> list[str]:
        bad = wrong_types(self)
        if bad:
            return bad
        at_least_one = (
            "d_model", "n_layer", "vocab_size", "num_classes", "num_tokens", "d_state", "expand", "headdim",
            "ngroups", "adaln_num_groups",
        )  # fmt: skip
        bad += [f"{n} is {getattr(self, n)}; must be >= 1" for n in at_least_one if getattr(self, n) < 1]
        at_least_zero = ("d_intermediate", "dt_rank")
        bad += [f"{n} is {getattr(self, n)}; must be >= 0" for n in at_least_zero if getattr(self, n) < 0]
        drops = ("token_drop", "mixer_drop", "mlp_drop")
        bad += [f"{n} is {getattr(self, n)}; must be in [0, 1)" for n in drops if not 0 <= getattr(self, n) < 1]
        if self.layer not in MIXERS:
            bad.append(f"layer is {self.layer!r}; allowed: {MIXERS}")
        if not 2 <= self.d_conv <= 4:
            bad.append(f"d_conv is {self.d_conv}; allowed: 2, 3, 4")
        if self.decode_position_offset not in (0, 1):
            bad.append(f"decode_position_offset is {self.decode_position_offset}; allowed: 0, 1")
        if not self.norm_epsilon > 0:
            bad.append(f"norm_epsilon is {self.norm_epsilon}; must be > 0")
        if not self.adaln_group and self.adaln_num_groups != 1:
            bad.append(f"adaln_num_groups is {self.adaln_num_groups} but adaln_group is False; must be 1 then")
        if self.layer == "Mamba2" and not bad:
            if self.d_inner % self.headdim:
                bad.append(f"headdim is {self.headdim}; must divide d_inner = expand * d_model = {self.d_inner}")
            elif self.nheads % self.ngroups:
                bad.append(f"ngroups is {self.ngroups}; must divide nheads = {self.nheads}")
        return bad

    @property
    def d_inner(self) -> int:
        """Width inside the mixer: expand * d_model."""
        return self.expand * self.d_model

    @property
    def nheads(self) -> int:
        """Heads of a Mamba-2 mixer (for Mamba-1: one a channel, d_inner)."""
        return self.d_inner // self.headdim if self.layer == "Mamba2" else self.d_inner

    @property
    def state_headdim(self) -> int:
        """headdim of the canonical ssm_state: 1 for Mamba-1."""
        return self.headdim if self.layer == "Mamba2" else 1

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution."""
        return self.d_inner + 2 * self.ngroups * self.d_state if self.layer == "Mamba2" else self.d_inner

    @property
    def d_in_proj(self) -> int:
        """Output width of in_proj: [z, x, B, C, dt] for Mamba-2, [x, z] for Mamba-1."""
        return self.d_inner + self.conv_dim + self.nheads if self.layer == "Mamba2" else 2 * self.d_inner

    @property
    def dt_rank_size(self) -> int:
        """Rank of Mamba-1's dt projection."""
        return self.dt_rank or math.ceil(self.d_model / 16)

    @property
    def adaln_factor(self) -> int:
        """Modulation vectors a layer: shift, scale, gate, twice over with an MLP."""
        return 6 if self.d_intermediate else 3

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the gated MLP: d_intermediate rounded up to 128, as the published GatedMLP does."""
        return -(-self.d_intermediate // 128) * 128

    @classmethod
    def preset(cls, name: str, **changes: Any) -> AimConfig:
        """The config of a published model ("B", "L", "XL", "1B", also "AiM-B" ...) or of "demo".

        Args:
            name: one of `PRESETS`, in any case, with or without "AiM-".
            **changes: fields to replace.

        Raises:
            ValueError: the name is none of them.
        """
        return replace(find_preset(PRESETS, name, "aim-"), **changes)

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> AimConfig:
        """Reads the published config.json (flat, or under one "config" key).

        Args:
            config: keys of the published MambaConfig; `decode_position_offset` may be added.

        Raises:
            TypeError: not a mapping.
            ValueError: every unknown key and every unsupported value (attention layers among them) at once.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"config is a {type(config).__name__}; expected the mapping of config.json")
        if set(config) == {"config"} and isinstance(config["config"], Mapping):
            config = config["config"]
        values: dict[str, Any] = {"d_model": 1024, "n_layer": 48}  # the published dataclass's own defaults
        bad: list[str] = []
        for key, value in config.items():
            if key in _PUBLISHED:
                values[_PUBLISHED[key]] = value
            elif key in _FIXED:
                if value != _FIXED[key][0]:
                    bad.append(f"{key} is {value!r}: {_FIXED[key][1]}")
            elif key in ("attn_layer_idx", "attn_cfg"):
                if value:
                    bad.append(f"{key} is {value!r}: attention layers are not supported (pure Mamba models only)")
            elif key == "ssm_cfg":
                bad += _read_ssm(value, values)
            elif key in ("decode_position_offset", "norm_epsilon"):
                values[key] = value
            elif key not in _IGNORED:
                bad.append(f"unknown key {key!r}")
        if "ssm_cfg" not in config:
            values["layer"] = "Mamba2"
        if values.get("adaln_group") is False:
            values["adaln_num_groups"] = 1  # the published code ignores num_groups then
        if bad:
            raise ValueError("published config: " + "; ".join(bad))
        return cls(**values)

    def to_published(self) -> dict[str, Any]:
        """The inverse of `from_published`: the published keys, plus decode_position_offset."""
        ssm: dict[str, Any] = {name: getattr(self, name) for name in ("layer", "d_state", "d_conv", "expand")}
        if self.layer == "Mamba2":
            ssm |= {"headdim": self.headdim, "ngroups": self.ngroups}
        elif self.dt_rank:
            ssm["dt_rank"] = self.dt_rank
        ssm |= {"conv_bias": self.conv_bias, "bias": self.bias}
        ours = asdict(self)
        values = {published: ours[name] for published, name in _PUBLISHED.items()}
        extra = {"decode_position_offset": self.decode_position_offset, "norm_epsilon": self.norm_epsilon}
        return values | {"ssm_cfg": ssm, "attn_layer_idx": [], "attn_cfg": {}} | extra


def _read_ssm(ssm: Any, values: dict[str, Any]) -> list[str]:
    """Reads ssm_cfg into `values`; returns what is wrong with it."""
    if not isinstance(ssm, Mapping):
        return [f"ssm_cfg is {ssm!r}; expected a mapping"]
    bad = []
    values["layer"] = ssm.get("layer", "Mamba1")  # the published default when the key is absent
    if values["layer"] == "Mamba1":
        values["d_state"] = 16
    for key, value in ssm.items():
        if key in _SSM:
            values[key] = 0 if key == "dt_rank" and value == "auto" else value
        elif key in _SSM_FIXED:
            if value != _SSM_FIXED[key]:
                bad.append(f"ssm_cfg.{key} is {value!r}; only {_SSM_FIXED[key]!r} is supported")
        elif key == "dt_limit":
            if tuple(value) != (0.0, math.inf):
                bad.append(f"ssm_cfg.dt_limit is {value!r}; only (0, inf) is supported")
        elif key not in _SSM_IGNORED and key != "layer":
            bad.append(f"unknown key ssm_cfg.{key!r}")
    return bad


_GROUPED: dict[str, Any] = {"adaln_group": True, "adaln_num_groups": 4}
PRESETS: dict[str, AimConfig] = {
    "b": AimConfig(),
    "l": AimConfig(d_model=1024, n_layer=48, **_GROUPED),
    "xl": AimConfig(d_model=1536, n_layer=48, **_GROUPED),
    "1b": AimConfig(d_model=2048, n_layer=48, **_GROUPED),
    # headdim, d_state and nheads (12) all differ, so that no transposed state can pass a test.
    "demo": AimConfig(
        d_model=192, n_layer=6, vocab_size=512, num_classes=10, d_state=64, headdim=32, **_GROUPED
    ),
}
