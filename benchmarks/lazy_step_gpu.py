"""mamba2_lazy_step beside mamba2_decode_step at AiM-B sizes: the same numbers first, then what a step takes.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/lazy_step_gpu.py [ANOTHER_LIBRARY...]

Correctness: 256 steps from zero states, random inputs, both operators against the recurrence in float64, for few rows
and for many; exits with 1 where the lazy one is more than 1.5 times as far off as the other.

Time: the calls of 8 layers or more, their states together larger than the L2 cache, in one CUDA graph, at each of the
marks with the states as they are then, and the mean over 256 tokens with straight lines between the marks. "floor" is
the bytes of that moment, each moved once, over the bandwidth of a copy in this run. AIM_SIZE=XL: AiM-XL's sizes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import FLOAT16, Library, Mamba2DecodeStepParams, Mamba2LazyStepParams
from kernels_gpu import (
    CONV_DIM,
    D_CONV,
    D_IN_PROJ,
    D_INNER,
    D_STATE,
    HEADDIM,
    NHEADS,
    Constants,
    copy_bandwidth,
    milliseconds,
    normal,
)

HALF = torch.float16
CAPACITY, FOLD_EVERY, STEPS = 112, 16, 256
ROWS = (2, 16, 128, 512) if NHEADS == 24 else (128,)
# Tokens in the history, and whether anything is folded; the last of each is the step that folds.
FIRST = (0, 28, 56, 84, CAPACITY - 2, CAPACITY - 1)
LATER = (0, FOLD_EVERY // 2, FOLD_EVERY - 2, FOLD_EVERY - 1)


class Layer:
    """One layer's buffers in float16, and its calls: `lazy` and `plain`, each with states of its own."""

    def __init__(self, library: Library, rows: int, constants: Constants, zxbcdt: torch.Tensor) -> None:
        self.library, self.rows, self.constants = library, rows, constants
        self.conv = [torch.zeros(rows, CONV_DIM, D_CONV - 1, dtype=HALF, device="cuda") for _ in range(2)]
        self.ssm = [torch.zeros(rows, NHEADS, HEADDIM, D_STATE, dtype=HALF, device="cuda") for _ in range(2)]
        self.out = [torch.empty(rows, D_INNER, dtype=HALF, device="cuda") for _ in range(2)]
        self.x_history = torch.zeros(rows, CAPACITY, D_INNER, dtype=HALF, device="cuda")
        self.B_history = torch.zeros(rows, CAPACITY, D_STATE, dtype=HALF, device="cuda")
        self.dt_history = torch.zeros(rows, NHEADS, CAPACITY, device="cuda")
        self.counters = torch.zeros(rows, NHEADS, 3, device="cuda")
        self.zxbcdt = zxbcdt
        self.plain_params, self.lazy_params = self._step(0), Mamba2LazyStepParams()
        self.lazy_params.step = self._step(1)
        self.lazy_params.capacity, self.lazy_params.fold_every = CAPACITY, FOLD_EVERY
        for name in ("x_history", "B_history", "dt_history", "counters"):
            for end in ("in", "out"):
                setattr(self.lazy_params, f"{name}_{end}", getattr(self, name).data_ptr())

    def _step(self, which: int) -> Mamba2DecodeStepParams:
        conv, ssm = self.conv[which].data_ptr(), self.ssm[which].data_ptr()
        weights = {name: tensor.data_ptr() for name, tensor in vars(self.constants).items()}
        params = Mamba2DecodeStepParams(
            rows=self.rows, nheads=NHEADS, headdim=HEADDIM, d_state=D_STATE, ngroups=1, d_conv=D_CONV, dtype=FLOAT16,
            conv_state_dtype=FLOAT16, ssm_state_dtype=FLOAT16, eps=1e-5, zxbcdt=self.zxbcdt.data_ptr(),
            zxbcdt_row_stride=D_IN_PROJ, conv_state_in=conv, conv_state_out=conv, ssm_state_in=ssm, ssm_state_out=ssm,
            out=self.out[which].data_ptr(), out_row_stride=D_INNER, **weights,
        )  # fmt: skip
        needed = self.library.workspace("mamba2_decode_step", params)
        self.workspace = [*getattr(self, "workspace", []), torch.empty(needed, dtype=torch.uint8, device="cuda")]
        params.workspace, params.workspace_size = self.workspace[-1].data_ptr(), needed
        return params

    def plain(self) -> None:
        self.library.call("mamba2_decode_step", self.plain_params, torch.cuda.current_stream().cuda_stream)

    def lazy(self) -> None:
        self.library.call("mamba2_lazy_step", self.lazy_params, torch.cuda.current_stream().cuda_stream)

    def at(self, count: int, folded: bool) -> None:
        """Sets the counters, as after `count` tokens since the last fold."""
        self.counters[..., 0], self.counters[..., 1] = count, float(folded)


