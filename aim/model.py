"""The AiM model: blocks, adaptive norms, final layer and tied head, for one step and for a sequence.

Source: hp-l33/AiM at 0a91c60, models/stage2/block.py and mixer_seq_simple.py. Parameter names are the
published checkpoint's without the leading "mamba.".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import AimConfig
from .keys import load_checked
from .mixer import MIXER_CLASSES, LayerState, RmsNorm


class Condition(NamedTuple):
    """All that the class decides, fixed for an image.

    modulation: (rows, n_layer, adaln_factor, d_model); shift, scale, gate of the mixer, or with an MLP
        shift, shift_mlp, scale, scale_mlp, gate, gate_mlp, as published.
    final_modulation: (rows, 2, d_model), shift and scale of the final layer.
    class_embedding: (rows, d_model), the input of step 0.
    """

    modulation: Tensor
    final_modulation: Tensor
    class_embedding: Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (rows, L, d_model) * (1 + scale) + shift, with shift and scale (rows, d_model)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class GatedMlp(nn.Module):
    """fc2(value * silu(gate)), fc1 giving both (mamba_ssm 2.3.2, modules/mlp.py)."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, 2 * config.mlp_hidden, bias=False)
        self.fc2 = nn.Linear(config.mlp_hidden, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, L, d_model) -> the same."""
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * F.silu(gate))  # type: ignore[no-any-return]


def _adaln(d_model: int, vectors: int) -> nn.Sequential:
    """SiLU and a projection that starts at zero, so that a new block starts as the identity."""
    linear = nn.Linear(d_model, vectors * d_model)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


class Block(nn.Module):
    """residual += hidden; hidden = gate * mixer(modulate(norm(residual))); the same again for an MLP."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.norm = RmsNorm(config.d_model, config.norm_epsilon)
        self.mixer = MIXER_CLASSES[config.layer](config)
        self.mixer_dropout = nn.Dropout(config.mixer_drop)
        if config.d_intermediate:
            self.norm2 = RmsNorm(config.d_model, config.norm_epsilon)
            self.mlp: GatedMlp | None = GatedMlp(config)
            self.mlp_dropout = nn.Dropout(config.mlp_drop)
        else:
            self.mlp = None
        if config.adaln_group:
            table = torch.randn(1, config.adaln_factor, config.d_model) / config.d_model**0.5
            self.scale_shift_table = nn.Parameter(table)
        else:
            self.adaLN_modulation = _adaln(config.d_model, config.adaln_factor)

    def forward(
        self, hidden: Tensor, residual: Tensor, modulation: Tensor, state: LayerState
    ) -> tuple[Tensor, Tensor, LayerState]:
        """hidden (rows, L, d_model) in the weights' dtype, residual float32, modulation (rows, factor, d_model)."""
        dtype = self.mixer.in_proj.weight.dtype
        vectors = modulation.unbind(1)
        if self.mlp is None:
            shift, scale, gate = vectors
        else:
            shift, shift_mlp, scale, scale_mlp, gate, gate_mlp = vectors
        residual = residual + hidden
        out, state = self.mixer(modulate(self.norm(residual), shift, scale).to(dtype), state)
        hidden = self.mixer_dropout(gate.unsqueeze(1) * out)
        if self.mlp is not None:
            residual = residual + hidden
            out = self.mlp(modulate(self.norm2(residual), shift_mlp, scale_mlp).to(dtype))
            hidden = self.mlp_dropout(gate_mlp.unsqueeze(1) * out)
        return hidden, residual, state


class Embeddings(nn.Module):
    """Token and position tables; one position more than tokens, as published."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embeddings = nn.Embedding(config.num_tokens + 1, config.d_model)


class LabelEmbedder(nn.Module):
    """Class table; the last row is the null class of guidance."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.d_model)


