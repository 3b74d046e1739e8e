"""Trains a small Transformer on the demo's codes, to compare the demo with: its pictures, its tokenizer, its recipe.

Use: `python -m aim_edge.aim.train_gpt DATA.npz OUT`, DATA.npz being what `python -m aim_edge.aim.demo_data` wrote.
Only the model that draws the codes differs from the demo (aim/train.py): the tokenizer is the demo's as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import load_checkpoint
from .gpt import Attention, FeedForward, GptModel
from .gpt_config import GptConfig
from .model import AimModel
from .train import TrainOptions, count_parameters, draw_pictures, half, set_fast
from .train_aim import AimOptions, Model, evaluate_aim, train_aim
from .train_data import DemoData
from .vq import VqModel

log = logging.getLogger(__name__)

_PROBE = 30  # steps
_STEPS = 2658  # as many as the demo's AiM had
_MARGIN = 0.9  # of the seconds given; the rest is for looking at the held-out pictures


@dataclass(frozen=True)
class GptTrainOptions:
    """A whole run.

    Attributes:
        config: the model; codes, vocabulary and classes are taken from the tokenizer and the data.
        training: how it is trained, as AiM is.
        dropout: of the embedded codes and of what attention and MLP add; the published training's rates.
        seconds: training may take; the steps are then as many as fit, `training.steps` at most. None: all of them.
        seed: of weights, batches and the grid.
    """

    config: GptConfig = field(default_factory=lambda: GptConfig.preset("demo"))
    training: AimOptions = field(default_factory=lambda: AimOptions(steps=_STEPS))
    dropout: float = 0.1
    seconds: float | None = None
    seed: int = 0


@contextlib.contextmanager
def dropped(model: GptModel, rate: float) -> Iterator[None]:
    """Drops shares of a model's inner outputs while it is in training mode, and leaves it as it was."""

    def drop(module: nn.Module, given: object, output: Tensor) -> Tensor:
        return F.dropout(output, rate, module.training)

    inner = [module for module in model.modules() if isinstance(module, (Attention, FeedForward))]
    handles = [module.register_forward_hook(drop) for module in (model.tok_embeddings, *inner)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(data_path: Path, out: Path, options: GptTrainOptions, device: torch.device) -> dict[str, Any]:
    """Trains and writes the checkpoint, its figures and its pictures into `out`.

    Args:
        data_path: the .npz of `demo_data`.
        out: a folder, made if missing. model.safetensors (float16, the published LlamaGen keys, without the tokenizer,
            which is the demo's), config.json, metrics.json, grid.png.
        options: sizes and schedule.
        device: where to train.

    Returns:
        What metrics.json holds; "aim" are the demo's own held-out figures, computed here on the same codes.

    Raises:
        ValueError: the data's classes are not the demo's, or its pictures do not give a square of codes.
    """
    from safetensors.torch import save_file

    start = time.perf_counter()
    data, demo = DemoData.load(data_path, device), load_checkpoint("demo")
    if demo.class_names != data.class_names:
        raise ValueError(f"{data_path} has the classes {data.class_names}; the demo's are {demo.class_names}")
    vq, aim = demo.vq.to(device), cast(AimModel, demo.aim).to(device)
    config = replace(
        options.config, vocab_size=vq.config.n_embed, num_classes=len(data.class_names),
        num_tokens=(data.images.shape[-1] // vq.config.downsample) ** 2,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    set_fast(True)
    training = options.training
    if options.seconds is not None:
        training = replace(training, steps=_steps_in(options.seconds, config, options, vq, data))
    torch.manual_seed(options.seed + 1)
    model = GptModel(config).to(device)
    shown = {"class_names": list(data.class_names), "sampling": demo.sampling, "tokenizer": "demo"}
    (out / "config.json").write_text(json.dumps(config.to_published() | shown, indent=2) + "\n", encoding="utf-8")

    def save(one: Model) -> None:
        state = {name: half(value) for name, value in one.state_dict().items()}
        save_file(state, out / "model.safetensors", metadata={"format": "pt"})

    with dropped(model, options.dropout):
        record = train_aim(model, vq, data, training, on_best=save)
    save(model)

    log.info("figures of the saved file")
    set_fast(False)
    model.load_published({name: half(value).to(device) for name, value in model.state_dict().items()})
    found, theirs = evaluate_aim(model, vq, data), evaluate_aim(aim, vq, data)
    size = (out / "model.safetensors").stat().st_size
    metrics: dict[str, Any] = {
        "gpt": record | {"held_out": found, "dropout": options.dropout},
        "aim": {"held_out": theirs},
        "parameters": {"gpt": count_parameters(model), "aim": count_parameters(aim)},
        "bytes": size,
        "seed": options.seed,
        "seconds": time.perf_counter() - start,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "data": data_path.name,
    }
    pictures = TrainOptions(
        seed=options.seed, guidance=demo.sampling["guidance_scale"], top_p=demo.sampling["top_p"], more_guidance=()
    )
    draw_pictures(out, model, vq, data, pictures)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    log.info(
        "held-out cross-entropy %.3f nats a code (AiM of the demo: %.3f), %.1f%% below the unigram entropy %.3f; "
        "%.2f M parameters (%.2f M); %.2f MB; %.0f s", found["cross_entropy"], theirs["cross_entropy"],
        100 * found["below_unigram"], found["unigram_entropy"], count_parameters(model) / 1e6,
        count_parameters(aim) / 1e6, size / 1e6, time.perf_counter() - start,
    )  # fmt: skip
    return metrics


def _steps_in(seconds: float, config: GptConfig, options: GptTrainOptions, vq: VqModel, data: DemoData) -> int:
    """Steps that so many seconds hold here, after a warm-up of as many as are timed."""
    torch.manual_seed(options.seed)
    model, probe = GptModel(config).to(data.images.device), replace(options.training, steps=_PROBE)
    with dropped(model, options.dropout):
        train_aim(model, vq, data, probe, evaluate=False)
        taken = float(train_aim(copy.deepcopy(model), vq, data, probe, evaluate=False)["seconds"])
    steps = max(1, min(options.training.steps, int(_MARGIN * seconds * _PROBE / taken)))
    log.info("%.1f steps a second: %d of at most %d steps", _PROBE / taken, steps, options.training.steps)
    return steps


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, GptTrainOptions]:
    """The command line, as options."""
    defaults = GptTrainOptions()
    parser = argparse.ArgumentParser(
        prog="python -m aim_edge.aim.train_gpt", description="train a Transformer on the demo's codes"
    )
    parser.add_argument("data", type=Path, help="the .npz of aim_edge.aim.demo_data")
    parser.add_argument("out", type=Path, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=defaults.training.steps)
    parser.add_argument("--seconds", type=float, help="train no longer: fewer steps where they would not fit")
    parser.add_argument("--batch", type=int, default=defaults.training.batch)
    parser.add_argument("--rate", type=float, default=defaults.training.rate)
    parser.add_argument("--weight-decay", type=float, default=defaults.training.weight_decay)
    parser.add_argument("--dropout", type=float, default=defaults.dropout)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found = parser.parse_args(arguments)
    training = replace(
        defaults.training, steps=found.steps, batch=found.batch, rate=found.rate, weight_decay=found.weight_decay
    )
    return found, replace(
        defaults, training=training, dropout=found.dropout, seconds=found.seconds, seed=found.seed
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains as the command line says."""
    found, options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run(found.data, found.out, options, torch.device(found.device))


if __name__ == "__main__":
    main()
