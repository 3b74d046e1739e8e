"""aim-edge plugins build: what it finds, what it says where something lacks, and what it makes."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from needs import missing
from plugin_needs import OUT

from aim_edge.plugins import build as builder
from aim_edge.plugins import toolkit
from aim_edge.plugins.toolkit import BuildError

TABLE = Path(builder.__file__).with_name("operators.json")
OPERATORS = len(json.loads(TABLE.read_text())["operators"])
NEEDED = re.compile(r"NEEDED.*\[([^\]]+)\]")
# What a library may ask of the system that loads it: no CUDA, no TensorRT. The process brings its own.
SYSTEM = {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"}


def fake_headers(folder: Path, major: str, minor: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "NvInferRuntime.h").touch()
    (folder / "NvInferVersion.h").write_text(
        f"#define TRT_MAJOR_ENTERPRISE {major}\n#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< major\n"
        f"#define NV_TENSORRT_MINOR {minor} //!< minor\n"
    )
    return folder


def fake_archive(path: Path, machine: int) -> Path:
    path.write_bytes(b"!<arch>\n" + b"\x7fELF" + bytes(14) + struct.pack("<H", machine))
    return path


def fake_toolkit(folder: Path) -> toolkit.Toolkit:
    return toolkit.Toolkit(folder / "bin/nvcc", "13.0", folder, "a test")


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "TENSORRT_ROOT", "AIM_CUDART"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(toolkit.sys, "path", [])
    monkeypatch.setattr(toolkit.Path, "is_file", lambda self: False)


@pytest.mark.usefixtures("nothing_here")
def test_without_nvcc_it_says_where_it_looked() -> None:
    with pytest.raises(
        BuildError, match=r"CUDA_HOME; PATH; /usr/local/cuda .*nvidia-cuda-nvcc.*Install a CUDA toolkit"
    ):
        toolkit.find_nvcc()


@pytest.mark.usefixtures("nothing_here")
def test_without_headers_it_says_where_it_looked() -> None:
    with pytest.raises(BuildError, match=r"TENSORRT_ROOT; the system .*kernel-lens.*--tensorrt-headers"):
        toolkit.find_tensorrt_headers()


def test_headers_by_folder_and_by_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fake_headers(tmp_path / "root/include", "8", "6")
    for given in (folder, folder.parent):
        assert toolkit.find_tensorrt_headers(given) == toolkit.Headers(folder, "8.6", "the folder given")
    monkeypatch.setenv("TENSORRT_ROOT", str(folder.parent))
    assert toolkit.find_tensorrt_headers() == toolkit.Headers(folder, "8.6", "TENSORRT_ROOT")
    assert toolkit.find_tensorrt_headers().major == 8
    with pytest.raises(BuildError, match="the folder given"):
        toolkit.find_tensorrt_headers(tmp_path)


def test_headers_without_a_version(tmp_path: Path) -> None:
    folder = fake_headers(tmp_path / "include", "", "x")
    with pytest.raises(BuildError, match=r"expected NV_TENSORRT_MAJOR and _MINOR, found"):
        toolkit.find_tensorrt_headers(folder)


def test_an_nvcc_that_is_none(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho no compiler here >&2; exit 1\n")
    nvcc.chmod(0o755)
    with pytest.raises(BuildError, match="does not run as nvcc does: no compiler here"):
        toolkit.find_nvcc(nvcc)


def test_the_runtime_for_aarch64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIM_CUDART", raising=False)
    with pytest.raises(BuildError, match=r"no libcudart_static.a for aarch64.*pip download"):
        toolkit.find_aarch64_cudart(fake_toolkit(tmp_path))
    for_x86 = fake_archive(tmp_path / "x86.a", 62)
    with pytest.raises(BuildError, match=r"is for ELF machine 62; expected 183 \(AArch64\)"):
        toolkit.find_aarch64_cudart(fake_toolkit(tmp_path), for_x86)
    monkeypatch.setenv("AIM_CUDART", str(fake_archive(tmp_path / "arm.a", 183)))
    assert toolkit.find_aarch64_cudart(fake_toolkit(tmp_path)) == tmp_path / "arm.a"


def test_wrong_requests(tmp_path: Path, compiler: toolkit.Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="preset is 'tx2'; expected one of native, ci, jetson-orin, jetson-thor"):
        builder.build("tx2", tmp_path)
    with pytest.raises(BuildError, match="architecture is 'sm_87'; expected a compute capability such as 87"):
        builder.build("ci", tmp_path, ["sm_87"], kernels_only=True)
    monkeypatch.setattr(builder.shutil, "which", lambda name: None)
    with pytest.raises(BuildError, match="needs aarch64-linux-gnu-g"):
        builder.build("jetson-orin", tmp_path, nvcc=compiler.nvcc, kernels_only=True)


@pytest.mark.parametrize(
    ("arch", "version", "code"),
    [
        ("87", "13.0", ["arch=compute_87,code=sm_87"]),
        ("120+ptx", "13.0", ["arch=compute_120,code=[sm_120,compute_120]"]),
        ("90", "12.0", ["arch=compute_90a,code=sm_90a"]),
        ("90+ptx", "12.0", ["arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"]),
        ("90", "11.8", ["arch=compute_90,code=sm_90"]),
    ],
)
def test_what_an_architecture_is_compiled_as(arch: str, version: str, code: list[str]) -> None:
    assert builder._gencode(arch, toolkit.Toolkit(Path("nvcc"), version, Path(), "a test")) == code


def elf(option: str, library: Path) -> str:
    return subprocess.run(["readelf", option, library], capture_output=True, text=True, check=True).stdout


def exported(library: Path) -> set[str]:
    return set(re.findall(r"\bT (\w+)$", subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout, re.MULTILINE))  # fmt: skip


def test_what_the_library_needs_and_exports(library: Path) -> None:
    assert set(NEEDED.findall(elf("-d", library))) <= SYSTEM | {"ld-linux-x86-64.so.2"}
    kernels = exported(library.with_name("libaim_kernels.so"))
    assert {"aim_sample", "aim_image_to_uint8"} < kernels and all(name.startswith("aim_") for name in kernels)
    # One library is plugins and sampler: beside the creators it exports the whole C ABI.
    assert exported(library) == {"getCreators", "setLoggerFinder"} | kernels


def test_a_second_build_compiles_nothing(library: Path, headers: toolkit.Headers) -> None:
    before = {path: path.stat().st_mtime_ns for path in (OUT / "objects").iterdir()}
    builder.build("ci", OUT / "host", ["90"], tensorrt_headers=headers.folder, cache=OUT / "objects", strict=True)
    assert {path: path.stat().st_mtime_ns for path in (OUT / "objects").iterdir()} == before


@pytest.fixture(scope="module")
def jetson(headers: toolkit.Headers, compiler: toolkit.Toolkit) -> builder.BuildReport:
    if shutil.which(builder.CROSS_COMPILER) is None:
        missing(f"{builder.CROSS_COMPILER} (g++-aarch64-linux-gnu)")
    try:
        cudart = toolkit.find_aarch64_cudart(compiler)
    except BuildError as error:
        missing(str(error))
    return builder.build(
        "jetson-orin", OUT / "orin", tensorrt_headers=headers.folder, cudart=cudart, cache=OUT / "objects", strict=True
    )


def test_the_jetson_library_is_for_aarch64(jetson: builder.BuildReport) -> None:
    assert jetson.archs == ("87",) and len(jetson.libraries) == 2
    for library in jetson.libraries:
        assert "AArch64" in elf("-h", library)
        assert set(NEEDED.findall(elf("-d", library))) <= SYSTEM | {"ld-linux-aarch64.so.1"}
    told = "\n".join(jetson.lines())
    assert "TensorRT 10" in told and str(jetson.cudart) in told and "nvcc 1" in told


def test_the_jetson_library_loads(jetson: builder.BuildReport) -> None:
    if shutil.which("qemu-aarch64") is None:
        missing("qemu-aarch64 (qemu-user)")
    program = OUT / "orin" / "load_library"
    c_compiler = builder.CROSS_COMPILER.replace("g++", "gcc")
    source = Path(__file__).with_name("load_library.c")
    subprocess.run([c_compiler, "-Wall", "-Werror", str(source), "-o", str(program), "-ldl"], check=True)
    root = "/usr/aarch64-linux-gnu"  # where Debian's cross compiler has its C library
    command = ["qemu-aarch64", "-L", root, "-E", f"LD_LIBRARY_PATH={root}/lib", str(program), str(jetson.libraries[-1])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout) == (0, f"{OPERATORS} creators\n"), run.stderr
