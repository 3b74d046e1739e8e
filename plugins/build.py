"""Compiles the kernels and their adapters with nvcc alone, natively or for a Jetson.

The same sources as CMakeLists.txt builds, for a machine that has no CMake or to build for another one: `build` finds
the compiler and the headers, reports which it took, and keeps every object, so that a second build compiles only what
changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .toolkit import (
    BuildError,
    Folder,
    Headers,
    Toolkit,
    find_aarch64_cudart,
    find_nvcc,
    find_onnxruntime_headers,
    find_tensorrt_headers,
)

PLUGINS = Path(__file__).resolve().parent
WARNINGS = "-Wall,-Wextra"


@dataclass(frozen=True)
class Preset:
    """Architectures to compile for; a last one that ends in "+ptx" also serves later GPUs. Empty: this machine's."""

    archs: tuple[str, ...]
    cross: bool = False
    about: str = ""


PRESETS: dict[str, Preset] = {
    "native": Preset((), about="this machine's GPU"),
    "ci": Preset(("80", "86", "87", "89", "90", "100", "110", "120+ptx"), about="every architecture, compile only"),
    "jetson-orin": Preset(("87",), cross=True, about="Jetson Orin: aarch64, sm_87"),
    "jetson-thor": Preset(("110",), cross=True, about="Jetson Thor: aarch64, sm_110, CUDA 13"),
}
CROSS_COMPILER = "aarch64-linux-gnu-g++"


@dataclass(frozen=True)
class BuildReport:
    """What was built, and with what."""

    libraries: tuple[Path, ...]
    archs: tuple[str, ...]
    toolkit: Toolkit
    tensorrt: Headers | None
    cudart: Path | None
    notes: tuple[str, ...] = ()
    onnxruntime: Headers | None = None

    def lines(self) -> list[str]:
        toolkit = self.toolkit
        told = [f"nvcc {toolkit.version}: {toolkit.nvcc} (by {toolkit.found_by})"]
        if self.tensorrt is not None:
            told.append(f"TensorRT {self.tensorrt.version}: {self.tensorrt.folder} (by {self.tensorrt.found_by})")
        if self.onnxruntime is not None:
            told.append(f"ONNX Runtime {self.onnxruntime.version}: {self.onnxruntime.folder}")
        if self.cudart is not None:
            told.append(f"CUDA runtime: {self.cudart}")
        told += [f"architectures: {', '.join(self.archs)}", *self.notes]
        return told + [f"built {library}" for library in self.libraries]


@dataclass
class _Compiler:
    """One set of flags, and a cache of the objects that it made."""

    toolkit: Toolkit
    archs: tuple[str, ...]
    cross: bool
    cudart: Path | None
    cache: Path
    jobs: int
    strict: bool
    common: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.common = [f"-gencode={code}" for arch in self.archs for code in _gencode(arch, self.toolkit)]
        if self.cross:
            self.common += ["-ccbin", CROSS_COMPILER, "-cudart", "none", "-I", str(self.toolkit.include)]

    def compile_all(self, sources: Sequence[Path], includes: Sequence[Path], system: Sequence[Path]) -> list[Path]:
        host = f"-fPIC,-fvisibility=hidden,{WARNINGS}" + (",-Werror" if self.strict else "")
        flags = ["-O3", "-std=c++17", "-Xcompiler", host, *self.common]
        flags += [f"-I{folder}" for folder in includes]
        for folder in system:
            flags += ["-isystem", str(folder)]
        digest = _digest(flags, self.toolkit, [h for folder in includes for h in sorted(folder.rglob("*.*h"))], system)
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(lambda source: self._compile(source, flags, digest), sources))

    def _compile(self, source: Path, flags: list[str], digest: str) -> Path:
        key = hashlib.sha256(digest.encode() + source.read_bytes()).hexdigest()[:24]
        target = self.cache / f"{source.stem}-{key}.o"
        if not target.is_file():
            half = target.with_suffix(f".{os.getpid()}.o")  # a build that is cut off leaves no object half written
            _nvcc([str(self.toolkit.nvcc), *flags, "-c", str(source), "-o", str(half)], f"compiling {source.name}")
            half.replace(target)
        return target

    def link(self, objects: Sequence[Path], target: Path, exports: Path | None) -> Path:
        options = ["--no-undefined", "-z", "nodelete"]
        options += [f"--version-script={exports}"] if exports is not None else []
        command = [str(self.toolkit.nvcc), "-shared", *self.common, "-Xcompiler", "-fPIC", *map(str, objects)]
        if not self.cross:
            command += ["-L", str(self.toolkit.root / "lib")]  # where the wheels have it; nvcc looks in lib64
        command += [flag for option in options for flag in ("-Xlinker", option)]
        if self.cudart is not None:
            command.append(str(self.cudart))
        half = target.with_suffix(".so.partial")
        _nvcc([*command, "-ldl", "-lrt", "-lpthread", "-o", str(half)], f"linking {target.name}")
        half.replace(target)
        return target


