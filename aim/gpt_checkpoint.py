"""Reading published checkpoints of the Transformer, alone or with its tokenizer."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Checkpoint, read_state_dict, sha256_of
from .gpt import GptModel
from .gpt_config import GptConfig
from .vq import VqConfig, VqModel


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


def load_gpt_checkpoint(
    path: str | Path, config: GptConfig, vq: str | Path, vq_config: VqConfig | None = None
) -> Checkpoint:
    """Loads a Transformer and the tokenizer whose codes it draws: what `export_bundle` takes.

    Args:
        path: the Transformer's weight file, as `load_gpt` takes it.
        config: which model it is.
        vq: the tokenizer's weight file, such as vq_ds16_c2i.pt.
        vq_config: None takes the published tokenizer's, with as many codes as the Transformer has.

    Returns:
        Both in float32, without class names; its digest is that of the Transformer's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is no state dict, or its keys do not fit; everything wrong is listed.
    """
    model, vq = load_gpt(path, config), Path(vq)
    if not vq.is_file():
        raise FileNotFoundError(f"{vq} is no file; expected the tokenizer's weight file such as vq_ds16_c2i.pt")
    try:
        tokenizer = VqModel(vq_config or VqConfig(n_embed=config.vocab_size)).load_published(read_state_dict(vq))
    except ValueError as error:
        raise ValueError(f"{vq}: {error}") from error
    return Checkpoint(model, tokenizer, None, {}, str(path), sha256_of(Path(path)))
