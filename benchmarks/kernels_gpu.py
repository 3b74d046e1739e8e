"""How fast the CUDA kernels are at AiM-B sizes, next to what the GPU can do and to mamba_ssm's Triton kernels.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/kernels_gpu.py

- The decode update at 128 rows, alone and fused, as a share of the bandwidth of a device-to-device copy in this run.
- The scan of 16 rows in bfloat16 at 256 and 4096 steps.

MAMBA_SSM_SRC names a folder that holds mamba_ssm/ops/triton and mamba_ssm/utils of github.com/state-spaces/mamba; its
kernels are then timed in the same run, and their results compared with ours. Nothing of it is part of this repository.

Every figure is the median over replays of a CUDA graph that holds several calls, each on buffers of its own, together
larger than the L2 cache: launch gaps of Python and a warm cache are in none of them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, MAMBA2, Library, Mamba2DecodeStepParams, SelectiveScanParams

HEADDIM, D_STATE, D_CONV = 64, 128, 4
# Of AiM-B; AIM_SIZE=XL: of AiM-XL. ngroups is 1.
NHEADS, D_MODEL, LAYERS = {"B": (24, 768, 24), "XL": (48, 1536, 48)}[os.environ.get("AIM_SIZE", "B")]
D_INNER = NHEADS * HEADDIM
CONV_DIM = D_INNER + 2 * D_STATE
D_IN_PROJ = D_INNER + CONV_DIM + NHEADS
CODES = {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
DECODE_ROWS, SCAN_ROWS = 128, 16
COPY_SHARE = 0.8  # what the decode update is to reach
REPLAYS = 30

Call = Callable[[], object]


def milliseconds(calls: Sequence[Call]) -> float:
    """Device time of one call: the median over replays of a graph of all of them."""
    torch.cuda.synchronize()  # what filled the buffers ran on another stream
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:  # compiles, tunes and loads what the capture must not
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        times = []
        for _ in range(REPLAYS + 3):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) / len(calls))
    return float(statistics.median(times[3:]))


def copy_bandwidth() -> dict[str, float]:
    """Bytes a second, read and written, of passes over 1 GiB within the device: the driver's copy and a kernel's.

    One alone is no measure of the device: `copy_` between plain tensors is cudaMemcpyAsync, which gave 2.4 TB/s on an
    H100 where 3.0 had been seen. The negation of every bit is a kernel that moves as much, by 16 bytes a thread.
    """
    source = torch.randint(-(2**31), 2**31 - 1, (1 << 28,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    passes: dict[str, Call] = {
        "cudaMemcpyAsync": lambda: target.copy_(source),
        "kernel": lambda: torch.bitwise_not(source, out=target),
    }
    return {name: 2 * size(source) / (milliseconds([call] * 3) * 1e-3) for name, call in passes.items()}


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def size(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass
class Constants:
    """A layer's parameters, drawn as Mamba-2 initialises them."""

    A: torch.Tensor
    D: torch.Tensor
    dt_bias: torch.Tensor
    conv_weight: torch.Tensor
    conv_bias: torch.Tensor
    norm_weight: torch.Tensor

    @classmethod
    def draw(cls) -> Constants:
        step = torch.exp(torch.empty(NHEADS, device="cuda").uniform_(-6.9, -2.3))
        return cls(
            A=-torch.empty(NHEADS, device="cuda").uniform_(1, 16),
            D=normal(NHEADS),
            dt_bias=step + torch.log(-torch.expm1(-step)),
            conv_weight=normal(CONV_DIM, D_CONV) * 0.5,
            conv_bias=normal(CONV_DIM),
            norm_weight=normal(D_INNER),
        )


