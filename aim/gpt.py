"""LlamaGen's class-conditional Transformer: what the AiM model is compared with.

Source: FoundationVision/LlamaGen at ce98ec4, autoregressive/models/gpt.py. Parameter names are the published
checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gpt_config import GptConfig
from .keys import load_checked
from .mixer import RmsNorm, core_dtype


class KvCache(NamedTuple):
    """One layer's keys (already rotated) and values, each (rows, nheads, T, headdim); written in place."""

    k: Tensor
    v: Tensor


class Place(NamedTuple):
    """Where the tokens of a call stand, the same for every layer.

    rotary: (rows or 1, L, 1, headdim / 2, 2), cosine and sine.
    position: (rows, L) int64, or None for a whole sequence from its start, which needs no cache.
    known: (rows, 1, L, T) bool, which of the cache's keys a token sees; None as above.
    """

    rotary: Tensor
    position: Tensor | None = None
    known: Tensor | None = None


def rotary_table(config: GptConfig) -> Tensor:
    """Cosine and sine of every position's angles: (T, headdim / 2, 2) float32.

    Position 0 is the class token, position p the code p - 1. The first half of the pairs turns by the code's row,
    the second by its column. The class token's cosines are zero too, as published: its queries and keys vanish, so
    that every code sees it with the score 0.
    """
    half = config.headdim // 2
    inverse = 1.0 / (config.rope_base ** (torch.arange(0, half, 2).float() / half))
    code = torch.arange(config.num_tokens - 1)
    rows, columns = code // config.grid_size, code % config.grid_size
    angles = torch.cat([torch.outer(rows, inverse), torch.outer(columns, inverse)], dim=-1)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros(1, half, 2), table])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turns the neighbours (2i, 2i + 1) of x (rows, L, nheads, headdim) by their angle, in float32 or float64."""
    dtype = core_dtype(x)
    even, odd = x.to(dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotary.to(dtype).unbind(-1)
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal attention with a fused projection, over the sequence itself or over a cache."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.split = (3, config.nheads, config.headdim)
        self.wqkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.wo = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, place: Place, cache: KvCache | None) -> Tensor:
        """(rows, L, d_model) -> the same; the cache, if any, is written at place.position."""
        q, k, v = self.wqkv(x).unflatten(-1, self.split).unbind(2)
        q, k = rotate(q, place.rotary), rotate(k, place.rotary)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if cache is None or place.position is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            index = place.position[:, None, :, None].expand_as(k)
            for kept, new in ((cache.k, k), (cache.v, v)):
                kept.scatter_(2, index, new.to(kept.dtype))
            keys, values = cache.k.to(q.dtype), cache.v.to(q.dtype)
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=place.known)
        return self.wo(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.d_model, config.mlp_hidden, bias=False)
        self.w3 = nn.Linear(config.d_model, config.mlp_hidden, bias=False)
        self.w2 = nn.Linear(config.mlp_hidden, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, L, d_model) -> the same."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """x += attention(norm(x)); x += feed_forward(norm(x))."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RmsNorm(config.d_model, config.norm_epsilon)
        self.ffn_norm = RmsNorm(config.d_model, config.norm_epsilon)

    def forward(self, x: Tensor, place: Place, cache: KvCache | None) -> Tensor:
        """x (rows, L, d_model) in the weights' dtype -> the same."""
        x = x + self.attention(self.attention_norm(x).to(x.dtype), place, cache)
        return x + self.feed_forward(self.ffn_norm(x).to(x.dtype))  # type: ignore[no-any-return]


