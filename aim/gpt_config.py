"""The Transformer's configuration: one frozen dataclass, with the published presets and keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .config import find_preset, wrong_types

# Keys of the published ModelArgs (FoundationVision/LlamaGen at ce98ec4, autoregressive/models/gpt.py), by our name.
_PUBLISHED = {
    "dim": "d_model",
    "n_layer": "n_layer",
    "n_head": "nheads",
    "vocab_size": "vocab_size",
    "num_classes": "num_classes",
    "block_size": "num_tokens",
    "rope_base": "rope_base",
    "norm_eps": "norm_epsilon",
}
_NEEDED = ("dim", "n_layer", "n_head")  # the published defaults of these are no published model's
# Published keys that must hold the one value that the class-conditional models use; anything else is another model.
_FIXED: dict[str, tuple[Any, str]] = {
    "model_type": ("c2i", "only class-conditional models are supported"),
    "cls_token_num": (1, "a class is one token here"),
    "multiple_of": (256, "the MLP's width is rounded up to 256 here"),
    "ffn_dim_multiplier": (None, "the MLP's width has no multiplier here"),
}
_IGNORED = (  # training, and buffers of the published decoding: no effect on a trained model
    "initializer_range", "token_dropout_p", "attn_dropout_p", "resid_dropout_p", "ffn_dropout_p", "drop_path_rate",
    "caption_dim", "max_batch_size", "max_seq_len",
)  # fmt: skip


@dataclass(frozen=True)
class GptConfig:
    """Sizes of a class-conditional LlamaGen Transformer. Every bad field is reported at once.

    Source: FoundationVision/LlamaGen at ce98ec4, autoregressive/models/gpt.py (ModelArgs and the presets).

    Attributes:
        d_model, n_layer, nheads: width, blocks and attention heads; nheads divides d_model.
        vocab_size: codes of the tokenizer, V.
        num_classes: classes; the null class of guidance comes on top.
        num_tokens: codes of an image, T, a square: 256 for 16 x 16, 576 for 24 x 24.
        rope_base: base of the rotary embedding's frequencies.
        norm_epsilon: of every RMSNorm.
    """

    d_model: int = 768
    n_layer: int = 12
    nheads: int = 12
    vocab_size: int = 16384
    num_classes: int = 1000
    num_tokens: int = 256
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        bad = list(self._problems())
        if bad:
            raise ValueError("GptConfig: " + "; ".join(bad))

    def _problems(self) -> list[str]:
        bad = wrong_types(self)
        if bad:
            return bad
        sizes = ("d_model", "n_layer", "nheads", "vocab_size", "num_classes", "num_tokens")
        bad += [f"{n} is {getattr(self, n)}; must be >= 1" for n in sizes if getattr(self, n) < 1]
        reals = ("rope_base", "norm_epsilon")
        bad += [
            f"{n} is {getattr(self, n)}; must be finite and > 0" for n in reals if not 0 < getattr(self, n) < math.inf
        ]
        if self.num_tokens >= 1 and self.grid_size**2 != self.num_tokens:
            bad.append(f"num_tokens is {self.num_tokens}; must be a square, such as 256 or 576")
        if self.d_model >= 1 and self.nheads >= 1:
            if self.d_model % self.nheads:
                bad.append(f"nheads is {self.nheads}; must divide d_model = {self.d_model}")
            elif self.headdim % 4:
                bad.append(
                    f"nheads is {self.nheads}; d_model / nheads = {self.headdim} must be a multiple of 4 "
                    "(pairs for the code's row, and as many for its column)"
                )
        return bad

    @property
    def headdim(self) -> int:
        """Width of an attention head, P."""
        return self.d_model // self.nheads

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the gated MLP: two thirds of 4 * d_model, rounded up to 256."""
        return -(-(8 * self.d_model // 3) // 256) * 256

    @property
    def grid_size(self) -> int:
        """Rows, and columns, of the image's codes."""
        return math.isqrt(self.num_tokens)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GptConfig:
        """The config of a published model: "B", "L" or "XL", also "GPT-B" ..., or of the bundled "demo".

        Args:
            name: one of `PRESETS`, in any case, with or without "GPT-".
            **changes: fields to replace, such as num_tokens=576 for the models of 384 x 384 pixels.

        Raises:
            ValueError: the name is none of them.
        """
        return replace(find_preset(PRESETS, name, "gpt-"), **changes)

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> GptConfig:
        """Reads the keys of the published ModelArgs.

        Args:
            config: a mapping with dim, n_layer and n_head at least.

        Raises:
            TypeError: not a mapping.
            ValueError: every missing and unknown key and every unsupported value (text conditions, fewer key
                heads than query heads) at once.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"config is a {type(config).__name__}; expected a mapping of the published keys")
        values: dict[str, Any] = {}
        bad = [f"key {key!r} is missing" for key in _NEEDED if key not in config]
        for key, value in config.items():
            if key in _PUBLISHED:
                values[_PUBLISHED[key]] = value
            elif key in _FIXED:
                if value != _FIXED[key][0]:
                    bad.append(f"{key} is {value!r}: {_FIXED[key][1]}")
            elif key == "n_kv_head":
                if value not in (None, config.get("n_head")):
                    bad.append(f"n_kv_head is {value!r}: every query head needs its own key head here")
            elif key == "class_dropout_prob":
                if not value:  # without dropout the published table has no null class
                    bad.append(f"class_dropout_prob is {value!r}: a model without a null class is not supported")
            elif key not in _IGNORED:
                bad.append(f"unknown key {key!r}")
        if bad:
            raise ValueError("published config: " + "; ".join(bad))
        return cls(**values)

    def to_published(self) -> dict[str, Any]:
        """The inverse of `from_published`: the published keys, model_type and cls_token_num among them."""
        ours = asdict(self)
        values = {published: ours[name] for published, name in _PUBLISHED.items()}
        return values | {"model_type": "c2i", "cls_token_num": 1}


PRESETS: dict[str, GptConfig] = {
    "b": GptConfig(),
    "l": GptConfig(d_model=1024, n_layer=24, nheads=16),
    "xl": GptConfig(d_model=1280, n_layer=36, nheads=20),
    # About as many parameters as AiM's demo has.
    "demo": GptConfig(d_model=192, n_layer=5, nheads=3, vocab_size=512, num_classes=10),
}
