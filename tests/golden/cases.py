"""The golden cases, ready to use: config, weights and arrays by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aim_edge.aim import AimConfig, AimModel, Checkpoint, VqConfig, VqModel
from golden.formula import tensor

SMALL = ("mamba2_adaln", "mamba2_group", "mamba2_mlp")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A model case: arrays as in its .npz, and the model with its weights."""

    name: str
    arrays: dict[str, np.ndarray]
    model: AimModel

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def checkpoint(self) -> Checkpoint:
        """The model with a small tokenizer of as many codes, so that it can be exported."""
        torch.manual_seed(0)
        config = VqConfig(
            n_embed=self.model.config.vocab_size, ch=32, ch_mult=(1, 2), z_channels=32, num_res_blocks=1
        )
        return Checkpoint(self.model, VqModel(config).eval(), None, {}, f"golden {self.name}", "0" * 64)


def state_dict(keys: Any) -> dict[str, torch.Tensor]:
    """Weights by the formula for a JSON list of [key, shape]."""
    return {key: torch.from_numpy(tensor(key, tuple(shape))) for key, shape in json.loads(str(keys))}


@lru_cache(maxsize=4)
def load_case(name: str) -> Case:
    """A case by its file's name."""
    with np.load(HERE / f"{name}.npz") as file:
        arrays = dict(file)
    config = AimConfig.from_published(json.loads(str(arrays["config"])))
    return Case(name, arrays, AimModel(config).load_published(state_dict(arrays["keys"])))