def build(
    preset: str = "native",
    out: Folder = "build/plugins",
    archs: Sequence[str] = (),
    *,
    nvcc: Folder | None = None,
    tensorrt_headers: Folder | None = None,
    onnxruntime_headers: Folder | None = None,
    cudart: Folder | None = None,
    cache: Folder | None = None,
    jobs: int = 0,
    kernels_only: bool = False,
    strict: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> BuildReport:
    """Builds libaim_kernels.so (the C ABI) and libaim_edge_tensorrt.so (the plugins and the C ABI) into `out`.

    Args:
        preset: a name of PRESETS.
        out: folder of the libraries; made if needed.
        archs: compute capabilities in place of the preset's, as "87" or "90+ptx".
        nvcc: compiler, or toolkit folder, in place of the one that is found.
        tensorrt_headers: folder of NvInferRuntime.h in place of the one that is found.
        onnxruntime_headers: folder of onnxruntime_c_api.h; builds libaim_edge_onnxruntime.so too.
        cudart: libcudart_static.a for aarch64, for the presets that cross-compile.
        cache: folder that keeps the objects; by default `out`/objects.
        jobs: compilers at a time; 0: as many as there are processors.
        kernels_only: no TensorRT adapter.
        strict: a warning of the host compiler is an error.
        progress: is called with a line before each part of the work.

    Raises:
        BuildError: something is missing, or the compiler refused; the message says what to do.
    """
    if preset not in PRESETS:
        raise BuildError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    toolkit = find_nvcc(nvcc)
    headers = None if kernels_only else find_tensorrt_headers(tensorrt_headers)
    ort = None if onnxruntime_headers is None else find_onnxruntime_headers(onnxruntime_headers)
    targets = tuple(archs) or chosen.archs or (_native_arch(),)
    if chosen.cross and shutil.which(CROSS_COMPILER) is None:
        raise BuildError(
            f"preset {preset} needs {CROSS_COMPILER} (Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu)"
        )
    library = find_aarch64_cudart(toolkit, cudart) if chosen.cross else None
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    store = Path(cache) if cache is not None else folder / "objects"
    store.mkdir(parents=True, exist_ok=True)
    compiler = _Compiler(toolkit, targets, chosen.cross, library, store, jobs or os.cpu_count() or 1, strict)

    progress(f"compiling the kernels for {', '.join(targets)}")
    own = [PLUGINS / "include", PLUGINS / "src"]
    kernels = compiler.compile_all(sorted((PLUGINS / "src").glob("*.cu")), own, [])
    capi = compiler.compile_all(sorted((PLUGINS / "capi").glob("*.cpp")), [*own, PLUGINS / "capi"], [])
    libraries = [compiler.link([*kernels, *capi], folder / "libaim_kernels.so", None)]

    def add_adapter(name: str, framework: Headers, besides: Sequence[Path] = ()) -> None:
        operators, adapter = PLUGINS / "operators", PLUGINS / name
        shared = [PLUGINS / "include", operators]
        objects = compiler.compile_all(sorted(operators.glob("*.cpp")), shared, [])
        objects += compiler.compile_all(sorted(adapter.glob("*.cpp")), [*shared, adapter], [framework.folder])
        target = folder / f"libaim_edge_{name}.so"
        libraries.append(compiler.link([*kernels, *besides, *objects], target, adapter / "exports.map"))

    if ort is not None:
        progress(f"compiling the operators against ONNX Runtime {ort.version}")
        add_adapter("onnxruntime", ort)
    if headers is not None:
        progress(f"compiling the plugins against TensorRT {headers.version}")
        add_adapter("tensorrt", headers, capi)
    return BuildReport(tuple(libraries), targets, toolkit, headers, library, onnxruntime=ort)


def _gencode(arch: str, toolkit: Toolkit) -> list[str]:
    """What an architecture is compiled as: 90 as 90a, which has products that later GPUs lack, so not as their PTX."""
    number, _, ptx = arch.partition("+")
    if not number.isdigit() or ptx not in ("", "ptx"):
        raise BuildError(f"architecture is {arch!r}; expected a compute capability such as 87, or 90+ptx")
    if number == "90" and int(toolkit.version.split(".")[0]) >= 12:  # CUDA 11 does not know 90a
        later = ["arch=compute_90,code=compute_90"] if ptx else []
        return ["arch=compute_90a,code=sm_90a", *later]
    code = f"[sm_{number},compute_{number}]" if ptx else f"sm_{number}"
    return [f"arch=compute_{number},code={code}"]


def _native_arch() -> str:
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(
            f"preset native: nvidia-smi does not name a GPU here ({error}). Choose another preset "
            f"({', '.join(PRESETS)}) or name the compute capability with --arch, e.g. 87"
        ) from error
    return told[0].replace(".", "")


def _digest(flags: Sequence[str], toolkit: Toolkit, headers: Sequence[Path], system: Sequence[Path]) -> str:
    """Of all that an object depends on beside its source."""
    digest = hashlib.sha256(" ".join([*flags, toolkit.version]).encode())
    told = [folder / name for folder in system for name in ("NvInferVersion.h", "onnxruntime_c_api.h")]
    for path in [*headers, *filter(Path.is_file, told)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _nvcc(command: list[str], what: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise BuildError(f"{what} failed (exit status {run.returncode}):\n{(run.stderr or run.stdout).strip()[-4000:]}")
