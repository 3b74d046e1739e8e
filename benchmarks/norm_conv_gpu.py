"""norm_conv at the sizes of a VQ-f16 decoder, next to cuDNN's convolution and to the norm before it as an operator.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/norm_conv_gpu.py

float16, batch 64, channels last. A row's "norm_conv" is all of it: norm, SiLU, convolution, residual where there is
one, and the next norm's statistics. "cuDNN" is the 3x3 convolution without any of that (PyTorch's, autotuned), "norm"
the operator group_norm_silu of its input, with a residual's sum where there is one. Medians over replays of CUDA
graphs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import FLOAT16, GroupNormSiluParams, Library, NormConvParams, Params
from kernels.norm_conv_case import IMAGE, SAME, UPSAMPLE
from kernels_gpu import milliseconds, normal

HALF, BATCH, GROUPS, EPS = torch.float16, 64, 32, 1e-6


@dataclass(frozen=True)
class Row:
    kind: int
    in_channels: int
    out_channels: int
    side: int
    residual: bool = False

    def __str__(self) -> str:
        named = {SAME: "", UPSAMPLE: ", to twice the side", IMAGE: ", to float32 pixels"}[self.kind]
        residual = ", residual" if self.residual else ""
        return f"{self.in_channels} to {self.out_channels} at {self.side}^2{named}{residual}"

    @property
    def operations(self) -> float:
        taps = 16 if self.kind == UPSAMPLE else 9
        return 2.0 * BATCH * self.side**2 * self.in_channels * self.out_channels * taps


ROWS = [
    *(Row(SAME, 128, 128, side, residual) for side in (256, 128) for residual in (False, True)),
    Row(SAME, 256, 128, 128),
    *(Row(SAME, 256, 256, 64, residual) for residual in (False, True)),
    Row(SAME, 512, 256, 32),
    *(Row(SAME, 512, 512, 16, residual) for residual in (False, True)),
    Row(UPSAMPLE, 128, 128, 128), Row(UPSAMPLE, 256, 256, 64), Row(UPSAMPLE, 512, 512, 16),
    Row(IMAGE, 128, 3, 256),
]  # fmt: skip


def caller(library: Library, name: str, params: Params, kept: list[Tensor]) -> Callable[[], object]:
    params.workspace_size = library.workspace(name, params)
    workspace = torch.empty(max(params.workspace_size, 16), dtype=torch.uint8, device="cuda")
    params.workspace = workspace.data_ptr()
    tensors = [*kept, workspace]

    def call() -> object:
        return tensors, library.call(name, params, torch.cuda.current_stream().cuda_stream)

    return call


def norm_conv(library: Library, row: Row) -> Callable[[], object]:
    image, n = row.kind == IMAGE, 8 if row.kind == IMAGE else 128
    grown = 2 if row.kind == UPSAMPLE else 1
    blocks = 1 if image else row.out_channels // n * grown**2
    side = row.side * grown
    x = normal(BATCH, row.side, row.side, row.in_channels, dtype=HALF)
    spread = (row.in_channels * 9) ** -0.5
    weight = normal(blocks, row.in_channels // 64, 4 if grown == 2 else 9, 8, n, 8, dtype=HALF) * spread
    affine = None if grown == 2 else torch.rand(BATCH, row.in_channels, 2, device="cuda")
    bias, scale, shift = normal(row.out_channels), normal(row.out_channels), normal(row.out_channels)
    y = torch.empty(BATCH, side, side, row.out_channels, dtype=torch.float32 if image else HALF, device="cuda")
    residual = torch.randn_like(y) if row.residual else None
    next_affine = torch.empty(BATCH, row.out_channels, 2, device="cuda")
    kept = [x, weight, bias, scale, shift, y, next_affine, *(t for t in (affine, residual) if t is not None)]
    params = NormConvParams(
        batch=BATCH, in_channels=row.in_channels, height=row.side, width=row.side, out_channels=row.out_channels,
        groups=GROUPS, kind=row.kind, dtype=FLOAT16, eps=EPS, x=x.data_ptr(), weight=weight.data_ptr(),
        affine=None if affine is None else affine.data_ptr(), bias=bias.data_ptr(), y=y.data_ptr(),
        residual=None if residual is None else residual.data_ptr(),
    )  # fmt: skip
    if not image:
        params.next_weight, params.next_bias = scale.data_ptr(), shift.data_ptr()
        params.next_affine = next_affine.data_ptr()
    return caller(library, "norm_conv", params, kept)


def norm(library: Library, row: Row) -> Callable[[], object]:
    x = normal(BATCH, row.side, row.side, row.in_channels, dtype=HALF)
    y, weight, bias = torch.empty_like(x), normal(row.in_channels), normal(row.in_channels)
    kept = [x, y, weight, bias]
    params = GroupNormSiluParams(
        batch=BATCH, channels=row.in_channels, height=row.side, width=row.side, groups=GROUPS, layout=1, dtype=FLOAT16,
        silu=1, eps=EPS, x=x.data_ptr(), weight=weight.data_ptr(), bias=bias.data_ptr(), y=y.data_ptr(),
    )  # fmt: skip
    if row.residual:
        kept += [torch.randn_like(x), torch.empty_like(x)]
        params.residual, params.sum = kept[-2].data_ptr(), kept[-1].data_ptr()
    return caller(library, "group_norm_silu", params, kept)


def convolution(row: Row) -> Callable[[], object]:
    last = torch.channels_last
    x = normal(BATCH, row.in_channels, row.side, row.side, dtype=HALF).to(memory_format=last)
    if row.kind == UPSAMPLE:
        weight = normal(row.in_channels, row.out_channels, 4, 4, dtype=HALF).to(memory_format=last)
        return lambda: F.conv_transpose2d(x, weight, stride=2, padding=1)
    weight = normal(row.out_channels, row.in_channels, 3, 3, dtype=HALF).to(memory_format=last)
    return lambda: F.conv2d(x, weight, padding=1)


def main() -> None:
    torch.backends.cudnn.benchmark = True
    library = Library(Path(os.environ["AIM_KERNELS_LIBRARY"]))
    cudnn = torch.backends.cudnn.version()
    sys.stdout.write(f"{torch.cuda.get_device_name()}, cuDNN {cudnn}, float16, batch {BATCH}\n")
    sys.stdout.write("| convolution | norm_conv, ms | TFLOP/s | cuDNN, ms | norm, ms | of both |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for row in ROWS:
        ours = milliseconds([norm_conv(library, row)] * 3)
        apart = milliseconds([convolution(row)] * 3)
        before = 0.0 if row.kind == UPSAMPLE else milliseconds([norm(library, row)] * 3)
        rate = row.operations / ours / 1e9
        told = (ours, rate, apart, before, ours / (apart + before))
        sys.stdout.write("| {} | {:.3f} | {:.0f} | {:.3f} | {:.3f} | {:.2f} |\n".format(row, *told))
        sys.stdout.flush()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