class ClassEmbedding(nn.Module):
    """Class table; the last row is the null class of guidance."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.d_model)


class GptModel(nn.Module):
    """Class ids and earlier codes to logits of the next code, by attention over all of them.

    The class is the token at position 0 and code p - 1 the one at position p: the logits at position t are code t's.
    Rows: guidance decodes two rows an image, rows 0..B-1 with the label and rows B..2B-1 with the null label.

    Args:
        config: sizes. Weights start as the published code initialises them, the head at zero.
    """

    rotary: Tensor

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = ClassEmbedding(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layer))
        self.norm = RmsNorm(config.d_model, config.norm_epsilon)
        self.output = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("rotary", rotary_table(config), persistent=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.output.weight)

    def load_published(self, state_dict: Mapping[str, Tensor]) -> GptModel:
        """Loads a published checkpoint's weights (float32 copies, or the model's own dtype).

        Args:
            state_dict: the published keys; a table "freqs_cis", which some checkpoints hold, is left alone.

        Returns:
            The model itself, in evaluation mode.

        Raises:
            ValueError: every missing, unexpected and mis-shaped key at once.
        """
        load_checked(self, state_dict, prefix="", dropped=("freqs_cis",))
        return self.eval()

    def set_precision(self, dtype: torch.dtype) -> GptModel:
        """Stores matrices and tables in `dtype`; norms and the rotary table stay float32."""
        allowed = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        if dtype not in allowed:
            raise ValueError(f"dtype is {dtype}; allowed: {allowed}")
        for name, parameter in self.named_parameters():
            keep = dtype != torch.float64 and "norm" in name
            parameter.data = parameter.data.to(torch.float32 if keep else dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output.weight.device

    def condition(self, class_ids: Tensor) -> Tensor:
        """Class tokens of guidance: label rows, then as many null-label rows.

        Args:
            class_ids: (B) int64 in [0, num_classes].

        Returns:
            (2 B, d_model) in the weights' dtype.
        """
        null = torch.full_like(class_ids, self.config.num_classes)
        return self.condition_rows(torch.cat([class_ids, null]))

    def condition_rows(self, labels: Tensor) -> Tensor:
        """The same for the given labels (rows), without adding null rows."""
        return self.cls_embedding.embedding_table(labels)  # type: ignore[no-any-return]

    def init_state(self, rows: int, dtype: torch.dtype = torch.float32) -> list[KvCache]:
        """An empty cache for `rows` rows: what decoding starts from. T is num_tokens: the last code is never fed."""
        config = self.config
        shape = (rows, config.nheads, config.num_tokens, config.headdim)
        return [
            KvCache(*(torch.zeros(shape, dtype=dtype, device=self.device) for _ in KvCache._fields))
            for _ in range(config.n_layer)
        ]

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Logits of every code given those before it, one row an image (teacher forcing; needs no cache).

        Args:
            tokens: (B, L) int64, 1 <= L <= num_tokens.
            labels: (B) int64, num_classes being the null label.

        Returns:
            (B, L, V) float32; [:, t] predicts tokens[:, t], so the last code given has no effect.

        Raises:
            ValueError: tokens or labels have another shape, or there are too many tokens.
        """
        self._check(tokens, labels, "labels")
        length = tokens.shape[1]
        x = torch.cat([self.condition_rows(labels)[:, None], self.tok_embeddings(tokens[:, :-1])], dim=1)
        return self._run(x, Place(self.rotary[None, :length, None]), [None] * self.config.n_layer)

    def teacher_forced(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """`forward`, as AimModel calls it and takes its arguments."""
        return self(tokens, labels)  # type: ignore[no-any-return]

    def step(
        self, token: Tensor, position: Tensor, condition: Tensor, state: Sequence[KvCache]
    ) -> tuple[Tensor, Sequence[KvCache]]:
        """One decoding step.

        Args:
            token: (B) int64, the codes drawn last (ignored where position is 0).
            position: (B) int64, the index of the code to draw, 0..num_tokens-1; all before it were fed.
            condition: from `condition`, 2 B rows.
            state: n_layer caches of 2 B rows; written in place at `position`.

        Returns:
            logits (2 B, V) float32 before guidance, and the state that was given.
        """
        logits, state = self.prefill(token[:, None], position, condition, state)
        return logits[:, 0], state

    def prefill(
        self, tokens: Tensor, position: Tensor, condition: Tensor, state: Sequence[KvCache]
    ) -> tuple[Tensor, Sequence[KvCache]]:
        """Several steps at once, the codes given (what AimModel.scan is there).

        Args:
            tokens: (B, L) int64; tokens[:, i] is the code before position + i (ignored at position 0).
            position: (B) int64, the position of the first; position + L <= num_tokens (not checked: it would wait
                for the device; an index beyond the cache is an error of PyTorch's).
            condition: its rows are B or 2 B; the tokens are repeated to match.
            state: n_layer caches of as many rows; written in place.

        Returns:
            logits (rows, L, V) float32 before guidance, and the state that was given.

        Raises:
            ValueError: tokens or position have another shape, L > num_tokens, or rows or layers do not match.
        """
        self._check(tokens, position, "position")
        batch, (rows, _) = tokens.shape[0], condition.shape
        if rows not in (batch, 2 * batch):
            raise ValueError(f"condition has {rows} rows for {batch} rows of tokens; allowed: {batch}, {2 * batch}")
        found = [cache.k.shape[0] for cache in state]
        if found != [rows] * self.config.n_layer:
            raise ValueError(f"state has caches of {found} rows; expected {self.config.n_layer} of {rows}")
        position = position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tok_embeddings(tokens)
        if rows != batch:
            x, position = x.repeat(2, 1, 1), position.repeat(2, 1)
        x = torch.where((position == 0)[..., None], condition[:, None].to(x.dtype), x)
        known = torch.arange(self.config.num_tokens, device=tokens.device) <= position[:, None, :, None]
        return self._run(x, Place(self.rotary[position][:, :, None], position, known), state), state

    def _run(self, x: Tensor, place: Place, state: Sequence[KvCache | None]) -> Tensor:
        for layer, cache in zip(self.layers, state, strict=True):
            x = layer(x, place, cache)
        logits = self.output(self.norm(x).to(x.dtype))
        return logits.to(core_dtype(logits))  # type: ignore[no-any-return]

    def _check(self, tokens: Tensor, other: Tensor, name: str) -> None:
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.config.num_tokens:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; expected (B, L) with L in 1..{self.config.num_tokens}"
            )
        if other.shape != tokens.shape[:1]:
            raise ValueError(f"{name} has shape {tuple(other.shape)}; expected {tuple(tokens.shape[:1])}")
