"""Trains the demo checkpoint: a small VQ tokenizer, then a small AiM on its codes.

Use: `python -m aim_edge.aim.train DATA.npz OUT`, DATA.npz being what `python -m aim_edge.aim.demo_data` wrote.
The schedule counts steps, so a run is the same on a slow and a fast GPU (but for the order in which a GPU adds).
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .checkpoint import load_checkpoint
from .config import AimConfig
from .model import AimModel
from .train_aim import AimOptions, Model, evaluate_aim, sample, train_aim
from .train_data import DemoData
from .train_vq import DEMO_VQ, VqOptions, evaluate_vq, reconstruct, train_vq
from .vq import VqConfig, VqModel

log = logging.getLogger(__name__)

SAMPLES = 4  # a class, in the grid


@dataclass(frozen=True)
class TrainOptions:
    """A whole run.

    Attributes:
        vq_config, aim_config: the two models; the number of classes is taken from the data.
        vq, aim: how each is trained.
        seed: of weights, batches and the grid.
        guidance, top_p: of the grid, and what the checkpoint recommends.
        more_guidance: further grids, to choose from.
    """

    vq_config: VqConfig = DEMO_VQ
    aim_config: AimConfig = field(default_factory=lambda: AimConfig.preset("demo", token_drop=0.1, mixer_drop=0.1))
    vq: VqOptions = field(default_factory=VqOptions)
    aim: AimOptions = field(default_factory=AimOptions)
    seed: int = 0
    guidance: float = 2.0
    top_p: float = 0.9
    more_guidance: tuple[float, ...] = (1.0, 3.0)


def run(
    data_path: Path, out: Path, options: TrainOptions, device: torch.device, vq_from: Path | None = None
) -> dict[str, Any]:
    """Trains both stages and writes the checkpoint, its figures and its pictures into `out`.

    Args:
        data_path: the .npz of `demo_data`.
        out: a folder, made if missing. model.safetensors (float16, keys mamba.* and vqvae.*), config.json,
            metrics.json, grid.png, recon.png; while training, vq.safetensors.
        options: sizes and schedule.
        device: where to train.
        vq_from: a safetensors file with a trained tokenizer, which is then not trained again.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: the data or the sizes do not fit.
    """
    from safetensors.torch import load_file, save_file

    start = time.perf_counter()
    data = DemoData.load(data_path, device)
    aim_config = replace(options.aim_config, num_classes=len(data.class_names))
    _check_sizes(options.vq_config, aim_config, data.images.shape[-1])
    out.mkdir(parents=True, exist_ok=True)
    set_fast(True)
    torch.manual_seed(options.seed)
    vq = VqModel(options.vq_config).to(device)
    if vq_from is None:
        vq_record = train_vq(vq, data, options.vq)
    else:
        vq.load_published(load_file(vq_from))
        vq_record = {"reused": True}
    _round_to_half(vq)  # AiM must see the codes of the weights that are saved
    vq_state = {f"vqvae.{k}": half(v) for k, v in vq.state_dict().items()}
    save_file(vq_state, out / "vq.safetensors")

    torch.manual_seed(options.seed + 1)  # so that a reused tokenizer gives the same second stage
    aim = AimModel(aim_config).to(device)
    published = aim_config.to_published() | {"vq": options.vq_config.to_dict(), "class_names": list(data.class_names)}
    published["sampling"] = {"guidance_scale": options.guidance, "temperature": 1.0, "top_k": 0, "top_p": options.top_p}
    (out / "config.json").write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")

    def save(model: Model) -> None:
        own = {f"mamba.{k}": half(v) for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
        save_file(own | vq_state, out / "model.safetensors", metadata={"format": "pt"})

    aim_record = train_aim(aim, vq, data, options.aim, on_best=save)
    save(aim)

    log.info("figures of the saved file")
    set_fast(False)
    loaded = load_checkpoint(out)
    aim, vq = cast(AimModel, loaded.aim).to(device), loaded.vq.to(device)
    classed, every = data.rows(held_out=True), data.rows(held_out=True, classed=False)
    vq_held, aim_held = evaluate_vq(vq, data, classed), evaluate_aim(aim, vq, data)
    metrics = {
        "vq": vq_record | {"held_out": vq_held, "held_out_with_unclassed": evaluate_vq(vq, data, every)},
        "aim": aim_record | {"held_out": aim_held},
        "parameters": {"vq": count_parameters(vq), "aim": count_parameters(aim)},
        "bytes": (out / "model.safetensors").stat().st_size,
        "seed": options.seed,
        "seconds": time.perf_counter() - start,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "data": data_path.name,
    }
    draw_pictures(out, aim, vq, data, options)
    _draw_reconstructions(out, vq, data)
    metrics["seconds_with_pictures"] = time.perf_counter() - start
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    log.info(
        "held-out PSNR %.2f dB (pooled %.2f); held-out cross-entropy %.3f nats a code, %.1f%% below the unigram "
        "entropy %.3f; %.2f MB; %.0f s", vq_held["psnr"], vq_held["psnr_pooled"], aim_held["cross_entropy"],
        100 * aim_held["below_unigram"], aim_held["unigram_entropy"], (out / "model.safetensors").stat().st_size / 1e6,
        time.perf_counter() - start,
    )  # fmt: skip
    return metrics


def probe(data_path: Path, options: TrainOptions, device: torch.device, steps: int = 30) -> dict[str, float]:
    """Steps a second of each stage, after a warm-up of as many, with no checkpoint written."""
    data = DemoData.load(data_path, device)
    set_fast(True)
    torch.manual_seed(options.seed)
    vq = VqModel(options.vq_config).to(device)
    aim = AimModel(replace(options.aim_config, num_classes=len(data.class_names))).to(device)
    found: dict[str, float] = {}

    def measure(name: str, stage: Callable[[], dict[str, Any]]) -> None:
        stage()  # warms up
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        found[f"{name}_steps_a_second"] = steps / float(stage()["seconds"])
        if device.type == "cuda":
            found[f"{name}_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        log.info("probe: %s", json.dumps(found))

    vq_options = replace(options.vq, steps=steps)
    measure("vq", lambda: train_vq(vq, data, vq_options, evaluate=False))
    for chunk in sorted({options.aim.scan_chunk, 64, 128, 256}):
        aim_options = replace(options.aim, steps=steps, scan_chunk=chunk)
        measure(f"aim_chunk_{chunk}", partial(train_aim, aim, vq, data, aim_options, evaluate=False))
    return found


def _check_sizes(vq: VqConfig, aim: AimConfig, side: int) -> None:
    tokens = (side // vq.downsample) ** 2
    bad = []
    if side % vq.downsample or tokens != aim.num_tokens:
        bad.append(f"pictures of {side} pixels give {tokens} codes, but num_tokens is {aim.num_tokens}")
    if vq.n_embed != aim.vocab_size:
        bad.append(f"n_embed is {vq.n_embed}, but vocab_size is {aim.vocab_size}")
    if bad:
        raise ValueError("; ".join(bad))


def set_fast(on: bool) -> None:
    """TF32 and autotuned convolutions for training; exact float32 for the figures."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cudnn.benchmark = on


