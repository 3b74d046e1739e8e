"""What a decoding step's kernels take one after another, at AiM-B sizes: the 24 layers between embedding and head.

AIM_SIZE=XL takes AiM-XL's 48 layers instead.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/decode_chain_gpu.py [--lazy] [ANOTHER_LIBRARY...]

For each library and number of rows: the chain of 24 x (ada_ln_norm, linear, mamba2_decode_step, linear) in one CUDA
graph, weights and states of each layer their own, and each operator alone, 24 of it. float16, states float16. The floor
is the bytes of weights and states over the bandwidth of a copy in this run.

--lazy: the chain with mamba2_lazy_step, too. Its time is the mean over an image's 256 tokens: the graph is replayed as
often from zero states, so that each replay is the next token.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import (
    FLOAT16,
    AdaLnNormParams,
    Library,
    LinearParams,
    Mamba2DecodeStepParams,
    Mamba2LazyStepParams,
    Params,
)
from kernels_gpu import (
    CONV_DIM,
    D_CONV,
    D_IN_PROJ,
    D_INNER,
    D_MODEL,
    D_STATE,
    HEADDIM,
    LAYERS,
    NHEADS,
    Constants,
    copy_bandwidth,
    milliseconds,
    normal,
    size,
)

ROWS = (2, 16, 128, 512)
CAPACITY, FOLD_EVERY, TOKENS = 112, 16, 256
HALF = torch.float16


class Chain:
    """The buffers of a step and its calls, by operator."""

    def __init__(self, library: Library, rows: int, lazy: bool = False) -> None:
        self.lazy, self.lazy_states = lazy, list[torch.Tensor]()
        self.library, self.calls = library, dict[str, list[Callable[[], object]]]()
        self.order: list[Callable[[], object]] = []
        self.kept: list[Any] = []
        self.bytes = 0
        modulation = normal(rows, 3 * LAYERS, D_MODEL)
        residual = normal(rows, D_MODEL)
        hidden, x = normal(rows, D_MODEL, dtype=HALF), normal(rows, D_MODEL, dtype=HALF)
        zxbcdt, inner = normal(rows, D_IN_PROJ, dtype=HALF), normal(rows, D_INNER, dtype=HALF)
        weight = normal(D_MODEL)
        self.kept += [modulation, residual, hidden, x, zxbcdt, inner, weight]
        for i in range(LAYERS):
            self.add("ada_ln_norm", AdaLnNormParams(
                rows=rows, vectors=3 * LAYERS, d_model=D_MODEL, gate_index=3 * i + 2, shift_index=3 * i,
                scale_index=3 * i + 1, dtype=FLOAT16, eps=1e-5, hidden=hidden.data_ptr(),
                residual=residual.data_ptr(), modulation=modulation.data_ptr(), weight=weight.data_ptr(),
                x=x.data_ptr(), residual_out=residual.data_ptr(),
            ))  # fmt: skip
            self.linear("linear in", x, zxbcdt)
            self.step(rows, zxbcdt, inner)
            self.linear("linear out", inner, hidden)

    def add(self, name: str, params: Params) -> None:
        operator = name.split(" ")[0]

        def call() -> None:
            self.library.call(operator, params, torch.cuda.current_stream().cuda_stream)

        self.calls.setdefault(name, []).append(call)
        self.order.append(call)

    def linear(self, name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        weight = (normal(y.shape[1], x.shape[1]) * x.shape[1] ** -0.5).to(HALF)
        self.kept.append(weight)
        self.bytes += size(weight)
        self.add(name, LinearParams(
            rows=x.shape[0], in_features=x.shape[1], out_features=y.shape[1], dtype=FLOAT16, x=x.data_ptr(),
            weight=weight.data_ptr(), y=y.data_ptr(),
        ))  # fmt: skip

    def step(self, rows: int, zxbcdt: torch.Tensor, out: torch.Tensor) -> None:
        constants = Constants.draw()
        conv = normal(rows, CONV_DIM, D_CONV - 1).to(HALF)
        ssm = torch.zeros(rows, NHEADS, HEADDIM, D_STATE, dtype=HALF, device="cuda")
        weights = {name: tensor.data_ptr() for name, tensor in vars(constants).items()}
        params = Mamba2DecodeStepParams(
            rows=rows, nheads=NHEADS, headdim=HEADDIM, d_state=D_STATE, ngroups=1, d_conv=D_CONV, dtype=FLOAT16,
            conv_state_dtype=FLOAT16, ssm_state_dtype=FLOAT16, eps=1e-5, zxbcdt=zxbcdt.data_ptr(),
            zxbcdt_row_stride=D_IN_PROJ, conv_state_in=conv.data_ptr(), conv_state_out=conv.data_ptr(),
            ssm_state_in=ssm.data_ptr(), ssm_state_out=ssm.data_ptr(), out=out.data_ptr(), out_row_stride=D_INNER,
            **weights,
        )  # fmt: skip
        needed = self.library.workspace("mamba2_decode_step", params)
        workspace = torch.empty(needed, dtype=torch.uint8, device="cuda")
        params.workspace, params.workspace_size = workspace.data_ptr(), needed
        self.kept += [constants, conv, ssm, workspace]
        self.bytes += 2 * size(conv, ssm)
        if self.lazy:
            self.lazy_step(params, ssm)
        else:
            self.add("mamba2_decode_step", params)

    def lazy_step(self, step: Mamba2DecodeStepParams, ssm: torch.Tensor) -> None:
        states = {
            "x_history": torch.zeros(step.rows, CAPACITY, D_INNER, dtype=HALF, device="cuda"),
            "B_history": torch.zeros(step.rows, CAPACITY, D_STATE, dtype=HALF, device="cuda"),
            "dt_history": torch.zeros(step.rows, NHEADS, CAPACITY, device="cuda"),
            "counters": torch.zeros(step.rows, NHEADS, 3, device="cuda"),
        }
        ends = {f"{name}_{end}": tensor.data_ptr() for name, tensor in states.items() for end in ("in", "out")}
        self.lazy_states += [ssm, *states.values()]
        self.add("mamba2_lazy_step", Mamba2LazyStepParams(step=step, capacity=CAPACITY, fold_every=FOLD_EVERY, **ends))

    def image(self) -> float:
        """Microseconds of a step, the mean over 256 tokens from zero states; the median of a few images."""
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for call in self.order:
                call()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for call in self.order:
                    call()
            times = []
            for _ in range(5):
                for tensor in self.lazy_states:
                    tensor.zero_()
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record(stream)
                for _ in range(TOKENS):
                    graph.replay()
                end.record(stream)
                end.synchronize()
                times.append(1e3 * begin.elapsed_time(end) / TOKENS)
        return float(statistics.median(times))


def main() -> None:
    bandwidth = max(copy_bandwidth().values())
    sys.stdout.write(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s; us\n")
    lazy = "--lazy" in sys.argv[1:]
    for path in [os.environ["AIM_KERNELS_LIBRARY"], *(argument for argument in sys.argv[1:] if argument != "--lazy")]:
        library = Library(Path(path))
        for rows in ROWS:
            chain = Chain(library, rows)
            whole = 1e3 * len(chain.order) * milliseconds(chain.order)
            floor = 1e6 * chain.bytes / bandwidth
            parts = {name: 1e3 * milliseconds(calls) for name, calls in chain.calls.items()}
            told = ", ".join(f"{name} {us:.2f}" for name, us in parts.items())
            sys.stdout.write(
                f"{Path(path).parent.name}: {rows} rows: step {whole:.1f} ({whole / floor:.2f} x floor {floor:.1f}), "
                f"a layer {whole / LAYERS:.2f}; alone: {told}\n"
            )
            del chain
            torch.cuda.empty_cache()
            if lazy:
                images = {name: Chain(library, rows, kind).image() for name, kind in (("plain", False), ("lazy", True))}
                told = ", ".join(f"{name} {us:.1f}" for name, us in images.items())
                sys.stdout.write(f"{Path(path).parent.name}: {rows} rows: step, mean over {TOKENS} tokens: {told}\n")
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
