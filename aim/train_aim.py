"""Training the demo's AiM, or a Transformer, on the tokenizer's codes, and a plain sampler to see what it learned."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import scan
from .gpt import GptModel
from .model import AimModel
from .train_data import Augmentation, DemoData, cosine_rate, entropy, half_where_fast, to_bytes, to_unit
from .train_vq import encode_rows
from .vq import VqModel

log = logging.getLogger(__name__)

Model = AimModel | GptModel
_NO_DECAY = ("A_log", "dt_bias", ".D", "norm", "embed", "scale_shift_table", "conv1d", "bias")


@dataclass(frozen=True)
class AimOptions:
    """How AiM, or a Transformer, is trained.

    Attributes:
        steps, batch: optimizer steps, and pictures in each.
        rate, warmup: peak learning rate, and steps to reach it.
        weight_decay: of matrices; not of A_log, dt_bias, D, norms, convolutions, tables and biases.
        label_drop: share of pictures that carry the null class (guidance needs it).
        unclassed: share of pictures without a class, which carry the null class too.
        ema: decay of the moving average of the weights, which is what is kept.
        clip: largest norm of the gradient.
        scan_chunk: longest piece that the scan handles at once; the result is the same, memory and time are not.
        compile: use torch.compile.
    """

    steps: int = 8000
    batch: int = 128
    rate: float = 1.5e-3
    warmup: int = 300
    weight_decay: float = 0.1
    label_drop: float = 0.1
    unclassed: float = 0.15
    ema: float = 0.999
    clip: float = 1.0
    scan_chunk: int = 64
    compile: bool = False
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(0.25, 0.35, 0.5, shift=2, zoom=0.06, turn=4.0, hue=10.0, gain=0.08)
    )


def _optimizer(model: Model, options: AimOptions, fused: bool) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if any(part in name for part in _NO_DECAY) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95), fused=fused)


class Batches:
    """Augmented pictures, encoded as they are drawn."""

    def __init__(self, vq: VqModel, data: DemoData, options: AimOptions) -> None:
        self.vq, self.data, self.options = vq, data, options
        classed = data.rows(held_out=False)
        free = data.rows(held_out=False, classed=False)
        free = free[data.labels[free] < 0]
        share = options.unclassed if len(free) else 0.0
        weights = data.weights[free]
        self.rows = torch.cat([classed, free])
        self.chance = torch.cat([data.balanced(classed) * (1 - share), weights / weights.sum() * share])

    @torch.no_grad()
    def draw(self) -> tuple[Tensor, Tensor]:
        """labels (B,), some of them null, and codes (B, T)."""
        data, count = self.data, self.options.batch
        picked = self.rows[torch.multinomial(self.chance, count, replacement=True)]
        images = self.options.augmentation(to_unit(data.images[picked]), data.flippable[picked])
        labels = data.labels[picked]
        null = (torch.rand(count, device=labels.device) < self.options.label_drop) | (labels < 0)
        return torch.where(null, len(data.class_names), labels), self.vq.encode(images).flatten(1)


def _average(averaged: Model, model: Model, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1.0 - decay)


@torch.no_grad()
def cross_entropies(model: Model, labels: Tensor, codes: Tensor, batch: int = 64) -> Tensor:
    """Mean nats a code (M,) of each row of codes (M, T) under the model, in float32."""
    parts = []
    for label, code in zip(torch.split(labels, batch), torch.split(codes, batch), strict=True):
        logits = model.teacher_forced(label, code)
        parts.append(F.cross_entropy(logits.transpose(1, 2), code, reduction="none").mean(dim=1))
    return torch.cat(parts)


def train_aim(
    model: Model,
    vq: VqModel,
    data: DemoData,
    options: AimOptions,
    *,
    evaluate: bool = True,
    on_best: Callable[[Model], None] | None = None,
) -> dict[str, Any]:
    """Trains `model` and leaves in it the averaged weights with the best held-out cross-entropy.

    Args:
        model: starts as it is.
        vq: the trained tokenizer, not changed.
        data: the pictures.
        options: how.
        evaluate: whether to look at the held-out pictures (a probe does not); without, the last average is kept.
        on_best: called with the averaged model at every new best.

    Returns:
        curve (a list of step, training loss and held-out cross-entropy in nats a code), best_step, steps,
        seconds.
    """
    device = data.images.device
    old_chunk, scan.CHUNK = scan.CHUNK, options.scan_chunk
    try:
        return _train(model, vq, data, options, evaluate, on_best, device)
    finally:
        scan.CHUNK = old_chunk


def _train(
    model: Model,
    vq: VqModel,
    data: DemoData,
    options: AimOptions,
    evaluate: bool,
    on_best: Callable[[Model], None] | None,
    device: torch.device,
) -> dict[str, Any]:
    vq.eval()
    held_out = data.rows(held_out=True)
    held_labels, held_codes = data.labels[held_out], encode_rows(vq, data, held_out)
    share = data.weights[held_out] / data.weights[held_out].sum()
    batches, optimizer = Batches(vq, data, options), _optimizer(model, options, fused=device.type == "cuda")
    averaged = copy.deepcopy(model).eval()
    forward = torch.compile(model.teacher_forced) if options.compile else model.teacher_forced
    curve: list[dict[str, float]] = []
    best, best_step, best_state = float("inf"), options.steps, None
    every = max(1, options.steps // 40)
    model.train()
    start = time.perf_counter()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * cosine_rate(step, options.steps, options.warmup, floor=0.02)
        labels, codes = batches.draw()
        with half_where_fast(device):
            logits = forward(labels, codes)
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        _average(averaged, model, min(options.ema, (1 + step) / (10 + step)))
        if evaluate and (step % every == every - 1 or step == options.steps - 1):
            found = float((share * cross_entropies(averaged, held_labels, held_codes)).sum())
            curve.append({"step": step + 1, "loss": float(loss.detach()), "held_out_ce": found})
            if found < best:
                best, best_step = found, step + 1
                best_state = {k: v.detach().clone() for k, v in averaged.state_dict().items()}
                if on_best is not None:
                    on_best(averaged)
            name = "AiM" if isinstance(model, AimModel) else "GPT"
            log.info(
                "%s %5d/%d  loss %.3f  held-out %.3f nats a code (best %.3f at %d)  %.1f it/s",
                name, step + 1, options.steps, curve[-1]["loss"], found, best, best_step,
                (step + 1) / (time.perf_counter() - start),
            )  # fmt: skip
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    model.load_state_dict(averaged.state_dict() if best_state is None else best_state)
    model.eval()
    return {"curve": curve, "best_step": best_step, "steps": options.steps, "seconds": seconds}


def evaluate_aim(model: Model, vq: VqModel, data: DemoData) -> dict[str, Any]:
    """Held-out figures in nats a code, each emoji counting once (its variants share its weight).

    Returns:
        cross_entropy; unigram_entropy of the same held-out codes, the frequencies taken from these very codes;
        below_unigram, the share by which the first is below the second; cross_entropy_unweighted, every
        picture counting once; by_class; train_cross_entropy of as many training pictures.
    """
    held_out, train = data.rows(held_out=True), data.rows(held_out=False)
    codes, labels = encode_rows(vq, data, held_out), data.labels[held_out]
    weights = data.weights[held_out] / data.weights[held_out].sum()
    each = cross_entropies(model, labels, codes)
    found, unigram = float((weights * each).sum()), entropy(codes, weights, vq.config.n_embed)
    by_class = {}
    for i, name in enumerate(data.class_names):
        own = labels == i
        if own.any():
            by_class[name] = float((weights[own] * each[own]).sum() / weights[own].sum())
    some = train[torch.linspace(0, len(train) - 1, min(len(train), len(held_out)), device=train.device).long()]
    share = data.weights[some] / data.weights[some].sum()
    seen = cross_entropies(model, data.labels[some], encode_rows(vq, data, some))
    return {
        "cross_entropy": found,
        "unigram_entropy": unigram,
        "below_unigram": 1.0 - found / unigram,
        "cross_entropy_unweighted": float(each.mean()),
        "unigram_entropy_unweighted": entropy(codes, torch.ones_like(weights), vq.config.n_embed),
        "by_class": by_class,
        "train_cross_entropy": float((share * seen).sum()),
        "pictures": len(held_out),
    }


@torch.inference_mode()
def sample(
    model: Model, vq: VqModel, labels: Tensor, *, guidance: float, top_p: float, generator: torch.Generator
) -> Tensor:
    """Draws images step by step, with guidance and nucleus sampling.

    Args:
        model, vq: trained, in evaluation mode, on one device.
        labels: (B,) int64.
        guidance: uncond + (cond - uncond) * guidance; 1 is none.
        top_p: the least set of codes with this share of the probability is kept.
        generator: on the models' device.

    Returns:
        uint8 (B, 3, H, W).
    """
    count, total = len(labels), model.config.num_tokens
    condition: Any = model.condition(labels)  # each model's own, and so is the state
    state: Any = model.init_state(2 * count)
    token, drawn = torch.zeros_like(labels), []
    for t in range(total):
        logits, state = model.step(token, torch.full_like(labels, t), condition, state)
        cond, uncond = logits.chunk(2)
        chance, order = torch.softmax(uncond + (cond - uncond) * guidance, dim=-1).sort(dim=-1, descending=True)
        chance = chance.masked_fill(chance.cumsum(-1) - chance >= top_p, 0.0)  # the largest always stays
        token = order.gather(1, torch.multinomial(chance, 1, generator=generator)).squeeze(1)
        drawn.append(token)
    side = round(total**0.5)
    return to_bytes(vq.decode(torch.stack(drawn, dim=1).view(count, side, side)))
