"""Where this machine's CUDA compiler, TensorRT headers and CUDA runtime for aarch64 are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Folder = str | os.PathLike[str]

NVCC_HELP = (
    "Install a CUDA toolkit and put nvcc on PATH or set CUDA_HOME, or install the wheels, all of one version: pip "
    "install nvidia-cuda-nvcc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* "
    "nvidia-cuda-cccl==13.0.*. For a Jetson, take the CUDA version of its JetPack or an older one."
)
TENSORRT_HELP = (
    "Name the folder that holds NvInferRuntime.h with --tensorrt-headers, set TENSORRT_ROOT, install TensorRT's "
    "development package (libnvinfer-dev), or: pip install --no-deps kernel-lens, a wheel that holds the headers of "
    "TensorRT 10.14. They must be of the major version that will load the library."
)
ONNXRUNTIME_HELP = (
    "Name the folder that holds onnxruntime_c_api.h: include/ of a release archive of ONNX Runtime 1.18 or later, or "
    "include/onnxruntime/core/session of its sources."
)
CUDART_HELP = (
    "Name it with --cudart or in AIM_CUDART. To get it: pip download --no-deps --only-binary=:all: "
    "--platform manylinux2014_aarch64 'nvidia-cuda-runtime==13.0.*' (the version of nvcc), then unzip the wheel."
)


class BuildError(RuntimeError):
    """A build that cannot start or did not succeed; the message says what was looked for and what to do."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA compiler with its headers."""

    nvcc: Path
    version: str
    root: Path
    found_by: str

    @property
    def include(self) -> Path:
        return self.root / "include"


@dataclass(frozen=True)
class Headers:
    """A folder of TensorRT or ONNX Runtime headers."""

    folder: Path
    version: str
    found_by: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def find_nvcc(explicit: Folder | None = None) -> Toolkit:
    """The CUDA compiler of `explicit`, $CUDA_HOME, PATH, /usr/local/cuda or the nvidia-cuda-nvcc wheel, in this order.

    Raises:
        BuildError: none of them has one; the message lists where it was looked for.
    """
    looked = []
    for found_by, nvcc in _nvcc_candidates(explicit):
        if nvcc is not None and nvcc.is_file():
            return _toolkit(nvcc, found_by)
        looked.append(f"{found_by} ({nvcc})" if nvcc is not None else found_by)
    raise BuildError(f"no nvcc found. Looked for: {'; '.join(looked)}. {NVCC_HELP}")


def _nvcc_candidates(explicit: Folder | None) -> Iterator[tuple[str, Path | None]]:
    if explicit is not None:
        yield "the folder or file given", _nvcc_in(Path(explicit))
        return
    home = os.environ.get("CUDA_HOME")
    yield "CUDA_HOME", _nvcc_in(Path(home)) if home else None
    on_path = shutil.which("nvcc")
    yield "PATH", Path(on_path) if on_path else None
    yield "/usr/local/cuda", Path("/usr/local/cuda/bin/nvcc")
    wheels = [root / "bin" / "nvcc" for root in _site_folders("nvidia/cu1*", "nvidia/cuda_nvcc")]
    yield "the wheel nvidia-cuda-nvcc", next(iter(wheels), None)


def _nvcc_in(place: Path) -> Path:
    return place / "bin" / "nvcc" if place.is_dir() else place


def _site_folders(*patterns: str) -> list[Path]:
    return [found for place in sys.path if place for pattern in patterns for found in sorted(Path(place).glob(pattern))]


def _toolkit(nvcc: Path, found_by: str) -> Toolkit:
    """Asks nvcc itself for its version and its root: it may be a script that starts one that lives elsewhere."""
    run = _run([str(nvcc), "--version"])
    version = re.search(r"release (\d+\.\d+)", run.stdout)
    top = re.search(r"^#\$ TOP=(.*)$", _run([str(nvcc), "--dryrun", "-E", "-x", "cu", os.devnull]).stderr, re.MULTILINE)
    if version is None or top is None:
        raise BuildError(f"{nvcc} ({found_by}) does not run as nvcc does: {(run.stderr or run.stdout).strip()[:400]}")
    root = Path(top.group(1).strip()).resolve()
    if not (root / "include" / "cuda_runtime_api.h").is_file():
        raise BuildError(f"{nvcc} ({found_by}) has no include/cuda_runtime_api.h beside it, in {root}. {NVCC_HELP}")
    return Toolkit(nvcc, version.group(1), root, found_by)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def find_tensorrt_headers(explicit: Folder | None = None) -> Headers:
    """TensorRT headers of `explicit`, $TENSORRT_ROOT, the system or the kernel-lens wheel, in this order.

    Raises:
        BuildError: none of them has NvInferRuntime.h, or its version cannot be read.
    """
    looked = []
    for found_by, folder in _header_candidates(explicit):
        if folder is not None and (folder / "NvInferRuntime.h").is_file():
            return Headers(folder, _tensorrt_version(folder), found_by)
        looked.append(f"{found_by} ({folder})" if folder is not None else found_by)
    raise BuildError(f"no TensorRT headers found. Looked for: {'; '.join(looked)}. {TENSORRT_HELP}")


