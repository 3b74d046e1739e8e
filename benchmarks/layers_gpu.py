"""What mamba2_layers takes, the layers of a decoding step in one call, in its two forms.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/layers_gpu.py [PRESET...] [ROWS...]

float16, and its weights as int8; states float16; weights and states of each layer their own. A call is replayed as a
CUDA graph: the median of 5 times 40 replays; where it is the one kernel, once more with an exchange. The floor is the
bytes of weights and states over the bandwidth of a copy in this run.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import FLOAT16, Library, Mamba2LayersParams
from kernels_gpu import copy_bandwidth, normal, size

HALF = torch.float16
PRESETS = {"B": (768, 24), "L": (1024, 48), "XL": (1536, 48)}
D_STATE, HEADDIM, D_CONV = 128, 64, 4
ROWS = (2, 4, 8, 16, 128)


class Layers:
    """A preset's weights and the buffers of `rows` rows."""

    def __init__(self, library: Library, preset: str, rows: int, int8: bool) -> None:
        d_model, layers = PRESETS[preset]
        d_inner = 2 * d_model
        nheads, conv_dim = d_inner // HEADDIM, d_inner + 2 * D_STATE
        width = d_inner + conv_dim + nheads
        held = {
            "residual": normal(rows, d_model),
            "modulation": 0.1 * normal(rows, 3 * layers, d_model),
            "norm_weight": normal(layers, d_model),
            "conv_weight": normal(layers, conv_dim, D_CONV),
            "conv_bias": normal(layers, conv_dim),
            "A": -1 - 15 * torch.rand(layers, nheads, device="cuda"),
            "D": normal(layers, nheads),
            "dt_bias": normal(layers, nheads) - 4,
            "gated_norm_weight": normal(layers, d_inner),
        }
        self.weights = [torch.empty(layers, width, d_model, dtype=HALF, device="cuda").normal_(0, d_model**-0.5)]
        self.weights.append(torch.empty(layers, d_model, d_inner, dtype=HALF, device="cuda").normal_(0, d_inner**-0.5))
        if int8:
            scales = [weight.float().abs().amax(2) / 127 for weight in self.weights]
            self.weights = [
                (weight / scale[..., None]).round().to(torch.int8)
                for weight, scale in zip(self.weights, scales, strict=True)
            ]
            held |= dict(zip(("in_proj_scale", "out_proj_scale"), scales, strict=True))
        self.conv = torch.zeros(rows, layers, conv_dim, D_CONV - 1, dtype=HALF, device="cuda")
        self.ssm = torch.zeros(rows, layers, nheads, HEADDIM, D_STATE, dtype=HALF, device="cuda")
        self.out = torch.empty(rows, d_model, device="cuda")
        self.library, self.held = library, held
        states = (self.conv.data_ptr(), self.ssm.data_ptr())
        self.params = Mamba2LayersParams(
            rows=rows, layers=layers, d_model=d_model, nheads=nheads, headdim=HEADDIM, d_state=D_STATE, ngroups=1,
            d_conv=D_CONV, dtype=FLOAT16, weight_bits=8 if int8 else 0, conv_state_dtype=FLOAT16,
            ssm_state_dtype=FLOAT16, eps=1e-5,
            in_proj=self.weights[0].data_ptr(), out_proj=self.weights[1].data_ptr(), conv_state_in=states[0],
            conv_state_out=states[0], ssm_state_in=states[1], ssm_state_out=states[1],
            residual_out=self.out.data_ptr(), **{name: tensor.data_ptr() for name, tensor in held.items()},
        )  # fmt: skip
        needed = library.workspace("mamba2_layers", self.params)
        self.workspace = torch.empty(needed, dtype=torch.uint8, device="cuda")
        self.params.workspace, self.params.workspace_size = self.workspace.data_ptr(), needed
        self.words = torch.zeros(library.exchange(self.params), dtype=torch.uint8, device="cuda")
        self.bytes = size(*self.weights) + 2 * size(self.conv, self.ssm)

    def call(self, stream: int) -> None:
        self.library.call("mamba2_layers", self.params, stream)

    def exchange(self) -> bool:
        """From now on with memory that stays. False where the device has no use for it."""
        self.params.exchange = self.words.data_ptr() or None
        return self.params.exchange is not None

    def microseconds(self) -> float:
        def call() -> None:
            self.call(torch.cuda.current_stream().cuda_stream)

        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        times = []
        for _ in range(6):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(40):
                graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(1e3 * start.elapsed_time(end) / 40)
        if not torch.isfinite(self.out).all():
            raise RuntimeError("the output is not finite")
        return sorted(times[1:])[2]


def asked(rows: Sequence[int]) -> Iterator[tuple[str, int, bool]]:
    """Preset, rows, and whether int8, as the command line has them; all presets and `rows` where it does not."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()] or rows
    presets = [word for word in sys.argv[1:] if not word.isdigit()] or list(PRESETS)
    return itertools.product(presets, numbers, (False, True))


def main() -> None:
    bandwidth = max(copy_bandwidth().values())
    sys.stdout.write(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s\n")
    library = Library(Path(os.environ["AIM_KERNELS_LIBRARY"]))
    for preset, rows, int8 in asked(ROWS):
        layers = Layers(library, preset, rows, int8)
        floor = 1e6 * layers.bytes / bandwidth
        us = layers.microseconds()
        exchanging = f", with an exchange {layers.microseconds():.1f} us" if layers.exchange() else ""
        form = "resident" if library.resident(layers.params) else "chain"
        sys.stdout.write(
            f"AiM-{preset}, {rows} rows, {'int8' if int8 else 'float16'}: {us:.1f} us ({us / floor:.2f} x floor "
            f"{floor:.1f}), {form}, a layer {us / PRESETS[preset][1]:.2f}"
            f"{exchanging}\n"
        )
        sys.stdout.flush()
        del layers
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
