"""A bundle of random weights: any published size, AiM or Transformer, any number of codes, without a checkpoint.

    python benchmarks/random_bundle.py --family aim|gpt --preset B|L|XL --codes 256|576|1024|4096 OUT
        [--lowering primitive] [--precision float16] [--state-dtype float16] [--vq tiny|f16]
        [--lazy-states] [--weights int8] [--fused-convolutions]

Speed and memory do not depend on the weights' values, pictures do: there are none to look at. The tokenizer has 16
pixels a code along a side, so that 1024 codes are 512 x 512 pixels; "tiny" has the published vocabulary and few
channels, "f16" the published sizes. `aim-edge bench` and `aim-edge ab` measure such a bundle like any other.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aim_edge.aim import AimConfig, AimModel, Checkpoint, GptConfig, GptModel, VqConfig, VqModel
from aim_edge.export import export_bundle

log = logging.getLogger(__name__)

FAMILIES = {"aim": "AiM", "gpt": "GPT"}
VQ = ("tiny", "f16")


def random_model(family: str, preset: str, codes: int, seed: int = 0) -> AimModel | GptModel:
    """A model of random weights, with nothing left at zero that would shut a layer or make all codes alike.

    Args:
        family: of `FAMILIES`.
        preset: of the family's configuration.
        codes: of an image, a square.
        seed: of the weights.

    Raises:
        ValueError: an unknown family or preset.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; allowed: {', '.join(FAMILIES)}")
    torch.manual_seed(seed)
    model: AimModel | GptModel
    if family == "aim":
        model = AimModel(AimConfig.preset(preset, num_tokens=codes))
    else:
        model = GptModel(GptConfig.preset(preset, num_tokens=codes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaln" in name.lower() or name == "output.weight":  # modulation and head start at zero
                parameter.normal_(0, 0.02)
    return model.eval()


def random_vq(kind: str, vocab_size: int) -> VqModel:
    """A tokenizer of random weights with 16 pixels a code. Raises ValueError for a kind that is not of `VQ`."""
    if kind not in VQ:
        raise ValueError(f"vq is {kind!r}; allowed: {', '.join(VQ)}")
    tiny = VqConfig(vocab_size, z_channels=32, ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1)
    return VqModel(tiny if kind == "tiny" else VqConfig(vocab_size)).eval()


def write_random_bundle(
    out: Path, family: str, preset: str, codes: int, *, lowering: str = "primitive", precision: str = "float16",
    state_dtype: str = "float16", vq: str = "tiny", seed: int = 0, **options: Any,
) -> Path:  # fmt: skip
    """Writes the bundle, in place of one that is there; `export_bundle` takes the options and says what it refuses."""
    model = random_model(family, preset, codes, seed)
    source = f"random {FAMILIES[family]}-{preset}, {codes} codes, seed {seed}"
    checkpoint = Checkpoint(model, random_vq(vq, model.config.vocab_size), None, {}, source, "0" * 64)
    return export_bundle(
        checkpoint, out, lowering=lowering, precision=precision, state_dtype=state_dtype, overwrite=True, **options
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes what the command line asks for and says what it is."""
    parser = argparse.ArgumentParser(description="write a bundle of random weights")
    parser.add_argument("out", type=Path, help="the bundle's folder; one that is there is replaced")
    parser.add_argument("--family", choices=list(FAMILIES), required=True)
    parser.add_argument("--preset", default="B", help="of the family: B, L, XL; AiM has 1B too")
    parser.add_argument("--codes", type=int, default=256, help="of an image, a square such as 256 or 4096")
    parser.add_argument("--lowering", default="primitive")
    parser.add_argument("--precision", default="float16")
    parser.add_argument("--state-dtype", default="float16")
    parser.add_argument("--vq", choices=VQ, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lazy-states", action="store_true")
    parser.add_argument("--fused-convolutions", action="store_true")
    parser.add_argument("--weights", choices=["int8", "int4"])
    found = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    begin = time.perf_counter()
    path = write_random_bundle(
        found.out, found.family, found.preset, found.codes, lowering=found.lowering, precision=found.precision,
        state_dtype=found.state_dtype, vq=found.vq, seed=found.seed, lazy_states=found.lazy_states,
        fused_convolutions=found.fused_convolutions, weights=found.weights,
    )  # fmt: skip
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    log.info("%s: %.0f MB in %.1f s", path, size / 1e6, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
