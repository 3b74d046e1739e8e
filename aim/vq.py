"""The VQ image tokenizer: image <-> a grid of codes, with the published checkpoint's parameter names.

Source: hp-l33/AiM at 0a91c60, models/stage1/vq_model.py (VQ-f16, itself LlamaGen's tokenizer). Only its facts
are kept: which layer has which key, and what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .keys import load_checked

_NORM_EPS = 1e-6


@dataclass(frozen=True)
class VqConfig:
    """Sizes of a VQ tokenizer; the defaults are the published VQ-f16.

    Attributes:
        n_embed: codes in the codebook.
        embed_dim: width of a code.
        z_channels: channels between encoder/decoder and the 1x1 convolutions around the codebook.
        in_channels, out_channels: of the image.
        ch: channels at full resolution.
        ch_mult: a multiple of `ch` for each level; every level but the last halves the resolution.
        num_res_blocks: residual blocks a level (the decoder has one more).
        norm_groups: groups of every GroupNorm.

    Raises:
        ValueError: every bad field at once, each with its value and what is allowed.
    """

    n_embed: int = 16384
    embed_dim: int = 8
    z_channels: int = 256
    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    norm_groups: int = 32

    def __post_init__(self) -> None:
        mult: object = self.ch_mult
        if isinstance(mult, list):  # as JSON gives it
            object.__setattr__(self, "ch_mult", tuple(mult))
        bad = self._problems()
        if bad:
            raise ValueError("VqConfig: " + "; ".join(bad))

    def _problems(self) -> list[str]:
        bad = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "ch_mult":
                if not isinstance(value, tuple) or not value or not all(_is_positive(m) for m in value):
                    bad.append(f"ch_mult is {value!r}; expected one or more integers, each >= 1")
            elif not _is_positive(value):
                bad.append(f"{field.name} is {value!r}; expected an integer >= 1")
        if not bad:
            uneven = sorted({c for c in (self.ch, *self.channels) if c % self.norm_groups})
            if uneven:
                bad.append(f"norm_groups is {self.norm_groups}; must divide every level's channels, not {uneven}")
        return bad

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, from full resolution down."""
        return tuple(self.ch * m for m in self.ch_mult)

    @property
    def downsample(self) -> int:
        """Pixels a code, along one side: 16 for VQ-f16."""
        return 1 << (len(self.ch_mult) - 1)

    def image_size(self, grid: int) -> int:
        """Side in pixels of the image that a `grid` x `grid` square of codes decodes to.

        Raises:
            ValueError: `grid` is not an integer >= 1.
        """
        if not _is_positive(grid):
            raise ValueError(f"grid is {grid!r}; expected an integer >= 1")
        return grid * self.downsample

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VqConfig:
        """The inverse of `to_dict`; missing keys take the published value.

        Raises:
            TypeError: `values` is not a mapping.
            ValueError: unknown keys (all listed) or bad fields (all listed).
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values is a {type(values).__name__}; expected a mapping")
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise ValueError(f"VqConfig: unknown keys {unknown}; allowed: {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them (`ch_mult` a list)."""
        return asdict(self) | {"ch_mult": list(self.ch_mult)}


def _is_positive(value: object) -> bool:
    return type(value) is int and value >= 1


class Quantised(NamedTuple):
    """What the quantiser makes of features; see `VqModel.quantise`."""

    embedded: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


