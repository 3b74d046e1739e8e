"""What cached_attention takes a launch, beside the bytes of the caches that it reads, at the sizes of GPT-B's heads.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/attention_gpu.py

Each launch of a graph of 12 works on caches of its own, as a step's layers do (those of 2 rows stay in L2). float16,
caches float16. First the numbers are held to PyTorch's in float32. "floor" is the bytes of keys and values up to the
position over a copy's bandwidth.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import FLOAT16, CachedAttentionParams, Library
from kernels_gpu import copy_bandwidth, difference, milliseconds, normal

LAYERS, NHEADS, HEADDIM = 12, 12, 64
CASES = [(rows, 256, at) for rows in (2, 16, 128) for at in (0, 64, 128, 255)]
CASES += [(2, 1024, 1023), (2, 4096, 1000), (2, 4096, 4095), (128, 4096, 4095)]
BOUND = 5e-3


class Case:
    """Buffers of one row of the table."""

    def __init__(self, library: Library, rows: int, tokens: int, at: int) -> None:
        half, layers = torch.float16, LAYERS if tokens == 256 else 2
        self.library, self.rows, self.at = library, rows, at
        self.qkv = normal(rows, 3, NHEADS, HEADDIM, dtype=half)
        angles = torch.rand(tokens, HEADDIM // 2, device="cuda") * 7
        self.rotary = torch.stack([angles.cos(), angles.sin()], dim=-1)
        self.caches = [normal(2, rows, NHEADS, tokens, HEADDIM, dtype=half) for _ in range(layers)]
        self.position = torch.full((1,), at, dtype=torch.int32, device="cuda")
        self.out = torch.empty(rows, NHEADS, HEADDIM, dtype=half, device="cuda")
        sizes = CachedAttentionParams(rows=rows, positions=1, num_tokens=tokens, nheads=NHEADS, headdim=HEADDIM,
                                      dtype=FLOAT16, state_dtype=FLOAT16)  # fmt: skip
        needed = library.workspace("cached_attention", sizes)
        self.workspace = torch.empty(max(needed, 16), dtype=torch.uint8, device="cuda")
        self.params = [
            CachedAttentionParams(
                rows=rows, positions=1, num_tokens=tokens, nheads=NHEADS, headdim=HEADDIM, dtype=FLOAT16,
                state_dtype=FLOAT16, qkv=self.qkv.data_ptr(), rotary=self.rotary.data_ptr(),
                position=self.position.data_ptr(), k_cache=cache[0].data_ptr(), v_cache=cache[1].data_ptr(),
                out=self.out.data_ptr(), workspace=self.workspace.data_ptr(), workspace_size=needed,
            )
            for cache in self.caches
        ]  # fmt: skip

    def run(self, params: CachedAttentionParams) -> None:
        self.library.call("cached_attention", params, torch.cuda.current_stream().cuda_stream)

    def error(self) -> float:
        """Of the first layer's output."""
        q, k, v = (x.float()[:, :, None] for x in self.qkv.unbind(1))
        cosine, sine = self.rotary[self.at].unbind(-1)
        even, odd = q[..., ::2], q[..., 1::2]
        q = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)
        even, odd = k[..., ::2], k[..., 1::2]
        k = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)
        keys, values = (torch.cat([cache[:, :, : self.at].float(), new], dim=2)
                        for cache, new in zip(self.caches[0], (k, v), strict=True))  # fmt: skip
        wanted = F.scaled_dot_product_attention(q, keys, values)[:, :, 0]
        self.run(self.params[0])
        return difference(self.out, wanted)


def main() -> int:
    library = Library(Path(os.environ["AIM_KERNELS_LIBRARY"]))
    library.check_device()
    torch.backends.cuda.matmul.allow_tf32 = False
    bandwidth = max(copy_bandwidth().values())
    sys.stdout.write(f"{torch.cuda.get_device_name()}, a copy {bandwidth / 1e12:.2f} TB/s\n\n")
    sys.stdout.write("| rows | T | position | us | floor | of it | error |\n|---|---|---|---|---|---|---|\n")
    failed = 0
    for rows, tokens, at in CASES:
        case = Case(library, rows, tokens, at)
        error = case.error()
        failed += not error <= BOUND
        took = 1e3 * milliseconds([partial(case.run, params) for params in case.params])
        floor = 1e6 * 2 * rows * NHEADS * (at + 1) * HEADDIM * 2 / bandwidth
        figures = f"{took:.2f} | {floor:.2f} | {took / floor:.1f}x | {error:.1e}"
        sys.stdout.write(f"| {rows} | {tokens} | {at} | {figures} |\n")
    sys.stdout.write(f"{'FAILED' if failed else 'PASSED'}: {failed} of {len(CASES)} over {BOUND}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
