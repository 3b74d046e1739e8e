"""linear in float16 over many rows: the projections and heads of AiM-B, L and XL, right first, then us a call.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/linear_many_gpu.py [ANOTHER_LIBRARY...]

Each figure is the time of a call within a CUDA graph of many, each on weights of its own, together several times the
L2, launched as the library launches: the next call starts while the one before ends. Libraries are told by their
folder's name; "cuBLAS" is PyTorch's product, and a cast after it where y is float32. The floor is the bytes of
the weights over 3.0 TB/s.
"""

from __future__ import annotations

import itertools
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
SUMS_BOUND = 5e-5  # where y is float32
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
                wanted = x.double() @ dense.T
                for y_dtype, most in ((dtype, bound), (torch.float32, SUMS_BOUND)):
                    y = torch.full((rows, outputs), torch.nan, dtype=y_dtype, device="cuda")
                    matrix.call(library, x, y)()
                    error = float((y.double() - wanted).norm() / wanted.norm())
                    if not error <= most:
                        raise SystemExit(f"{dtype} to {y_dtype}, {rows} x {inputs} -> {outputs}: error {error:.2e}")
                    checked += 1
    return f"right: {checked} cases"


def product(matrix: Matrix, x: torch.Tensor, y: torch.Tensor, half: torch.Tensor) -> None:
    """PyTorch's; `half` is y or what is cast to it."""
    torch.mm(x, matrix.weight.T, out=half)
    if y is not half:
        y.copy_(half)


def main() -> None:
    torch.manual_seed(0)
    paths = [Path(os.environ["AIM_KERNELS_LIBRARY"]), *map(Path, sys.argv[1:])]
    libraries = {path.parent.name: Library(path) for path in paths}
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; us a call\n")
    for name, library in libraries.items():
        sys.stdout.write(f"{name}: {check(library)}\n")
    for model, d_model in MODELS.items():
        for name, (outputs, inputs) in shapes(d_model).items():
            count = min(MOST, max(LEAST, -(-BYTES // (outputs * inputs * 2))))
            matrices = [Matrix.draw(16, outputs, inputs) for _ in range(count)]
            floor = 1e6 * matrices[0].bytes() / BANDWIDTH
            for rows, single in itertools.product(ROWS, (False, True) if name == "head" else (False,)):
                x, half = normal(rows, inputs, dtype=torch.float16), normal(rows, outputs, dtype=torch.float16)
                y = half.float() if single else half
                calls = {key: [m.call(library, x, y) for m in matrices] for key, library in libraries.items()}
                took = {key: 1e3 * milliseconds(each) for key, each in calls.items()}
                took["cuBLAS"] = 1e3 * milliseconds([partial(product, m, x, y, half) for m in matrices])
                told = ", ".join(f"{key} {us:6.2f}" for key, us in took.items())
                label = name + (" to float32" if single else "")
                sys.stdout.write(f"{model:2} {label:15} {rows:3} rows: floor {floor:5.2f}; {told}\n")
            del matrices
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