class Scan:
    """One set of buffers of a scan over `length` steps; of a decode update for length 1, whose state is in place."""

    def __init__(
        self, library: Library, constants: Constants, rows: int, length: int, state: torch.dtype, gate: bool
    ) -> None:
        dtype = torch.bfloat16
        self.library, self.constants = library, constants
        self.x = normal(rows, length, NHEADS, HEADDIM, dtype=dtype)
        self.dt = normal(rows, length, NHEADS, dtype=dtype) * 0.5
        self.B = normal(rows, length, 1, D_STATE, dtype=dtype)
        self.C = normal(rows, length, 1, D_STATE, dtype=dtype)
        self.z = normal(rows, length, NHEADS, HEADDIM, dtype=dtype) if gate else None
        self.y = torch.empty_like(self.x)
        self.state = normal(rows, NHEADS, HEADDIM, D_STATE).to(state)
        fields: dict[str, Any] = {}
        for name in ("x", "dt", "B", "C", "z", "y"):
            tensor = getattr(self, name)
            if tensor is not None:
                fields |= {name: tensor.data_ptr(), f"{name}_row_stride": tensor.stride(0)}
                fields[f"{name}_time_stride"] = tensor.stride(1)
        self.params = SelectiveScanParams(
            rows=rows,
            length=length,
            kind=MAMBA2,
            nheads=NHEADS,
            headdim=HEADDIM,
            d_state=D_STATE,
            ngroups=1,
            dtype=BFLOAT16,
            state_dtype=CODES[state],
            dt_softplus=1,
            A=constants.A.data_ptr(),
            D=constants.D.data_ptr(),
            dt_bias=constants.dt_bias.data_ptr(),
            ssm_state_in=self.state.data_ptr() if length == 1 else None,
            ssm_state_out=self.state.data_ptr(),
            **fields,
        )
        needed = library.workspace("selective_scan", self.params)
        self.workspace = torch.empty(needed, dtype=torch.uint8, device="cuda")
        self.params.workspace = self.workspace.data_ptr() if needed else None
        self.params.workspace_size = needed

    def __call__(self) -> None:
        self.library.call("selective_scan", self.params, torch.cuda.current_stream().cuda_stream)

    @property
    def bytes(self) -> int:
        """Each input read once and each output written once."""
        activations = size(self.x, self.dt, self.B, self.C, self.y) + (0 if self.z is None else size(self.z))
        return activations + size(self.state) * (2 if self.params.length == 1 else 1)


class DecodeStep:
    """One set of buffers of the fused decode step, states in place."""

    def __init__(self, library: Library, constants: Constants, rows: int, state: torch.dtype) -> None:
        self.library, self.constants = library, constants
        self.zxbcdt = normal(rows, D_IN_PROJ, dtype=torch.bfloat16)
        self.out = torch.empty(rows, D_INNER, dtype=torch.bfloat16, device="cuda")
        self.conv = normal(rows, CONV_DIM, D_CONV - 1).to(state)
        self.ssm = normal(rows, NHEADS, HEADDIM, D_STATE).to(state)
        weights = {name: tensor.data_ptr() for name, tensor in vars(constants).items()}
        self.params = Mamba2DecodeStepParams(
            rows=rows,
            nheads=NHEADS,
            headdim=HEADDIM,
            d_state=D_STATE,
            ngroups=1,
            d_conv=D_CONV,
            dtype=BFLOAT16,
            conv_state_dtype=CODES[state],
            ssm_state_dtype=CODES[state],
            eps=1e-5,
            zxbcdt=self.zxbcdt.data_ptr(),
            zxbcdt_row_stride=D_IN_PROJ,
            conv_state_in=self.conv.data_ptr(),
            conv_state_out=self.conv.data_ptr(),
            ssm_state_in=self.ssm.data_ptr(),
            ssm_state_out=self.ssm.data_ptr(),
            out=self.out.data_ptr(),
            out_row_stride=D_INNER,
            **weights,
        )
        self.workspace = torch.empty(
            library.workspace("mamba2_decode_step", self.params), dtype=torch.uint8, device="cuda"
        )
        self.params.workspace = self.workspace.data_ptr()
        self.params.workspace_size = self.workspace.numel()

    def __call__(self) -> None:
        self.library.call("mamba2_decode_step", self.params, torch.cuda.current_stream().cuda_stream)

    @property
    def bytes(self) -> int:
        return size(self.zxbcdt, self.out) + 2 * size(self.conv, self.ssm)


class Triton:
    """mamba_ssm's kernels, without its package's __init__, which wants compiled extensions."""

    def __init__(self, source: str) -> None:
        for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.utils"):
            package = types.ModuleType(name)
            package.__path__ = [str(Path(source, *name.split(".")))]
            sys.modules[name] = package
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        self._update, self._scan = selective_state_update, mamba_chunk_scan_combined

    @staticmethod
    def forget_tuning() -> None:
        """What was best for one length is tuned anew for the next: it does not count the length among its keys."""
        for name, module in list(sys.modules.items()):
            if name.startswith("mamba_ssm."):
                for value in vars(module).values():
                    if hasattr(value, "configs") and hasattr(value, "cache"):
                        value.cache.clear()

    def scan(self, scan: Scan) -> tuple[torch.Tensor, torch.Tensor]:
        weights = scan.constants
        out: tuple[torch.Tensor, torch.Tensor] = self._scan(
            scan.x,
            scan.dt,
            weights.A,
            scan.B,
            scan.C,
            chunk_size=256,
            D=weights.D,
            z=scan.z,
            dt_bias=weights.dt_bias,
            dt_softplus=True,
            return_final_states=True,
        )
        return out

    def update(self, scan: Scan, state: torch.Tensor) -> torch.Tensor:
        def per_channel(tensor: torch.Tensor) -> torch.Tensor:  # strides of 0, which it takes as "tied"
            return tensor[..., None].expand(*tensor.shape, HEADDIM)

        weights = scan.constants
        A = weights.A[:, None, None].expand(NHEADS, HEADDIM, D_STATE)
        out: torch.Tensor = self._update(
            state,
            scan.x[:, 0],
            per_channel(scan.dt[:, 0]),
            A,
            scan.B[:, 0],
            scan.C[:, 0],
            per_channel(weights.D),
            z=None if scan.z is None else scan.z[:, 0],
            dt_bias=per_channel(weights.dt_bias),
            dt_softplus=True,
        )
        return out


