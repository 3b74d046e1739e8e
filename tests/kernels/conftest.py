"""The same tests on two devices: a GPU (marker `gpu`, library in $AIM_KERNELS_LIBRARY), and the CPU emulator.

Without $AIM_KERNELS_LIBRARY the gpu tests are skipped and say that nothing was tested. With it, whatever is missing
is a failure; gpu_proof.sh sets it, and counts a skipped test as a failure too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kernels import toolkit
from kernels.abi import Library
from kernels.harness import CudaMemory, Device, HostMemory

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# Recurrence steps times state elements that the emulator gets through in a few seconds.
EMULATED_WORK = 5_000_000


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    headers = toolkit.headers()
    if headers is None or shutil.which("g++") is None:
        pytest.skip("the kernel emulator needs g++ and CUDA's headers (nvcc on PATH, CUDA_HOME or the nvidia wheels)")
    folder = tmp_path_factory.mktemp("emulated")
    emulator = HERE / "emulator"
    plugins = ROOT / "plugins"
    flags = ["-x", "c++", "-std=c++17", "-O2", "-fPIC", "-fno-strict-aliasing", "-Wno-unknown-pragmas"]
    flags += ["-Wall", "-Wextra", "-Werror"]
    flags += ["-include", str(emulator / "cuda_emulator.h"), f"-I{emulator}", f"-isystem{headers}"]
    flags += [f"-I{plugins / part}" for part in ("include", "src", "capi")]
    sources = [*plugins.glob("src/*.cu"), *plugins.glob("capi/*.cpp"), *emulator.glob("*.cpp")]
    objects = [folder / f"{source.name}.o" for source in sources]

    def compile_one(source: Path, to: Path) -> None:
        subprocess.run(["g++", *flags, "-c", str(source), "-o", str(to)], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    library = folder / "libaim_kernels_emulated.so"
    # Its own CUDA calls, even where a PyTorch in this process has brought the real ones along.
    subprocess.run(["g++", "-shared", "-Wl,-Bsymbolic", "-o", str(library), *map(str, objects)], check=True)
    return Library(library)


@pytest.fixture(scope="session")
def gpu_library() -> Library:
    path = os.environ.get("AIM_KERNELS_LIBRARY")
    if not path:
        pytest.skip("AIM_KERNELS_LIBRARY names no libaim_kernels.so: the CUDA kernels are NOT tested on a GPU here")
    library = Library(Path(path))
    library.check_device()
    return library


@pytest.fixture(scope="session")
def cuda_memory() -> CudaMemory:
    return CudaMemory()


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu), "emulated"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    if request.param == "gpu":
        made = Device(request.getfixturevalue("gpu_library"), request.getfixturevalue("cuda_memory"), emulated=False)
    else:
        made = Device(request.getfixturevalue("emulated_library"), HostMemory(), emulated=True)
    yield made
    made.release()


@pytest.fixture(autouse=True)
def _only_small_work_is_emulated(request: pytest.FixtureRequest) -> None:
    """Leaves rows of a test table that the emulator would take too long for to the GPU."""
    case = getattr(request.node, "callspec", None)
    if case is None or case.params.get("device") != "emulated":
        return
    work = getattr(case.params.get("case"), "work", 0)
    if work > EMULATED_WORK:
        pytest.skip(f"{work} element steps: for the GPU")