def _norm(config: VqConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups, channels, eps=_NORM_EPS)


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class _ResBlock(nn.Module):
    def __init__(self, config: VqConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, inputs)
        self.conv1 = _conv3(inputs, outputs)
        self.norm2 = _norm(config, outputs)
        self.conv2 = _conv3(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class _AttnBlock(nn.Module):
    """Single-head self-attention over all positions of the map."""

    def __init__(self, config: VqConfig, channels: int) -> None:
        super().__init__()
        self.norm = _norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.scale = channels**-0.5

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # The queries are scaled before the product, so that the scores stay within float16's range.
        query = self.q(h).flatten(2).transpose(1, 2) * self.scale  # (B, hw, C)
        scores = torch.matmul(query, self.k(h).flatten(2))  # (B, hw of the query, hw of the key)
        weights = torch.softmax(scores, dim=-1)
        mixed = torch.matmul(self.v(h).flatten(2), weights.transpose(1, 2))  # (B, C, hw)
        projected: Tensor = self.proj_out(mixed.view_as(x))
        return x + projected


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # the published padding: right and bottom only
        return halved


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class _Level(nn.Module):
    """Residual blocks at one resolution, attention after each if asked for, then the change of resolution."""

    def __init__(
        self, config: VqConfig, inputs: int, outputs: int, blocks: int, attention: bool, down: bool, up: bool
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.res = nn.ModuleList(_ResBlock(config, a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(_AttnBlock(config, outputs) for _ in range(blocks if attention else 0))
        self.downsample = _Downsample(outputs) if down else None
        self.upsample = _Upsample(outputs) if up else None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


def _middle(config: VqConfig, channels: int) -> nn.Sequential:
    res, attention = _ResBlock(config, channels, channels), _AttnBlock(config, channels)
    return nn.Sequential(res, attention, _ResBlock(config, channels, channels))


class _Encoder(nn.Module):
    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        last = len(config.channels) - 1
        self.conv_in = _conv3(config.in_channels, config.ch)
        self.conv_blocks = nn.ModuleList()
        inputs = config.ch
        for i, outputs in enumerate(config.channels):
            level = _Level(config, inputs, outputs, config.num_res_blocks, i == last, down=i < last, up=False)
            self.conv_blocks.append(level)
            inputs = outputs
        self.mid = _middle(config, inputs)
        self.norm_out = _norm(config, inputs)
        self.conv_out = _conv3(inputs, config.z_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return features


class _Decoder(nn.Module):
    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        last = len(config.channels) - 1
        inputs = config.channels[last]
        self.conv_in = _conv3(config.z_channels, inputs)
        self.mid = _middle(config, inputs)
        self.conv_blocks = nn.ModuleList()  # from the lowest resolution up
        for i in range(last, -1, -1):
            outputs, blocks = config.channels[i], config.num_res_blocks + 1
            self.conv_blocks.append(_Level(config, inputs, outputs, blocks, i == last, down=False, up=i > 0))
            inputs = outputs
        self.norm_out = _norm(config, inputs)
        self.conv_out = _conv3(inputs, config.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in self.conv_blocks:
            x = level(x)
        image: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return image


class _Codebook(nn.Module):
    """Codes on the unit sphere: features and codes are both l2-normalised before they are compared."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.n_embed, config.embed_dim)
        with torch.no_grad():
            self.embedding.weight.copy_(F.normalize(torch.randn_like(self.embedding.weight), dim=-1))

    def unit(self) -> Tensor:
        return F.normalize(self.embedding.weight, dim=-1)

    def nearest(self, features: Tensor) -> Tensor:
        """Code ids (B, h, w) of features (B, D, h, w), in float32: half precision would make many ties."""
        unit = F.normalize(features.float(), dim=1).permute(0, 2, 3, 1)
        # On the unit sphere the nearest code is the one with the largest inner product.
        return torch.matmul(unit, self.unit().float().t()).argmax(dim=-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Normalised codes (B, D, h, w) of ids (B, h, w)."""
        return F.normalize(self.embedding(codes), dim=-1).permute(0, 3, 1, 2)


class VqModel(nn.Module):
    """A VQ tokenizer whose parameters are named as in the published checkpoints, without `vqvae.`.

    Args:
        config: the sizes; the default is the published VQ-f16.
    """

    def __init__(self, config: VqConfig | None = None) -> None:
        super().__init__()
        self.config = config = VqConfig() if config is None else config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = _Codebook(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def encode_features(self, image: Tensor) -> Tensor:
        """Features before quantisation (and before normalisation).

        Args:
            image: (B, in_channels, H, W) in [-1, 1]; H and W multiples of `config.downsample`.

        Returns:
            (B, embed_dim, H / downsample, W / downsample), in the image's dtype.

        Raises:
            ValueError: the shape does not fit.
        """
        side, channels = self.config.downsample, self.config.in_channels
        shape = tuple(image.shape)
        if image.dim() != 4 or shape[1] != channels or shape[2] % side or shape[3] % side:
            raise ValueError(f"image has shape {shape}; expected (B, {channels}, H, W), H and W multiples of {side}")
        features: Tensor = self.quant_conv(self.encoder(image))
        return features

    def encode(self, image: Tensor) -> Tensor:
        """Codes of an image: for each position the nearest code, features and codes l2-normalised.

        Args and errors: as `encode_features`.

        Returns:
            int64 (B, H / downsample, W / downsample), each in [0, n_embed).
        """
        return self.quantize.nearest(self.encode_features(image))

    def decode_features(self, embedded: Tensor) -> Tensor:
        """Image (B, out_channels, H, W), about [-1, 1] and not clamped, of normalised codes (B, embed_dim, h, w)."""
        image: Tensor = self.decoder(self.post_quant_conv(embedded))
        return image

    def decode(self, codes: Tensor) -> Tensor:
        """Image of codes.

        Args:
            codes: int64 or int32 (B, h, w), each in [0, n_embed).

        Returns:
            (B, out_channels, h * downsample, w * downsample) in the weights' dtype, about [-1, 1], not clamped.

        Raises:
            TypeError: the codes are not integers.
            ValueError: the shape is another, or a code is out of range.
        """
        if codes.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"codes are {codes.dtype}; expected torch.int64 or torch.int32")
        if codes.dim() != 3:
            raise ValueError(f"codes have shape {tuple(codes.shape)}; expected (B, h, w)")
        # An exporter traces symbols, which have no values to check.
        if not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export() and codes.numel():
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= self.config.n_embed:
                raise ValueError(f"codes are in [{low}, {high}]; allowed: [0, {self.config.n_embed - 1}]")
        return self.decode_features(self.quantize.lookup(codes))

    def quantise(self, features: Tensor) -> Quantised:
        """The straight-through quantiser, for training (van den Oord et al. 2017, arXiv 1711.00937, eq. 3).

        Args:
            features: (B, embed_dim, h, w) from `encode_features`.

        Returns:
            embedded (B, embed_dim, h, w), whose gradient passes to the normalised features unchanged; codes
            int64 (B, h, w); codebook_loss (moves codes to features) and commitment_loss (moves features to
            codes), float32 scalars, unweighted means over all elements.
        """
        unit = F.normalize(features.float(), dim=1)
        codes = self.quantize.nearest(features.detach())
        chosen = self.quantize.lookup(codes).float()
        codebook_loss = F.mse_loss(chosen, unit.detach())
        commitment_loss = F.mse_loss(unit, chosen.detach())
        return Quantised(unit + (chosen - unit).detach(), codes, codebook_loss, commitment_loss)

    def load_published(self, state_dict: Mapping[str, Tensor]) -> VqModel:
        """Loads a published checkpoint's tokenizer.

        Args:
            state_dict: keys with or without `vqvae.`; `mamba.*` is ignored, and so is the training statistic
                `quantize.codebook_used`.

        Returns:
            The model itself, in evaluation mode.

        Raises:
            TypeError: not a mapping of tensors.
            ValueError: every missing, unexpected and mis-shaped key at once.
        """
        load_checked(self, state_dict, prefix="vqvae.", other_prefixes=("mamba.",), dropped=("quantize.codebook_used",))
        return self.eval()