def reference_step(
    constants: Constants, zxbcdt: torch.Tensor, conv: torch.Tensor, ssm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Out, conv_state and ssm_state in float64."""
    c: dict[str, Any] = {name: tensor.double() for name, tensor in vars(constants).items()}
    z, xbc, dt = zxbcdt.double().split([D_INNER, CONV_DIM, NHEADS], 1)
    window = torch.cat([conv, xbc[..., None]], 2)
    xbc = torch.nn.functional.silu((window * c["conv_weight"]).sum(2) + c["conv_bias"])
    x, b, of_c = xbc.split([D_INNER, D_STATE, D_STATE], 1)
    x = x.view(-1, NHEADS, HEADDIM)
    dt = torch.nn.functional.softplus(dt + c["dt_bias"])
    added = (dt[..., None] * x)[..., None] * b[:, None, None]
    ssm = torch.exp(dt * c["A"])[..., None, None] * ssm + added
    y = (ssm * of_c[:, None, None]).sum(3) + c["D"][:, None] * x
    y = y.reshape(-1, D_INNER) * torch.nn.functional.silu(z)
    y = y / torch.sqrt((y**2).mean(1, keepdim=True) + 1e-5) * c["norm_weight"]
    return y, window[..., 1:], ssm


def worst_errors(library: Library, rows: int) -> tuple[float, float]:
    """The largest relative error of any step's out: of mamba2_decode_step, of mamba2_lazy_step."""
    layer = Layer(library, rows, Constants.draw(), torch.zeros(rows, D_IN_PROJ, dtype=HALF, device="cuda"))
    conv = torch.zeros(rows, CONV_DIM, D_CONV - 1, dtype=torch.float64, device="cuda")
    ssm = torch.zeros(rows, NHEADS, HEADDIM, D_STATE, dtype=torch.float64, device="cuda")
    worst = [0.0, 0.0]
    for _ in range(STEPS):
        layer.zxbcdt.copy_(normal(rows, D_IN_PROJ))
        layer.plain()
        layer.lazy()
        wanted, conv, ssm = reference_step(layer.constants, layer.zxbcdt, conv, ssm)
        for i, out in enumerate(layer.out):
            error = float((out.double() - wanted).abs().max() / wanted.abs().max())
            worst[i] = max(worst[i], error if error == error else float("inf"))
    return worst[0], worst[1]


def frozen(layers: list[Layer], count: int, folded: bool) -> float:
    """Microseconds of a call at a mark: every replay resets the counters, and the time of that is taken off."""

    def reset() -> None:
        for layer in layers:
            layer.at(count, folded)

    both = milliseconds([*(layer.lazy for layer in layers), reset]) * (len(layers) + 1)
    alone = milliseconds([reset])
    return 1e3 * (both - alone) / len(layers)


def moved(rows: int, count: int, folded: bool) -> int:
    """Bytes of a call: activations, the convolution's window, the history and the state."""
    window, state = 2 * CONV_DIM * (D_CONV - 1) * 2, D_INNER * D_STATE * 2
    token = 2 * (D_INNER + D_STATE) + 4 * NHEADS
    folds = count + 1 == (FOLD_EVERY if folded else CAPACITY)
    return rows * (2 * (D_IN_PROJ + D_INNER) + window + (count + 1) * token + state * (int(folded) + int(folds)))


def mean_of(first: list[float], later: list[float]) -> float:
    """Over STEPS tokens, what the marks give."""
    steps = np.arange(STEPS)
    begin = np.interp(steps[:CAPACITY], FIRST, first)
    rest = np.interp((steps[CAPACITY:] - CAPACITY) % FOLD_EVERY, LATER, later)
    return float(np.concatenate([begin, rest]).mean())


def main() -> int:
    bandwidth = max(copy_bandwidth().values())
    sys.stdout.write(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s, nheads {NHEADS}; us\n")
    good = True
    for path in [os.environ["AIM_KERNELS_LIBRARY"], *sys.argv[1:]]:
        library, name = Library(Path(path)), Path(path).parent.name
        torch.manual_seed(0)
        for rows in (8, 80):
            plain, lazy = worst_errors(library, rows)
            right = lazy <= max(1.5 * plain, 4e-3)
            good &= right
            sys.stdout.write(
                f"{name}: {'ok' if right else 'FAILED'}: largest relative error of {STEPS} steps, {rows} rows: "
                f"mamba2_decode_step {plain:.2e}, mamba2_lazy_step {lazy:.2e}\n"
            )
        for rows in ROWS:
            layers = [
                Layer(library, rows, Constants.draw(), normal(rows, D_IN_PROJ, dtype=HALF))
                for _ in range(max(8, 512 // rows))
            ]
            ordinary = 1e3 * milliseconds([layer.plain for layer in layers])
            took = [[frozen(layers, n, folded) for n in marks] for folded, marks in ((False, FIRST), (True, LATER))]
            floor = [
                [1e6 * moved(rows, n, folded) / bandwidth for n in marks]
                for folded, marks in ((False, FIRST), (True, LATER))
            ]
            told = [
                ", ".join(f"{n} {us:.1f} ({least:.1f})" for n, us, least in zip(marks, *pair, strict=True))
                for marks, *pair in ((FIRST, took[0], floor[0]), (LATER, took[1], floor[1]))
            ]
            sys.stdout.write(
                f"{name}: {rows} rows: mamba2_decode_step {ordinary:.1f}; mamba2_lazy_step {mean_of(*took):.1f} over "
                f"{STEPS} tokens (floor {mean_of(*floor):.1f}); tokens, no state: {told[0]}; with state: {told[1]}\n"
            )
            sys.stdout.flush()
            del layers
            torch.cuda.empty_cache()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
