"""What the tests of the plugins build once: compiled as `aim-edge plugins build` does, kept in build/test-plugins."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from needs import missing
from plugin_needs import OUT, ROOT

from aim_edge.plugins import build as builder
from aim_edge.plugins import toolkit


@pytest.fixture(scope="session")
def headers() -> toolkit.Headers:
    """TensorRT 10 or later: the headers of IPluginV3."""
    try:
        found = toolkit.find_tensorrt_headers()
    except toolkit.BuildError as error:
        missing(str(error))
    if found.major < 10:
        missing(f"TensorRT headers of version 10 or later; found {found.version} in {found.folder}")
    return found


@pytest.fixture(scope="session")
def compiler() -> toolkit.Toolkit:
    try:
        return toolkit.find_nvcc()
    except toolkit.BuildError as error:
        missing(str(error))
        raise


SINGLE_ARCH = "90"  # one, because compiling takes most of the time


@pytest.fixture(scope="session")
def library(headers: toolkit.Headers, compiler: toolkit.Toolkit) -> Path:
    """The plugin library for this machine's processor, with every warning an error."""
    report = builder.build(
        "ci", OUT / "host", [SINGLE_ARCH], tensorrt_headers=headers.folder, cache=OUT / "objects", strict=True
    )
    return report.libraries[-1]


@pytest.fixture(scope="session")
def emulated(headers: toolkit.Headers, compiler: toolkit.Toolkit) -> tuple[Path, Path]:
    """The host program and the plugin library over the kernels' CPU emulator: everything but the GPU is real."""
    if shutil.which("g++") is None:
        missing("g++, for the emulated kernels")
    target = OUT / "emulated"
    target.mkdir(parents=True, exist_ok=True)
    emulator, plugins, here = ROOT / "tests/kernels/emulator", ROOT / "plugins", Path(__file__).parent
    cuda = compiler.include
    common = ["g++", "-std=c++17", "-O1", "-fPIC", "-isystem", str(cuda), "-isystem", str(cuda / "cccl")]
    tensorrt = ["-isystem", str(headers.folder)]
    kernels = ["-x", "c++", "-fno-strict-aliasing", "-Wno-unknown-pragmas", f"-I{emulator}"]
    kernels += ["-include", str(emulator / "cuda_emulator.h"), f"-I{plugins / 'src'}"]
    objects = []

    def compile_one(source: Path, *flags: str) -> None:
        made = target / f"{source.name}.o"
        command = [*common, *flags, f"-I{plugins / 'include'}", "-c", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
        objects.append(str(made))

    for source in [*sorted(plugins.glob("src/*.cu")), *sorted(emulator.glob("*.cpp"))]:
        compile_one(source, *kernels)
    shared = ["-fvisibility=hidden", f"-I{plugins / 'operators'}"]
    for source in sorted(plugins.glob("operators/*.cpp")):
        compile_one(source, *shared)
    for source in sorted(plugins.glob("tensorrt/*.cpp")):
        compile_one(source, *shared, *tensorrt)
    compile_one(here / "emulated" / "cuda_memory.cpp")
    library = target / "libaim_edge_tensorrt.so"
    exports = f"-Wl,--version-script={plugins / 'tensorrt' / 'exports.map'}"
    subprocess.run(["g++", "-shared", "-o", str(library), *objects, exports, "-Wl,--no-undefined", "-ldl"], check=True)
    program = target / "v3_host"
    sources = [str(here / "v3_host.cpp"), str(here / "emulated" / "cuda_memory.cpp")]
    command = [*common, *tensorrt, "-DAIM_KERNELS_EMULATED", *sources, "-o", str(program), "-ldl"]
    subprocess.run(command, check=True)
    return program, library