def _header_candidates(explicit: Folder | None) -> Iterator[tuple[str, Path | None]]:
    if explicit is not None:
        yield "the folder given", Path(explicit)
        yield "the folder given", Path(explicit) / "include"
        return
    root = os.environ.get("TENSORRT_ROOT")
    yield "TENSORRT_ROOT", Path(root) / "include" if root else None
    for system in ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu", "/usr/include"):
        yield "the system", Path(system)
    wheels = _site_folders("kernel_lens/include/tensorrt")
    yield "the wheel kernel-lens", next(iter(wheels), None)


def _tensorrt_version(folder: Path) -> str:
    """major.minor of NvInferVersion.h, whose macros may refer to one another."""
    text = (folder / "NvInferVersion.h").read_text() if (folder / "NvInferVersion.h").is_file() else ""
    macros: dict[str, str] = dict(re.findall(r"^#define +(\w+) +(\w+)", text, re.MULTILINE))
    numbers = []
    for part in ("MAJOR", "MINOR"):
        value = macros.get(f"NV_TENSORRT_{part}", "")
        numbers.append(macros.get(value, value))
    if not all(number.isdigit() for number in numbers):
        raise BuildError(f"{folder}/NvInferVersion.h: expected NV_TENSORRT_MAJOR and _MINOR, found {numbers}")
    return ".".join(numbers)


def find_onnxruntime_headers(explicit: Folder) -> Headers:
    """ONNX Runtime's C headers in `explicit` or its include/.

    Raises:
        BuildError: there are none, or they are of a version before 1.18.
    """
    for folder in (Path(explicit), Path(explicit) / "include"):
        if not (folder / "onnxruntime_c_api.h").is_file():
            continue
        found = re.search(r"^#define ORT_API_VERSION (\d+)", (folder / "onnxruntime_c_api.h").read_text(), re.MULTILINE)
        minor = int(found.group(1)) if found else 0
        if minor < 18:
            raise BuildError(f"{folder}/onnxruntime_c_api.h: ORT_API_VERSION is {minor}; expected 18 or more")
        return Headers(folder, f"1.{minor}", "the folder given")
    raise BuildError(f"no onnxruntime_c_api.h in {explicit} or its include. {ONNXRUNTIME_HELP}")


def find_aarch64_cudart(toolkit: Toolkit, explicit: Folder | None = None) -> Path:
    """A libcudart_static.a for aarch64: `explicit`, $AIM_CUDART, or the toolkit's own cross-compilation target.

    Raises:
        BuildError: there is none, or the one that is there is for another processor.
    """
    given = explicit if explicit is not None else os.environ.get("AIM_CUDART")
    targets = [toolkit.root / "targets" / name / "lib/libcudart_static.a" for name in ("aarch64-linux", "sbsa-linux")]
    places = [Path(given)] if given else targets
    for place in places:
        if place.is_file():
            _check_aarch64(place)
            return place
    raise BuildError(f"no libcudart_static.a for aarch64. Looked for: {_join(places)}. {CUDART_HELP}")


def _check_aarch64(archive: Path) -> None:
    """By the ELF header of the archive's first object: e_machine 183 is AArch64."""
    data = archive.read_bytes()
    start = data.find(b"\x7fELF")
    machine = int.from_bytes(data[start + 18 : start + 20], "little") if start >= 0 else 0
    if machine != 183:
        raise BuildError(f"{archive} is for ELF machine {machine}; expected 183 (AArch64). {CUDART_HELP}")


def _join(places: Iterable[Path]) -> str:
    return ", ".join(str(place) for place in places)
