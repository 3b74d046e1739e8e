"""The AiM model in PyTorch: the reference that every engine is compared with."""

from .checkpoint import Checkpoint, load_checkpoint
from .config import AimConfig
from .decode import decode_logits
from .mixer import LayerState
from .model import AimModel, Condition
from .vq import VqConfig, VqModel

__all__ = [
    "AimConfig",
    "AimModel",
    "Checkpoint",
    "Condition",
    "LayerState",
    "VqConfig",
    "VqModel",
    "decode_logits",
    "load_checkpoint",
]
