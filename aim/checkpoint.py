"""Reading a checkpoint from a folder, a file or a hub id."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import AimConfig
from .gpt import GptModel
from .gpt_config import GptConfig
from .model import AimModel
from .vq import VqConfig, VqModel

DEMO = Path(__file__).parent / "demo"
DEMO_GPT = Path(__file__).parent / "demo_gpt"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pt", "model.bin")
_OURS = ("vq", "class_names", "sampling", "tokenizer")  # keys that our own config.json adds to the published ones


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's two models with what belongs to them.

    Attributes:
        aim, vq: the model that draws codes (AiM, or in its place LlamaGen's Transformer) and the tokenizer, float32, in
            evaluation mode.
        class_names: a name for each class, or None.
        sampling: sampling settings that the checkpoint recommends ({} if none).
        source: where it was read from, as the caller named it.
        sha256: digest of the weight file.
    """

    aim: AimModel | GptModel
    vq: VqModel
    class_names: tuple[str, ...] | None
    sampling: dict[str, Any]
    source: str
    sha256: str


def load_checkpoint(source: str | Path, *, config: AimConfig | None = None) -> Checkpoint:
    """Loads a published checkpoint.

    Args:
        source: "demo" (the bundled one) or "demo-gpt" (the Transformer trained on its codes), a folder with config.json
            and weights, a weight file (.safetensors, .pt, .bin) with config.json beside it, or a hub id such as
            "hp-l33/aim-base". A config.json with "model_type" is a Transformer's, as `train_gpt` writes it.
        config: the model's config where there is no config.json.

    Raises:
        FileNotFoundError: nothing there, with what was looked for.
        ValueError: the config or the keys do not fit; everything wrong is listed.
    """
    weights = _find_weights(source)
    raw = _read_config(weights.parent / "config.json")
    if raw is None and config is None:
        raise FileNotFoundError(
            f"{weights.parent / 'config.json'} is missing; it says which AiM model this is "
            "(load_gpt reads a LlamaGen Transformer)"
        )
    ours = {k: (raw or {}).pop(k, None) for k in _OURS}
    if raw is not None and "model_type" in raw and config is None:
        return _load_transformer(source, weights, raw, ours)
    aim_config = config or AimConfig.from_published(raw or {})
    vq_config = VqConfig.from_dict(ours["vq"]) if ours["vq"] else VqConfig(n_embed=aim_config.vocab_size)
    names = ours["class_names"]
    if names is not None and len(names) != aim_config.num_classes:
        raise ValueError(f"config.json: {len(names)} class_names for {aim_config.num_classes} classes")
    if vq_config.n_embed != aim_config.vocab_size:
        raise ValueError(f"config.json: vq.n_embed {vq_config.n_embed}, but vocab_size {aim_config.vocab_size}")
    state_dict = read_state_dict(weights)
    if "cls_embedding.embedding_table.weight" in state_dict:
        raise ValueError(f"{weights} holds a LlamaGen Transformer, not an AiM model; read it with load_gpt")
    strays = sorted(k for k in state_dict if not k.startswith(("mamba.", "vqvae.")))
    if strays:
        raise ValueError(f"{weights}: unexpected keys (neither mamba.* nor vqvae.*): {strays[:20]}")
    aim, vq = AimModel(aim_config), VqModel(vq_config)
    problems = []
    for model in (aim, vq):
        try:
            model.load_published(state_dict)
        except ValueError as error:  # collect both models' complaints: all wrong keys at once
            problems.append(str(error))
    if problems:
        raise ValueError(f"{weights}: " + "\n".join(problems))
    class_names = tuple(names) if names else None
    return Checkpoint(aim, vq, class_names, ours["sampling"] or {}, str(source), sha256_of(weights))


def _load_transformer(
    source: str | Path, weights: Path, published: Mapping[str, Any], ours: Mapping[str, Any]
) -> Checkpoint:
    """A Transformer that shares the demo's tokenizer."""
    path = weights.parent / "config.json"
    if ours["tokenizer"] != "demo":
        raise ValueError(
            f"{path}: tokenizer is {ours['tokenizer']!r}; allowed: 'demo' (load_gpt_checkpoint reads a Transformer "
            "with a tokenizer of its own)"
        )
    try:
        model = GptModel(GptConfig.from_published(published)).load_published(read_state_dict(weights))
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    names, config, vq = ours["class_names"], model.config, load_checkpoint("demo").vq
    if names is not None and len(names) != config.num_classes:
        raise ValueError(f"{path}: {len(names)} class_names for {config.num_classes} classes")
    if vq.config.n_embed != config.vocab_size:
        raise ValueError(f"{path}: vocab_size is {config.vocab_size}, but the demo's tokenizer has {vq.config.n_embed}")
    class_names = tuple(names) if names else None
    return Checkpoint(model, vq, class_names, ours["sampling"] or {}, str(source), sha256_of(weights))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a .pt/.bin state dict, which may lie under "model" or "state_dict".

    Raises:
        ValueError: the file is not a state dict; pickles are read with weights_only, so no code of theirs runs.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file ({error}); fetch it again") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is no plain state dict of tensors and was not loaded: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path} holds a {type(loaded).__name__} that is no mapping of names to tensors")
    return dict(loaded)


def _find_weights(source: str | Path) -> Path:
    path = {"demo": DEMO, "demo-gpt": DEMO_GPT}.get(str(source), Path(source))
    if path == DEMO_GPT and not (path / _WEIGHTS[0]).is_file():
        raise FileNotFoundError(
            f"'demo-gpt', the Transformer to compare the demo with, is not in this installation ({path}); "
            "python -m aim_edge.aim.train_gpt trains one"
        )
    if path.is_file():
        return path
    if path.is_dir():
        for name in _WEIGHTS:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} holds none of {_WEIGHTS}")
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{source} is no file, no folder and no hub id (owner/name); 'demo' is the bundled one")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise FileNotFoundError(f'{source}: hub ids need: pip install "aim-edge[export]"') from error
    try:
        return _find_weights(snapshot_download(text, allow_patterns=["config.json", *_WEIGHTS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{source} is no local path and could not be fetched from the hub: {error}") from error


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a {type(raw).__name__}; expected an object")
    return raw


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()  # in pieces: Python 3.10 has no file_digest
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
