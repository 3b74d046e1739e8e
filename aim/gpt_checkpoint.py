"""Reading a published checkpoint of the Transformer."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import read_state_dict
from .gpt import GptModel
from .gpt_config import GptConfig


def load_gpt(path: str | Path, config: GptConfig) -> GptModel:
    """Loads a weight file of LlamaGen's class-conditional Transformer, such as c2i_B_256.pt.

    Args:
        path: a .pt, .bin or .safetensors file with the published keys, which may lie under "model". Pickles are
            read with weights_only, so no code of theirs runs.
        config: which model it is; the file does not say. The number of codes is not to be seen in the weights
            either: c2i_B_256.pt is `GptConfig.preset("B")`, c2i_B_384.pt `GptConfig.preset("B", num_tokens=576)`.

    Returns:
        The model, float32, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no state dict, or its keys do not fit; everything wrong is listed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected a weight file such as c2i_B_256.pt")
    state_dict = read_state_dict(path)
    try:
        return GptModel(config).load_published(state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