def half(value: Tensor) -> Tensor:
    """As it is saved: float16, on the CPU."""
    return value.detach().half().contiguous().cpu()


def _round_to_half(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half())


def count_parameters(module: nn.Module) -> int:
    """Of all parameters, the numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def draw_pictures(out: Path, aim: Model, vq: VqModel, data: DemoData, options: TrainOptions) -> None:
    """Writes grid.png, a row of samples a class, and one for each of `options.more_guidance`."""
    labels = torch.arange(len(data.class_names), device=data.images.device).repeat_interleave(SAMPLES)
    for guidance in (options.guidance, *options.more_guidance):
        generator = torch.Generator(labels.device).manual_seed(options.seed)
        drawn = sample(aim, vq, labels, guidance=guidance, top_p=options.top_p, generator=generator)
        name = "grid.png" if guidance == options.guidance else f"grid_guidance_{guidance:g}.png"
        _tile(drawn.cpu(), SAMPLES, out / name)


def _draw_reconstructions(out: Path, vq: VqModel, data: DemoData) -> None:
    rows = data.rows(held_out=True)
    rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), 32), device=rows.device).long()]
    both = torch.cat([data.images[rows], reconstruct(vq, data, rows)])
    _tile(both.cpu(), len(rows), out / "recon.png")


def _tile(images: Tensor, columns: int, path: Path) -> None:
    """Writes uint8 (N, 3, H, W) row by row, a white pixel around each."""
    count, channels, height, width = images.shape
    framed = torch.full((count, channels, height + 2, width + 2), 255, dtype=torch.uint8)
    framed[:, :, 1:-1, 1:-1] = images
    grid = framed.view(count // columns, columns, channels, height + 2, width + 2).permute(0, 3, 1, 4, 2)
    Image.fromarray(grid.reshape(count // columns * (height + 2), columns * (width + 2), channels).numpy()).save(path)


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, TrainOptions]:
    """The command line, as options."""
    defaults = TrainOptions()
    parser = argparse.ArgumentParser(prog="python -m aim_edge.aim.train", description="train the demo checkpoint")
    parser.add_argument("data", type=Path, help="the .npz of aim_edge.aim.demo_data")
    parser.add_argument("out", type=Path, help="folder for the checkpoint")
    parser.add_argument("--vq-steps", type=int, default=defaults.vq.steps)
    parser.add_argument("--aim-steps", type=int, default=defaults.aim.steps)
    parser.add_argument("--vq-batch", type=int, default=defaults.vq.batch)
    parser.add_argument("--aim-batch", type=int, default=defaults.aim.batch)
    parser.add_argument("--vq-rate", type=float, default=defaults.vq.rate)
    parser.add_argument("--aim-rate", type=float, default=defaults.aim.rate)
    parser.add_argument("--weight-decay", type=float, default=defaults.aim.weight_decay)
    parser.add_argument("--token-drop", type=float, default=defaults.aim_config.token_drop)
    parser.add_argument("--mixer-drop", type=float, default=defaults.aim_config.mixer_drop)
    parser.add_argument("--scan-chunk", type=int, default=defaults.aim.scan_chunk)
    parser.add_argument("--guidance", type=float, default=defaults.guidance)
    parser.add_argument("--top-p", type=float, default=defaults.top_p)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--reuse-vq", type=Path, help="a safetensors file whose vqvae.* keys are used as they are")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--probe", action="store_true", help="30 steps of each stage: steps a second, nothing written")
    found = parser.parse_args(arguments)
    vq = replace(
        defaults.vq, steps=found.vq_steps, batch=found.vq_batch, rate=found.vq_rate, compile=found.compile,
    )  # fmt: skip
    aim = replace(
        defaults.aim, steps=found.aim_steps, batch=found.aim_batch, rate=found.aim_rate, compile=found.compile,
        weight_decay=found.weight_decay, scan_chunk=found.scan_chunk,
    )  # fmt: skip
    config = replace(defaults.aim_config, token_drop=found.token_drop, mixer_drop=found.mixer_drop)
    more = {"vq": vq, "aim": aim, "aim_config": config, "seed": found.seed}
    return found, replace(defaults, guidance=found.guidance, top_p=found.top_p, **more)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, or probes, as the command line says."""
    found, options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    device = torch.device(found.device)
    if found.probe:
        probe(found.data, options, device)
    else:
        run(found.data, found.out, options, device, found.reuse_vq)


if __name__ == "__main__":
    main()
