"""aim-edge plugins: compile the CUDA kernels and the TensorRT plugin library from the sources in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import errors, output

app = typer.Typer(help="Build the CUDA kernels and the TensorRT plugins.", no_args_is_help=True)

_Nvcc = Annotated[
    Path | None, typer.Option("--nvcc", help="nvcc or a toolkit's folder; else CUDA_HOME, PATH, the wheel.")
]
_Headers = Annotated[
    Path | None,
    typer.Option("--tensorrt-headers", help="Folder of NvInferRuntime.h; else TENSORRT_ROOT, the system, the wheel."),
]


@app.command("build")
def build(
    preset: Annotated[
        str, typer.Option("--preset", help="native, ci, jetson-orin or jetson-thor: what to compile for.")
    ] = "native",
    out: Annotated[Path, typer.Option("--out", help="Folder of the libraries.")] = Path("build/plugins"),
    arch: Annotated[
        list[str] | None,
        typer.Option("--arch", help="Compute capability in place of the preset's, such as 87 or 90+ptx; repeatable."),
    ] = None,
    nvcc: _Nvcc = None,
    tensorrt_headers: _Headers = None,
    onnxruntime_headers: Annotated[
        Path | None,
        typer.Option("--onnxruntime-headers", help="Folder of onnxruntime_c_api.h: build its operators too."),
    ] = None,
    cudart: Annotated[
        Path | None, typer.Option("--cudart", help="libcudart_static.a for aarch64, for the Jetson presets.")
    ] = None,
    kernels_only: Annotated[bool, typer.Option("--kernels-only", help="No TensorRT plugins.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Compilers at a time; 0: one a processor.")] = 0,
) -> None:
    """Compile libaim_kernels.so and libaim_edge_tensorrt.so, and say which compiler and headers were taken."""
    from aim_edge.plugins import build as builder

    report = builder.build(
        preset, out, arch or (), nvcc=nvcc, tensorrt_headers=tensorrt_headers,
        onnxruntime_headers=onnxruntime_headers, cudart=cudart,
        kernels_only=kernels_only, jobs=jobs, progress=lambda line: errors.print(line, soft_wrap=True),
    )  # fmt: skip
    for line in report.lines():
        output.print(line, soft_wrap=True)


@app.command("find")
def find(nvcc: _Nvcc = None, tensorrt_headers: _Headers = None) -> None:
    """Say which compiler and which TensorRT headers a build would take here, or what is missing."""
    from aim_edge.plugins.toolkit import find_nvcc, find_tensorrt_headers

    toolkit = find_nvcc(nvcc)
    output.print(f"nvcc {toolkit.version}: {toolkit.nvcc} (by {toolkit.found_by})", soft_wrap=True)
    headers = find_tensorrt_headers(tensorrt_headers)
    output.print(f"TensorRT headers {headers.version}: {headers.folder} (by {headers.found_by})", soft_wrap=True)