class FinalLayer(nn.Module):
    """RMSNorm and its own shift and scale before the head."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.norm_final = RmsNorm(config.d_model, 1e-5)
        self.adaLN_modulation = _adaln(config.d_model, 2)


class Backbone(nn.Module):
    """Everything between the token ids and the head; named so for the checkpoint's keys."""

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.cls_embed = LabelEmbedder(config)
        if config.adaln_group:
            vectors = config.adaln_num_groups * config.adaln_factor
            self.adaln_group = nn.Sequential(nn.SiLU(), nn.Linear(config.d_model, vectors * config.d_model))
        self.final_layer = FinalLayer(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RmsNorm(config.d_model, config.norm_epsilon)


class AimModel(nn.Module):
    """AiM's second stage: class ids and earlier codes to logits of the next code.

    Rows: guidance decodes two rows an image, rows 0..B-1 with the label and rows B..2B-1 with the null label.

    Args:
        config: sizes and options. Weights start as the published code initialises them.
    """

    def __init__(self, config: AimConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.lm_head.weight = self.backbone.embeddings.word_embeddings.weight
        self._initialise()

    def _initialise(self) -> None:
        per_layer = 2 if self.config.d_intermediate else 1
        for name, parameter in self.named_parameters():
            if ".embeddings." in name or "embedding_table" in name:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                with torch.no_grad():  # GPT-2's scaling of what is added to the residual
                    parameter.div_(math.sqrt(per_layer * self.config.n_layer))
            elif name.endswith("bias") and "dt_" not in name and "conv1d" not in name:
                nn.init.zeros_(parameter)

    def load_published(self, state_dict: Mapping[str, Tensor]) -> AimModel:
        """Loads a published checkpoint's weights (float32 copies, or the model's own dtype).

        Args:
            state_dict: "mamba.*" keys, or the same without the prefix; "vqvae.*" keys are left alone.

        Returns:
            The model itself, in evaluation mode.

        Raises:
            ValueError: every missing, unexpected and mis-shaped key at once.
        """
        tied = {"lm_head.weight": "backbone.embeddings.word_embeddings.weight"}
        load_checked(self, state_dict, prefix="mamba.", other_prefixes=("vqvae.",), tied=tied)
        return self.eval()

    def set_precision(self, dtype: torch.dtype) -> AimModel:
        """Stores matrices and tables in `dtype`; A_log, dt_bias, D, norms and modulation stay float32."""
        allowed = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        if dtype not in allowed:
            raise ValueError(f"dtype is {dtype}; allowed: {allowed}")
        kept_full = ("A_log", "dt_bias", ".D", "dt_proj.bias", "norm", "adaln", "adaLN", "scale_shift", "cls_embed")
        for name, parameter in self.named_parameters():
            keep = dtype != torch.float64 and any(part in name for part in kept_full)
            parameter.data = parameter.data.to(torch.float32 if keep else dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def condition(self, class_ids: Tensor) -> Condition:
        """Modulation of all layers for guidance: label rows, then as many null-label rows.

        Args:
            class_ids: (B) int64 in [0, num_classes].

        Returns:
            Condition with rows = 2 B, float32.
        """
        null = torch.full_like(class_ids, self.config.num_classes)
        return self.condition_rows(torch.cat([class_ids, null]))

    def condition_rows(self, labels: Tensor) -> Condition:
        """The same for the given labels (rows), without adding null rows."""
        config, backbone = self.config, self.backbone
        embedding = backbone.cls_embed.embedding_table(labels)
        if config.adaln_group:
            groups = backbone.adaln_group(embedding).view(
                -1, config.adaln_num_groups, config.adaln_factor, config.d_model
            )
            picked = [
                groups[:, i % config.adaln_num_groups] + block.scale_shift_table
                for i, block in enumerate(backbone.layers)
            ]
        else:
            picked = [
                block.adaLN_modulation(embedding).view(-1, config.adaln_factor, config.d_model)  # type: ignore[operator]
                for block in backbone.layers
            ]
        final = backbone.final_layer.adaLN_modulation(embedding).view(-1, 2, config.d_model)
        return Condition(torch.stack(picked, dim=1), final, embedding)

    def init_state(self, rows: int, dtype: torch.dtype = torch.float32) -> list[LayerState]:
        """Zero states for `rows` rows: what decoding starts from."""
        config = self.config
        return [
            LayerState(
                torch.zeros(rows, config.conv_dim, config.d_conv - 1, dtype=dtype, device=self.device),
                torch.zeros(
                    rows, config.nheads, config.state_headdim, config.d_state, dtype=dtype, device=self.device
                ),
            )
            for _ in range(config.n_layer)
        ]

    def step(
        self, token: Tensor, position: Tensor, condition: Condition, state: Sequence[LayerState]
    ) -> tuple[Tensor, list[LayerState]]:
        """One decoding step.

        Args:
            token: (B) int64, the codes drawn last (ignored where position is 0).
            position: (B) int64, the index of the code to draw, 0..num_tokens-1.
            condition: from `condition`, 2 B rows.
            state: n_layer states of 2 B rows.

        Returns:
            logits (2 B, V) float32 before guidance, and the new states.
        """
        logits, new_state = self.scan(token[:, None], position, condition, state)
        return logits[:, 0], new_state

    def scan(
        self, tokens: Tensor, position: Tensor, condition: Condition, state: Sequence[LayerState]
    ) -> tuple[Tensor, list[LayerState]]:
        """Several steps at once, the codes given: prefix conditioning and teacher forcing.

        Args:
            tokens: (B, L) int64; tokens[:, i] is the code before position + i (ignored at position 0).
            position: (B) int64, the position of the first.
            condition: its rows are B or 2 B; the tokens are repeated to match.
            state: n_layer states of as many rows.

        Returns:
            logits (rows, L, V) float32 before guidance, and the states after the last.
        """
        hidden = self._embed(tokens, position, condition.class_embedding)
        residual = torch.zeros_like(hidden)
        new_state = []
        for i, block in enumerate(self.backbone.layers):
            hidden, residual, layer_state = block(hidden, residual, condition.modulation[:, i], state[i])
            new_state.append(layer_state)
        hidden = self.backbone.norm_f(residual + hidden)
        shift, scale = condition.final_modulation.unbind(1)
        hidden = modulate(self.backbone.final_layer.norm_final(hidden), shift, scale)
        logits = self.lm_head(hidden.to(self.lm_head.weight.dtype))
        return logits if logits.dtype == torch.float64 else logits.float(), new_state

    def teacher_forced(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Logits of every code given those before it, one row an image (training).

        Args:
            labels: (B) int64, num_classes being the null label.
            tokens: (B, T) int64, T <= num_tokens.

        Returns:
            (B, T, V) float32; [:, t] predicts tokens[:, t].
        """
        given = F.pad(tokens[:, :-1], (1, 0))
        position = torch.zeros_like(labels)
        return self.scan(given, position, self.condition_rows(labels), self.init_state(len(labels)))[0]

    def _embed(self, tokens: Tensor, position: Tensor, class_embedding: Tensor) -> Tensor:
        """(B, L) -> (rows, L, d_model): position 0 is the class embedding alone, without a position embedding."""
        tables = self.backbone.embeddings
        at = position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        index = (at - 1 + self.config.decode_position_offset).clamp(min=0)
        x = tables.word_embeddings(tokens)
        if self.training and self.config.token_drop:
            x = F.dropout(x, self.config.token_drop)
        x = (x + tables.position_embeddings(index)).to(class_embedding.dtype)
        repeats = class_embedding.shape[0] // tokens.shape[0]
        x, first = x.repeat(repeats, 1, 1), (at == 0).repeat(repeats, 1)
        return torch.where(first[..., None], class_embedding[:, None], x)
