"""linear_quantized over many rows: the projections and heads of AiM-B and XL, right first, then us a call.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/linear_quantized_many_gpu.py [ANOTHER_LIBRARY...]

Each figure is the time of a call within a CUDA graph of many, each on weights of its own, together several times the
L2, launched as the library launches: the next call starts while the one before ends. Libraries are told by their
folder's name; "float16" is the first one's linear. The floor is the bytes of the codes over 3.0 TB/s.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import Library
from kernels_gpu import milliseconds
from linear_quantized_gpu import BANDWIDTH, BOUND, BYTES, MODELS, Matrix, shapes

ROWS = (16, 32, 64, 128, 256, 512)
LEAST, MOST = 6, 64  # matrices
FLOAT32_BOUND = 1e-4  # of sums as they are
ODD = ((264, 224), (8, 96), (37, 192))  # (outputs, inputs)
CHECKED_ROWS = (17, 33, 64, 65, 100, 127, 128, 129, 256, 300, 512)


def check(library: Library) -> str:
    """Every shape against float64; raises SystemExit where one is off."""
    checked = 0
    for dtype, bound in BOUND.items():
        for outputs, inputs in (*(s for model in ("B", "XL") for s in shapes(MODELS[model]).values()), *ODD):
            for bits in (8, 4):
                matrix = Matrix.draw(bits, outputs, inputs, dtype)
                dense = matrix.dense()
                for rows in CHECKED_ROWS:
                    x = torch.randn(rows, inputs, device="cuda").to(dtype)
                    wanted = x.double() @ dense.T
                    for of_y in (dtype, torch.float32):
                        y = torch.full((rows, outputs), torch.nan, dtype=of_y, device="cuda")
                        matrix.call(library, x, y)()
                        error = float((y.double() - wanted).norm() / wanted.norm())
                        if not error <= (bound if of_y == dtype else FLOAT32_BOUND):
                            told = f"{bits} bits, {dtype}, y {of_y}, {rows} x {inputs} -> {outputs}"
                            raise SystemExit(f"{told}: error {error:.2e}")
                        checked += 1
    return f"right: {checked} cases"


def main() -> None:
    torch.manual_seed(0)
    paths = [Path(os.environ["AIM_KERNELS_LIBRARY"]), *map(Path, sys.argv[1:])]
    libraries = {path.parent.name: Library(path) for path in paths}
    first = next(iter(libraries.values()))
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; us a call\n")
    for name, library in libraries.items():
        sys.stdout.write(f"{name}: {check(library)}\n")
    for model in ("B", "XL"):
        for name, (outputs, inputs) in shapes(MODELS[model]).items():
            held = {}
            for bits in (16, 8, 4):
                count = min(MOST, max(LEAST, -(-BYTES // (outputs * inputs * bits // 8))))
                held[bits] = [Matrix.draw(bits, outputs, inputs) for _ in range(count)]
            for rows in ROWS:
                x = torch.randn(rows, inputs, device="cuda").half()
                y = torch.empty(rows, outputs, dtype=torch.float16, device="cuda")
                took = {"float16": 1e3 * milliseconds([m.call(first, x, y) for m in held[16]])}
                for bits in (8, 4):
                    for key, library in libraries.items():
                        took[f"int{bits} {key}"] = 1e3 * milliseconds([m.call(library, x, y) for m in held[bits]])
                told = ", ".join(f"{key} {us:6.2f}" for key, us in took.items())
                floor = 1e6 * held[8][0].bytes() / BANDWIDTH
                sys.stdout.write(f"{model:2} {name:4} {rows:3} rows: int8's floor {floor:5.2f}; {told}\n")
            del held
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
