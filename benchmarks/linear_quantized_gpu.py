"""Weights of float16, int8 and int4 in the projections and heads of AiM-B, L and XL: right first, then us a call.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/linear_quantized_gpu.py

Each figure is the time of a call within a CUDA graph of many, each on a matrix of its own, so that all of them together
are larger than the L2 and weights come from memory. The floor is the bytes of a matrix with its scales over 3.0 TB/s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import BFLOAT16, FLOAT16, Library, LinearParams, LinearQuantizedParams
from kernels_gpu import milliseconds

GROUP, ROWS, BANDWIDTH = 128, (2, 8, 16, 128, 512), 3.0e12
MODELS = {"B": 768, "L": 1024, "XL": 1536}
BYTES = 192 << 20  # to walk over, of each kind of weights: several times the L2
LEAST, MOST = 4, 256  # matrices: of the smallest, 256 x 0.6 MB
BOUND = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


def shapes(d_model: int) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each matrix."""
    d_inner = 2 * d_model
    return {
        "in": (2 * d_inner + 2 * 128 + d_inner // 64, d_model),
        "out": (d_model, d_inner),
        "head": (16384, d_model),
    }


@dataclass
class Matrix:
    """Weights as they are stored, and their scales; float16 has none. bits: 16, 8 or 4."""

    bits: int
    outputs: int
    inputs: int
    weight: torch.Tensor
    scale: torch.Tensor | None

    @classmethod
    def draw(cls, bits: int, outputs: int, inputs: int, dtype: torch.dtype = torch.float16) -> Matrix:
        if bits == 16:
            weight = torch.randn(outputs, inputs, device="cuda") * inputs**-0.5
            return cls(bits, outputs, inputs, weight.to(dtype), None)
        weight = torch.randint(0, 256, (outputs, inputs * bits // 8), dtype=torch.uint8, device="cuda")
        groups = 1 if bits == 8 else -(-inputs // GROUP)
        scale = (torch.rand(outputs, groups, device="cuda") + 0.5) * (inputs**-0.5 / (1 << (bits - 2)))
        return cls(bits, outputs, inputs, weight, scale)

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.weight, self.scale) if t is not None)

    def dense(self) -> torch.Tensor:
        """(out, in) float64."""
        if self.scale is None:
            return self.weight.double()
        if self.bits == 8:
            return self.weight.view(torch.int8).double() * self.scale.double()
        codes = torch.stack([self.weight & 15, self.weight >> 4], -1).reshape(self.outputs, self.inputs).double() - 8
        return codes * self.scale.double().repeat_interleave(GROUP, 1)[:, : self.inputs]

    def call(self, library: Library, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
        dtype = FLOAT16 if x.dtype == torch.float16 else BFLOAT16
        common = {
            "rows": x.shape[0], "in_features": self.inputs, "out_features": self.outputs, "dtype": dtype,
            "x": x.data_ptr(), "weight": self.weight.data_ptr(), "y": y.data_ptr(),
            "float32_y": y.dtype == torch.float32,
        }  # fmt: skip
        if self.scale is None:
            name, params = "linear", LinearParams(**common, float32_y=y.dtype == torch.float32)
        else:
            own = {"bits": self.bits, "group_size": 0 if self.bits == 8 else GROUP, "scale": self.scale.data_ptr()}
            name, params = "linear_quantized", LinearQuantizedParams(**common, **own)
        return lambda: library.call(name, params, torch.cuda.current_stream().cuda_stream)


def check(library: Library) -> None:
    """Every path against float64; raises SystemExit where one is off."""
    checked = 0
    for dtype, bound in BOUND.items():
        for bits in (16, 8, 4):
            for outputs, inputs in (*shapes(768).values(), *shapes(1536).values(), (37, 192), (4256, 288), (40, 4128)):
                matrix = Matrix.draw(bits, outputs, inputs, dtype)
                dense = matrix.dense()
                for rows in (1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 128, 512):
                    x = torch.randn(rows, inputs, device="cuda").to(dtype)
                    y = torch.full((rows, outputs), torch.nan, dtype=dtype, device="cuda")
                    matrix.call(library, x, y)()
                    wanted = x.double() @ dense.T
                    error = float((y.double() - wanted).norm() / wanted.norm())
                    if not error <= bound:
                        raise SystemExit(f"{bits} bits, {dtype}, {rows} x {inputs} -> {outputs}: error {error:.2e}")
                    checked += 1
    sys.stdout.write(f"right: {checked} cases within {BOUND[torch.float16]} (float16) and {BOUND[torch.bfloat16]}\n")


def main() -> None:
    library = Library(Path(os.environ["AIM_KERNELS_LIBRARY"]))
    torch.manual_seed(0)
    check(library)
    sys.stdout.write(f"{torch.cuda.get_device_name()}; us a call (x floor), and how many times as fast as float16\n")
    for model, d_model in MODELS.items():
        for name, (outputs, inputs) in shapes(d_model).items():
            held = {}
            for bits in (16, 8, 4):
                size = outputs * inputs * bits // 8
                count = min(MOST, max(LEAST, -(-BYTES // size)))
                held[bits] = [Matrix.draw(bits, outputs, inputs) for _ in range(count)]
            for rows in ROWS:
                x = torch.randn(rows, inputs, device="cuda").half()
                y = torch.empty(rows, outputs, dtype=torch.float16, device="cuda")
                took, told = {}, []
                for bits, matrices in held.items():
                    took[bits] = 1e3 * milliseconds([m.call(library, x, y) for m in matrices])
                    floor = 1e6 * matrices[0].bytes() / BANDWIDTH
                    label = "float16" if bits == 16 else f"int{bits}"
                    told.append(f"{label} {took[bits]:6.2f} ({took[bits] / floor:5.1f} x {floor:5.2f}) "
                                f"{took[16] / took[bits]:.2f}x")  # fmt: skip
                sys.stdout.write(f"{model:2} {name:4} {rows:3} rows: {'; '.join(told)}\n")
            del held
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
