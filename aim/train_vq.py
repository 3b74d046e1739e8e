"""Training the demo's VQ tokenizer. No pretrained network is used: pixels, their gradients, several scales."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .train_data import Augmentation, DemoData, cosine_rate, half_where_fast, psnr, to_bytes, to_unit
from .vq import VqConfig, VqModel

log = logging.getLogger(__name__)

DEMO_VQ = VqConfig(n_embed=512, embed_dim=8, z_channels=64, ch=32, ch_mult=(1, 2, 3), num_res_blocks=2, norm_groups=8)


@dataclass(frozen=True)
class VqOptions:
    """How the tokenizer is trained.

    Attributes:
        steps, batch: optimizer steps, and pictures in each.
        rate, warmup: peak learning rate, and steps to reach it.
        commitment: weight of the commitment loss.
        decay: of the moving averages that the codebook is made of (arXiv 1711.00937, appendix A.1).
        revive_every, revive_until: a dead code takes a feature of the batch every so many steps, up to this
            share of the run.
        clip: largest norm of the gradient.
        compile: use torch.compile.
    """

    steps: int = 6000
    batch: int = 192
    rate: float = 1e-3
    warmup: int = 200
    commitment: float = 0.5
    decay: float = 0.99
    revive_every: int = 50
    revive_until: float = 0.7
    clip: float = 1.0
    compile: bool = False
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(hue=25.0, gain=0.15))


class CodebookAverage:
    """The codebook as moving averages of the features that chose each code, kept on the unit sphere."""

    def __init__(self, model: VqModel, decay: float) -> None:
        self.weight = model.quantize.embedding.weight
        self.weight.requires_grad_(False)
        self.decay = decay
        self.counts = torch.ones(len(self.weight), device=self.weight.device)
        self.sums = F.normalize(self.weight.detach(), dim=-1).clone()

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Puts every code on a feature (M, D) of the first batch."""
        picked = torch.randint(len(features), (len(self.weight),), device=features.device)
        self.sums = features[picked] + 0.01 * torch.randn_like(self.sums)
        self.weight.copy_(F.normalize(self.sums, dim=-1))

    @torch.no_grad()
    def update(self, features: Tensor, codes: Tensor) -> None:
        """Moves the codes towards the unit features (M, D) that chose them; codes (M,)."""
        counts = torch.bincount(codes, minlength=len(self.counts)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, features)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.weight.copy_(F.normalize(self.sums, dim=-1))

    @torch.no_grad()
    def revive(self, features: Tensor, least: float) -> None:
        """Gives every code that is chosen fewer than `least` times a batch a random feature of this one."""
        dead = self.counts < least
        picked = features[torch.randint(len(features), (len(dead),), device=features.device)]
        self.sums = torch.where(dead[:, None], picked * least, self.sums)
        self.counts = torch.where(dead, torch.full_like(self.counts, least), self.counts)
        self.weight.copy_(F.normalize(self.sums, dim=-1))


def reconstruction_loss(found: Tensor, expected: Tensor) -> Tensor:
    """L1 and L2 of the pixels, and L1 of their differences along both axes at three scales."""
    loss = F.l1_loss(found, expected) + F.mse_loss(found, expected)
    for scale in range(3):
        if scale:
            found, expected = F.avg_pool2d(found, 2), F.avg_pool2d(expected, 2)
            loss = loss + 0.5 * F.l1_loss(found, expected)
        for axis in (2, 3):
            loss = loss + 0.5 * F.l1_loss(found.diff(dim=axis), expected.diff(dim=axis))
    return loss


def train_vq(model: VqModel, data: DemoData, options: VqOptions, *, evaluate: bool = True) -> dict[str, Any]:
    """Trains `model` in place on all training pictures, with or without a class.

    Returns:
        curve (a list of step, loss and held-out PSNR in dB), steps, seconds.
    """
    device = data.images.device
    rows = data.rows(held_out=False, classed=False)
    chance = data.weights[rows]
    held_out = data.rows(held_out=True, classed=False)
    codebook = CodebookAverage(model, options.decay)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.rate, betas=(0.9, 0.95), weight_decay=1e-4, fused=device.type == "cuda"
    )
    if options.compile:
        model.encoder.compile()
        model.decoder.compile()
    curve: list[dict[str, float]] = []
    model.train()
    start = time.perf_counter()
    every = max(1, options.steps // 20)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * cosine_rate(step, options.steps, options.warmup)
        picked = rows[torch.multinomial(chance, options.batch, replacement=True)]
        images = options.augmentation(to_unit(data.images[picked]), data.flippable[picked])
        with half_where_fast(device):
            features = model.encode_features(images)
        unit = F.normalize(features.detach().float(), dim=1).permute(0, 2, 3, 1).flatten(0, 2)
        if step == 0:
            codebook.start(unit)
        quantised = model.quantise(features.float())
        with half_where_fast(device):
            found = model.decode_features(quantised.embedded)
        loss = reconstruction_loss(found.float(), images) + options.commitment * quantised.commitment_loss
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        optimizer.step()
        codebook.update(unit, quantised.codes.flatten())
        if step % options.revive_every == options.revive_every - 1 and step < options.revive_until * options.steps:
            codebook.revive(unit, least=1.0)
        if evaluate and (step % every == every - 1 or step == options.steps - 1):
            found_now = evaluate_vq(model, data, held_out)
            point = {"step": step + 1, "loss": float(loss.detach()), "held_out_psnr": found_now["psnr"]}
            curve.append(point)
            log.info(
                "VQ %5d/%d  loss %.4f  held-out PSNR %.2f dB  %.0f codes used  %.1f it/s",
                step + 1, options.steps, point["loss"], point["held_out_psnr"], found_now["codes_used"],
                (step + 1) / (time.perf_counter() - start),
            )  # fmt: skip
            model.train()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    model.eval()
    return {"curve": curve, "steps": options.steps, "seconds": time.perf_counter() - start}


@torch.no_grad()
def encode_rows(model: VqModel, data: DemoData, rows: Tensor, batch: int = 512) -> Tensor:
    """Codes int64 (M, T) of the pictures `rows` as they are, in float32."""
    return torch.cat([model.encode(to_unit(data.images[part])).flatten(1) for part in torch.split(rows, batch)])


@torch.inference_mode()
def reconstruct(model: VqModel, data: DemoData, rows: Tensor, batch: int = 512) -> Tensor:
    """The pictures `rows` after encoding and decoding: uint8 (M, 3, H, W), in float32 inside."""
    parts = [to_bytes(model.decode(model.encode(to_unit(data.images[part])))) for part in torch.split(rows, batch)]
    return torch.cat(parts)


def evaluate_vq(model: VqModel, data: DemoData, rows: Tensor) -> dict[str, float]:
    """Reconstruction figures of `rows`, each emoji counting once.

    Returns:
        psnr: mean of the pictures' PSNRs in dB; psnr_pooled: PSNR of the mean squared error, which hard
        pictures dominate; psnr_worst: of the worst picture; codes_used: distinct codes.
    """
    model.eval()
    found, expected, weights = reconstruct(model, data, rows), data.images[rows], data.weights[rows]
    each, weights = psnr(found, expected), weights / weights.sum()
    pooled = (weights * 10.0 ** (-each / 10.0)).sum()
    codes = encode_rows(model, data, rows)
    return {
        "psnr": float((weights * each).sum()),
        "psnr_pooled": float(-10.0 * torch.log10(pooled)),
        "psnr_worst": float(each.min()),
        "codes_used": float(len(torch.unique(codes))),
    }
