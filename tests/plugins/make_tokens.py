"""What ONNX Runtime draws with the demo checkpoint in float32, for engines_proof.py to compare with.

    python tests/plugins/make_tokens.py OUT.npz

ids (64), tokens (64, T) and the seed; images are of index 0 to 63.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from aim_edge.export import export_bundle
from aim_edge.runtime import Generator

COUNT, SEED = 64, 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        export_bundle("demo", Path(folder) / "demo", lowering="onnx")
        with Generator.open(Path(folder) / "demo", backend="ort-cpu") as generator:
            ids = np.arange(COUNT) % generator.dims.num_classes
            _, tokens = generator.generate(ids, seed=SEED)
    np.savez(sys.argv[1], ids=ids, tokens=tokens, seed=SEED)


if __name__ == "__main__":
    main()
