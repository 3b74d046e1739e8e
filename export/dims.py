"""From a checkpoint's two configs to the sizes that the contract is made of."""

from __future__ import annotations

import math

from aim_edge.aim.config import AimConfig
from aim_edge.aim.gpt_config import GptConfig
from aim_edge.aim.vq import VqConfig
from aim_edge.runtime.contract import ModelDims


def model_dims(aim: AimConfig | GptConfig, vq: VqConfig) -> ModelDims:
    """The sizes of a checkpoint's graphs; codes fill a square.

    Raises:
        ValueError: num_tokens is no square, or the codebook and the vocabulary differ.
    """
    side = math.isqrt(aim.num_tokens)
    if side * side != aim.num_tokens:
        raise ValueError(f"num_tokens is {aim.num_tokens}; only square grids of codes are supported")
    if vq.n_embed != aim.vocab_size:
        raise ValueError(f"vocab_size is {aim.vocab_size} but the codebook has n_embed = {vq.n_embed} codes")
    if isinstance(aim, GptConfig):
        own = {"adaln_factor": 0, "headdim": aim.headdim, "d_state": 0, "d_conv": 0, "conv_dim": 0}
    else:
        own = {
            "adaln_factor": aim.adaln_factor, "headdim": aim.state_headdim, "d_state": aim.d_state,
            "d_conv": aim.d_conv, "conv_dim": aim.conv_dim,
        }  # fmt: skip
    return ModelDims(
        d_model=aim.d_model,
        n_layer=aim.n_layer,
        vocab_size=aim.vocab_size,
        num_classes=aim.num_classes,
        num_tokens=aim.num_tokens,
        nheads=aim.nheads,
        image_channels=vq.out_channels,
        image_height=vq.image_size(side),
        image_width=vq.image_size(side),
        grid_height=side,
        grid_width=side,
        **own,
    )
