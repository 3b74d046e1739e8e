"""Bundles of the demo for validate_proof.sh: every lowering and precision that TensorRT takes, and a broken one.

    python tests/plugins/make_validate_bundles.py OUT [NAME...]

Writes OUT/<name>/, all or those named, and OUT/names.txt; names of bundles that must fail begin with "broken". Needs
PyTorch and onnx.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aim_edge.aim import AimModel, load_checkpoint
from aim_edge.export import export_bundle

REFERENCE = "reference"  # primitive in float32, which ONNX Runtime runs on the CPU
BROKEN_LAYER = 2
BUNDLES: dict[str, dict[str, Any]] = {
    "primitive-float32": {"lowering": "primitive"},
    "primitive-float16": {"lowering": "primitive", "precision": "float16"},
    "primitive-float16-kept": {"lowering": "primitive", "precision": "float16", "keep_float32": (0, 3)},
    "plugin-float32": {"lowering": "plugin"},
    "plugin-float16": {"lowering": "plugin", "precision": "float16", "state_dtype": "float16"},
    "plugin-float16-kept": {"lowering": "plugin", "precision": "float16", "keep_float32": (0, 3)},
    "fused-float32": {"lowering": "plugin-fused"},
    "fused-float16": {"lowering": "plugin-fused", "precision": "float16", "state_dtype": "float16"},
    "fused-float16-conv": {"lowering": "plugin-fused", "precision": "float16", "fused_convolutions": True},
    "fused-float32-lazy": {"lowering": "plugin-fused", "lazy_states": True},
    "fused-float16-lazy": {
        "lowering": "plugin-fused", "precision": "float16", "state_dtype": "float16", "lazy_states": True,
    },
    "fused-int8": {"lowering": "plugin-fused", "precision": "float16", "state_dtype": "float16", "weights": "int8"},
    "fused-int4": {"lowering": "plugin-fused", "precision": "float16", "state_dtype": "float16", "weights": "int4"},
    "layers-float32": {"lowering": "plugin-layers"},
    "layers-float16": {"lowering": "plugin-layers", "precision": "float16", "state_dtype": "float16"},
    "layers-int8": {"lowering": "plugin-layers", "precision": "float16", "state_dtype": "float16", "weights": "int8"},
    "broken-plugin-float16": {"lowering": "plugin", "precision": "float16"},
}  # fmt: skip


def main(out: Path, names: list[str]) -> None:
    if unknown := set(names) - set(BUNDLES):
        raise SystemExit(f"no bundle {', '.join(sorted(unknown))}; there are {', '.join(BUNDLES)}")
    demo = load_checkpoint("demo")
    assert isinstance(demo.aim, AimModel)
    broken = copy.deepcopy(demo.aim)
    with torch.no_grad():
        broken.backbone.layers[BROKEN_LAYER].mixer.out_proj.weight.neg_()
    export_bundle(demo, out / REFERENCE)
    names = names or list(BUNDLES)
    for name in names:
        checkpoint = replace(demo, aim=broken) if name.startswith("broken") else demo
        export_bundle(checkpoint, out / name, **BUNDLES[name])
    (out / "names.txt").write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
