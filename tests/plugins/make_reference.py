"""Bundles and PyTorch's answers for the proofs on a GPU machine.

    python tests/plugins/make_reference.py OUT [--models demo aim_b] [--steps 256]

Writes OUT/<model>-<lowering>-<precision>/ (bundles) and OUT/<model>.npz: labels (B), tokens (B, T), logits
(T, 2B, V) float32 before guidance with those tokens forced, and every state after the last step, canonical. The
reference is float32 with TF32 off, on the GPU where there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from aim_edge.aim import AimModel, Checkpoint, load_checkpoint
from aim_edge.export import export_bundle
from golden.cases import load_case

BATCH = 2


def checkpoint(name: str) -> Checkpoint:
    return load_checkpoint("demo") if name == "demo" else load_case(name).checkpoint()


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
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for name in options.models:
        start = time.perf_counter()
        loaded = checkpoint(name)
        for lowering in options.lowerings:
            for precision in options.precisions:
                out = options.out / f"{name}-{lowering}-{precision}"
                export_bundle(loaded, out, lowering=lowering, precision=precision, overwrite=True)
        model = loaded.aim.to("cuda" if torch.cuda.is_available() else "cpu")
        np.savez(options.out / f"{name}.npz", **reference(model, options.steps))
        sys.stdout.write(f"{name}: {time.perf_counter() - start:.1f} s\n")


if __name__ == "__main__":
    main()
