"""Bundles and PyTorch's answers for the proofs on a GPU machine.

    python tests/plugins/make_reference.py OUT [--models demo aim_b] [--steps 256] [--half-states] [--vq-f16]

Writes OUT/<model>-<lowering>-<precision>/ (bundles) and OUT/<model>.npz: labels (B), tokens (B, T), logits
(T, 2B, V) float32 before guidance with those tokens forced, and every state after the last step, canonical. The
reference is float32 with TF32 off, on the GPU where there is one. With --half-states the float16 bundles have float16
states; with --vq-f16 models of as many codes have the published tokenizer's sizes, and OUT/vq.npz holds codes
(64, 16, 16), the first 8 images (8, 3, 256, 256), and what decoding in bfloat16 takes here, in milliseconds by batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from aim_edge.aim import AimModel, Checkpoint, load_checkpoint
from aim_edge.aim.vq import VqModel
from aim_edge.export import export_bundle
from golden import formula
from golden.cases import HERE, load_case

BATCH = 2
VQ_BATCHES, REPEATS = (1, 8, 64), 7


def checkpoint(name: str, vq: VqModel | None) -> Checkpoint:
    if name == "demo":
        return load_checkpoint("demo")
    made = load_case(name).checkpoint()
    return made if vq is None else replace(made, vq=vq)


def vq_f16() -> VqModel:
    """The published tokenizer's sizes with the golden weights."""
    with np.load(HERE / "vq_f16.npz") as file:
        keys = json.loads(str(file["keys"]))
    model = VqModel().eval()
    model.load_published({key: torch.from_numpy(formula.tensor(key, tuple(shape))) for key, shape in keys})
    return model


@torch.inference_mode()
def vq_reference(vq: VqModel, device: str) -> dict[str, np.ndarray]:
    codes = torch.from_numpy(np.random.default_rng(5).integers(0, vq.config.n_embed, (VQ_BATCHES[-1], 16, 16)))
    codes, vq = codes.to(device), vq.to(device)
    arrays = {"codes": codes.cpu().numpy().astype(np.int32), "images": vq.decode(codes[:8]).cpu().numpy()}
    if device == "cuda":
        vq = vq.to(torch.bfloat16)
        for batch in VQ_BATCHES:
            times = []
            for _ in range(REPEATS + 2):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                vq.decode(codes[:batch])
                torch.cuda.synchronize()
                times.append(1e3 * (time.perf_counter() - begin))
            arrays[f"bfloat16_ms_{batch}"] = np.array(statistics.median(times[2:]))
    return arrays


@torch.inference_mode()
def reference(model: AimModel, steps: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Forced decoding, one step at a time."""
    config, rng = model.config, np.random.default_rng(seed)
    labels = rng.integers(0, config.num_classes, BATCH)
    tokens = rng.integers(0, config.vocab_size, (BATCH, steps))
    given = torch.from_numpy(np.pad(tokens[:, :-1], ((0, 0), (1, 0)))).to(model.device)
    condition = model.condition(torch.from_numpy(labels).to(model.device))
    state = model.init_state(2 * BATCH)
    position = torch.zeros(BATCH, dtype=torch.int64, device=model.device)
    logits = []
    for t in range(steps):
        step, state = model.step(given[:, t], position + t, condition, state)
        logits.append(step.cpu())
    arrays = {"labels": labels, "tokens": tokens, "logits": torch.stack(logits).numpy()}
    for i, layer in enumerate(state):
        arrays |= {f"conv_state_{i}": layer.conv.cpu().numpy(), f"ssm_state_{i}": layer.ssm.cpu().numpy()}
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=["demo", "aim_b"])
    parser.add_argument("--lowerings", nargs="+", default=["primitive", "plugin", "plugin-fused"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "float16"])
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--half-states", action="store_true")
    parser.add_argument("--vq-f16", action="store_true")
    parser.add_argument("--fused-convolutions", action="store_true")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vq = vq_f16() if options.vq_f16 else None
    for name in options.models:
        start = time.perf_counter()
        loaded = checkpoint(name, vq)
        for lowering in options.lowerings:
            for precision in options.precisions:
                out = options.out / f"{name}-{lowering}-{precision}"
                states = "float16" if options.half_states and precision == "float16" else "float32"
                fused = options.fused_convolutions and (lowering, precision) == ("plugin-fused", "float16")
                export_bundle(
                    loaded, out, lowering=lowering, precision=precision, state_dtype=states, fused_convolutions=fused,
                    overwrite=True,
                )  # fmt: skip
        model = loaded.aim.to(device)
        np.savez(options.out / f"{name}.npz", **reference(model, options.steps))
        sys.stdout.write(f"{name}: {time.perf_counter() - start:.1f} s\n")
    if vq is not None:
        np.savez(options.out / "vq.npz", **vq_reference(vq, device))


if __name__ == "__main__":
    main()
