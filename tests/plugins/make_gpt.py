"""Bundles of Transformers with random weights, and PyTorch's answers, for gpt_proof.sh.

    python tests/plugins/make_gpt.py OUT [--models tiny b] [--tokens 256]

Writes OUT/tiny-primitive and OUT/tiny-plugin-fused (float32), OUT/tiny_tokens.npz, what ONNX Runtime draws with them,
and for each of b, l and xl OUT/gpt_<name> (plugin-fused, float16 with float16 states, the published sizes and
tokenizer's). OUT/<name>.npz is as make_reference.py's: labels, tokens, logits with these forced, and every cache after
the last step, in float32 with TF32 off, on the GPU where there is one. The weights are of one seed; the speed does not
depend on them. Only the tiny model needs onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from aim_edge.aim import Checkpoint, GptConfig, GptModel, VqConfig, VqModel
from aim_edge.export import export_bundle
from aim_edge.export.states import reference_steps, to_snapshot
from aim_edge.runtime import Generator

TINY = GptConfig(d_model=64, n_layer=2, nheads=4, vocab_size=48, num_classes=5, num_tokens=25)
TINY_VQ = VqConfig(n_embed=48, ch=32, ch_mult=(1, 2), z_channels=32, num_res_blocks=1)
BATCH, IMAGES, SEED = 2, 64, 7


def checkpoint(name: str, tokens: int) -> Checkpoint:
    """A model in which every weight matters: a fresh head is zero, and a fresh tiny model's attention all but even."""
    torch.manual_seed(0)
    tiny = name == "tiny"
    model = GptModel(TINY if tiny else GptConfig.preset(name, num_tokens=tokens)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif tiny:
                parameter.normal_(0, 1.0 if "embedding" in key else 0.2)
        if not tiny:
            model.output.weight.normal_(0, 0.02)
    vq = VqModel(TINY_VQ if tiny else VqConfig()).eval()
    return Checkpoint(model, vq, None, {}, f"random GPT-{name}", "0" * 64)


@torch.inference_mode()
def reference(model: GptModel) -> dict[str, np.ndarray]:
    """Forced decoding, one step at a time."""
    config, rng = model.config, np.random.default_rng(3)
    labels = rng.integers(0, config.num_classes, BATCH)
    tokens = rng.integers(0, config.vocab_size, (BATCH, config.num_tokens)).astype(np.int32)
    logits = []
    for step, caches in reference_steps(model, labels, tokens):
        logits.append(step)
        last = caches
    return {"labels": labels, "tokens": tokens, "logits": np.stack(logits), **to_snapshot(last)}


def drawn(bundle: Path) -> dict[str, np.ndarray]:
    """What ONNX Runtime draws, for engines_proof.py's part `tokens`."""
    with Generator.open(bundle, backend="ort-cpu") as generator:
        ids = np.arange(IMAGES) % generator.dims.num_classes
        _, tokens = generator.generate(ids, seed=SEED)
    return {"ids": ids, "tokens": tokens, "seed": np.array(SEED)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=["tiny", "b"])
    parser.add_argument("--tokens", type=int, default=256, help="codes of an image, but the tiny model's")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        start, made = time.perf_counter(), checkpoint(name, options.tokens)
        if name == "tiny":
            for lowering in ("primitive", "plugin-fused"):
                export_bundle(made, options.out / f"tiny-{lowering}", lowering=lowering, overwrite=True)
            np.savez(options.out / "tiny_tokens.npz", **drawn(options.out / "tiny-primitive"))
        else:
            export_bundle(
                made, options.out / f"gpt_{name}", lowering="plugin-fused", precision="float16", state_dtype="float16",
                fused_convolutions=True, overwrite=True,
            )  # fmt: skip
        model = made.aim.to(device)
        if not isinstance(model, GptModel):
            raise TypeError(f"{name} is a {type(model).__name__}; expected a GptModel")
        np.savez(options.out / f"{name}.npz", **reference(model))
        sys.stdout.write(f"{name}: {time.perf_counter() - start:.1f} s\n")


if __name__ == "__main__":
    main()
