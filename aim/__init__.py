"""The AiM model in PyTorch: the reference that every engine is compared with. Beside it, a Transformer."""

from .checkpoint import Checkpoint, load_checkpoint
from .config import AimConfig
from .decode import decode_logits
from .gpt import GptModel, KvCache
from .gpt_checkpoint import load_gpt, load_gpt_checkpoint
from .gpt_config import GptConfig
from .mixer import LayerState
from .model import AimModel, Condition
from .vq import VqConfig, VqModel

__all__ = [
    "AimConfig",
    "AimModel",
    "Checkpoint",
    "Condition",
    "GptConfig",
    "GptModel",
    "KvCache",
    "LayerState",
    "VqConfig",
    "VqModel",
    "decode_logits",
    "load_checkpoint",
    "load_gpt",
    "load_gpt_checkpoint",
]
