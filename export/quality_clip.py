"""CLIP score: how well an image fits its class's name, by a CLIP model on disk, through transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aim_edge.runtime import BackendMissingError
from aim_edge.runtime.images import Image8

from .quality_features import resize
from .quality_stats import Floats

Progress = Callable[[str, int, int], None]

MODEL_URL = "https://huggingface.co/openai/clip-vit-base-patch32"
FILES = ("config.json", "vocab.json", "merges.txt")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHTS_BYTES = 605_247_071  # of pytorch_model.bin
WEIGHTS_SHA256 = "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"
PROMPT = "a picture of {}"
# What CLIP's training normalised pixels in [0, 1] with.
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 32
_INSTALL = 'the CLIP score needs transformers; pip install "aim-edge[clip]"'
_WHERE = (
    f"download {', '.join(FILES)} and {' or '.join(WEIGHT_FILES)} (pytorch_model.bin: {WEIGHTS_BYTES:,} bytes, SHA-256 "
    f"{WEIGHTS_SHA256}) of {MODEL_URL} into a folder, and give --clip FOLDER; offline, class "
    "agreement takes its place"
)


class ClipScore:
    """100 max(cosine, 0) of an image's and its prompt's CLIP embeddings (Hessel et al. 2021, arXiv 2104.08718).

    The paper scales by 2.5; most libraries scale by 100, and so do we. Nothing goes over the network.

    Args:
        folder: a CLIP model as transformers saves it.
        prompt: with {} for the class's name.

    Raises:
        FileNotFoundError: a file is missing from the folder.
        BackendMissingError: transformers cannot be imported.
        ValueError: the prompt has no {}, or the folder holds another model.
    """

    def __init__(self, folder: str | os.PathLike[str], prompt: str = PROMPT) -> None:
        if prompt.count("{}") != 1:
            raise ValueError(f"prompt is {prompt!r}; expected one {{}}, for the class's name")
        path = find_clip(folder)
        try:
            from transformers import CLIPModel, CLIPTokenizer
        except (ImportError, RuntimeError) as error:
            raise BackendMissingError(f"{_INSTALL} ({error})") from error
        try:
            self._model = CLIPModel.from_pretrained(str(path), local_files_only=True).eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no CLIP model that transformers reads: {str(error)[:200]}") from error
        self._prompt = prompt
        self._side = int(self._model.config.vision_config.image_size)

    def __call__(self, images: Image8, names: Sequence[str], progress: Progress | None = None) -> Floats:
        """Scores (N), 0..100, of images (N, H, W, 3) uint8 that show the classes `names`."""
        if len(names) != len(images):
            raise ValueError(f"names has {len(names)} entries; expected one for each of {len(images)} images")
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        scores = np.empty(len(images))
        for start in range(0, len(images), _BATCH):
            batch, called = images[start : start + _BATCH], names[start : start + _BATCH]
            distinct = sorted(set(called))
            text: Any = self._tokenizer(
                [self._prompt.format(name) for name in distinct], padding=True, truncation=True, return_tensors="pt"
            )
            pixels = torch.from_numpy(resize(batch, self._side).copy()).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                found = self._model(
                    input_ids=text["input_ids"], attention_mask=text["attention_mask"],
                    pixel_values=(pixels - mean) / deviation,
                )  # fmt: skip
            seen, said = (torch.nn.functional.normalize(x, dim=-1) for x in (found.image_embeds, found.text_embeds))
            cosine = (seen * said[[distinct.index(name) for name in called]]).sum(-1)
            scores[start : start + len(batch)] = 100 * cosine.clamp(min=0).double().numpy()
            if progress is not None:
                progress("scoring with CLIP", min(start + _BATCH, len(images)), len(images))
        return scores


def find_clip(folder: str | os.PathLike[str]) -> Path:
    """The folder, if it holds what a CLIP model consists of. Raises FileNotFoundError with all that is missing."""
    path = Path(folder)
    missing = [name for name in FILES if not (path / name).is_file()]
    if not any((path / name).is_file() for name in WEIGHT_FILES):
        missing.append(" or ".join(WEIGHT_FILES))
    if missing:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}; {_WHERE}")
    return path
