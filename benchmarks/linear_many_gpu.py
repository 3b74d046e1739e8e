"""linear in float16 over many rows: the projections and heads of AiM-B and XL, right first, then us a call.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/linear_many_gpu.py [ANOTHER_LIBRARY...]

Each figure is the time of a call within a CUDA graph of many, each on weights of its own, together several times the
L2, launched as the library launches: the next call starts while the one before ends. Libraries are told by their
folder's name; "cuBLAS" is PyTorch's product. The floor is the bytes of the weights over 3.0 TB/s.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import Library
from kernels_gpu import milliseconds, normal
from linear_quantized_gpu import BANDWIDTH, BOUND, BYTES, MODELS, Matrix, shapes

ROWS = (16, 32, 64, 128, 256, 512)
LEAST, MOST = 6, 64  # matrices
ODD = ((264, 200), (8, 72), (37, 192))  # (outputs, inputs)
CHECKED_ROWS = (16, 17, 65, 100, 127, 128, 129, 256, 512)


def check(library: Library) -> str:
    """Every shape against float64; raises SystemExit where one is off."""
    checked = 0
    for dtype, bound in BOUND.items():
        for outputs, inputs in (*(s for d in MODELS.values() for s in shapes(d).values()), *ODD):
            matrix = Matrix.draw(16, outputs, inputs, dtype)
            dense = matrix.dense()
            for rows in CHECKED_ROWS:
                x = normal(rows, inputs, dtype=dtype)
                y = torch.full((rows, outputs), torch.nan, dtype=dtype, device="cuda")
                matrix.call(library, x, y)()
                wanted = x.double() @ dense.T
                error = float((y.double() - wanted).norm() / wanted.norm())
                if not error <= bound:
                    raise SystemExit(f"{dtype}, {rows} x {inputs} -> {outputs}: error {error:.2e}")
                checked += 1
    return f"right: {checked} cases"


def main() -> None:
    torch.manual_seed(0)
    paths = [Path(os.environ["AIM_KERNELS_LIBRARY"]), *map(Path, sys.argv[1:])]
    libraries = {path.parent.name: Library(path) for path in paths}
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; us a call\n")
    for name, library in libraries.items():
        sys.stdout.write(f"{name}: {check(library)}\n")
    for model in ("B", "XL"):
        for name, (outputs, inputs) in shapes(MODELS[model]).items():
            count = min(MOST, max(LEAST, -(-BYTES // (outputs * inputs * 2))))
            matrices = [Matrix.draw(16, outputs, inputs) for _ in range(count)]
            floor = 1e6 * matrices[0].bytes() / BANDWIDTH
            for rows in ROWS:
                x, y = normal(rows, inputs, dtype=torch.float16), normal(rows, outputs, dtype=torch.float16)
                calls = {key: [m.call(library, x, y) for m in matrices] for key, library in libraries.items()}
                took = {key: 1e3 * milliseconds(each) for key, each in calls.items()}
                took["cuBLAS"] = 1e3 * milliseconds([partial(torch.mm, x, m.weight.T, out=y) for m in matrices])
                told = ", ".join(f"{key} {us:6.2f}" for key, us in took.items())
                sys.stdout.write(f"{model:2} {name:4} {rows:3} rows: floor {floor:5.2f}; {told}\n")
            del matrices
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