def difference(out: torch.Tensor, other: torch.Tensor) -> float:
    return float((out.float() - other.float()).norm() / other.float().norm())


def main() -> int:
    library = Library(Path(os.environ["AIM_KERNELS_LIBRARY"]))
    library.check_device()
    torch.manual_seed(0)
    constants = Constants.draw()
    source = os.environ.get("MAMBA_SSM_SRC")
    triton = Triton(source) if source else None
    bandwidths = copy_bandwidth()
    bandwidth = max(bandwidths.values())
    results: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "copy_tb_s": bandwidth / 1e12}
    seen = ", ".join(f"{name} {value / 1e12:.2f}" for name, value in bandwidths.items())
    lines = [f"{results['gpu']}: TB/s of a copy of 1 GiB, read and written: {seen}; shares are of the better"]
    missed = []

    def record(name: str, ours: float, moved: int, theirs: float | None, share_wanted: float | None) -> None:
        share = moved / (ours * 1e-3) / bandwidth
        line = f"{name:44s} {ours * 1e3:8.1f} us  {share:6.1%} of copy bandwidth"
        if share_wanted is not None and share < share_wanted:
            missed.append(f"{name}: {share:.1%} of copy bandwidth; wanted {share_wanted:.0%}")
        if theirs is not None:
            line += f"   Triton {theirs * 1e3:8.1f} us, {theirs / ours:5.2f} times ours"
            if theirs < ours:
                missed.append(f"{name}: Triton takes {theirs / ours:.2f} of our time")
        results[name] = {"us": ours * 1e3, "bytes": moved, "copy_share": share, "triton_us": theirs and theirs * 1e3}
        lines.append(line)

    with torch.no_grad():
        for state in (torch.float32, torch.float16):
            label = str(state).removeprefix("torch.")
            sets = [Scan(library, constants, DECODE_ROWS, 1, state, gate=True) for _ in range(4)]
            theirs = None
            if triton is not None:
                states = [scan.state.clone() for scan in sets]
                sets[0]()
                y = triton.update(sets[0], states[0])
                lines.append(
                    f"  update, ours and Triton's: y {difference(sets[0].y[:, 0], y):.1e}, "
                    f"state {difference(sets[0].state, states[0]):.1e}"
                )
                pairs = list(zip(sets, states, strict=True))
                theirs = milliseconds([lambda s=s, t=t: triton.update(s, t) for s, t in pairs] * 3)
            record(
                f"update, {DECODE_ROWS} rows, state {label}", milliseconds(sets * 3), sets[0].bytes, theirs, COPY_SHARE
            )
            fused = [DecodeStep(library, constants, DECODE_ROWS, state) for _ in range(4)]
            name = f"fused decode step, {DECODE_ROWS} rows, state {label}"
            record(name, milliseconds(fused * 3), fused[0].bytes, None, COPY_SHARE)
            few = [DecodeStep(library, constants, 2, state) for _ in range(64)]
            record(f"fused decode step, 2 rows, state {label}", milliseconds(few), few[0].bytes, None, None)
            del sets, fused, few
        for length, copies in ((256, 10), (4096, 2)):
            scans = [Scan(library, constants, SCAN_ROWS, length, torch.float32, gate=False) for _ in range(copies)]
            theirs = None
            if triton is not None:
                triton.forget_tuning()
                scans[0]()
                y, state_out = triton.scan(scans[0])
                lines.append(
                    f"  scan, ours and Triton's: y {difference(scans[0].y, y):.1e}, "
                    f"state {difference(scans[0].state, state_out):.1e}"
                )
                theirs = milliseconds([lambda s=s: triton.scan(s) for s in scans])  # type: ignore[misc]
            name = f"scan, {SCAN_ROWS} rows, {length} steps, bfloat16"
            record(name, milliseconds(scans), scans[0].bytes, theirs, None)
            one = [Scan(library, constants, 2, length, torch.float32, gate=False) for _ in range(4 * copies)]
            record(f"scan, 2 rows, {length} steps, bfloat16", milliseconds(one), one[0].bytes, None, None)
            del scans, one
    if triton is None:
        lines.append("mamba_ssm's kernels were NOT timed: MAMBA_SSM_SRC is not set")
    lines += [f"MISSED  {text}" for text in missed]
    sys.stdout.write("\n".join(lines) + "\n")
    out = os.environ.get("OUT")
    if out:
        Path(out, "kernels_gpu.json").write_text(json.dumps(results, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
