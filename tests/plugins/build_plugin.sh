#!/usr/bin/env bash
# Builds libaim_edge_tensorrt.so with nvcc alone, every source side by side.
#
#     bash tests/plugins/build_plugin.sh ARCH TENSORRT_HEADERS OUT        ARCH as 90
set -euo pipefail
cd "$(dirname "$0")/../.."
arch="$1" headers="$2" out="$3"
if [ ! -f "$headers/NvInferRuntime.h" ]; then
    echo "build_plugin.sh: $headers holds no NvInferRuntime.h" >&2
    exit 2
fi
if ! command -v nvcc >/dev/null; then
    PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
    command -v nvcc >/dev/null || { echo "build_plugin.sh: no nvcc on PATH, in CUDA_HOME or /usr/local/cuda" >&2; exit 2; }
fi
export PATH
objects="$(mktemp -d)"
trap 'rm -rf "$objects"' EXIT
mkdir -p "$out"
# 90a has products that 90 lacks; CUDA 11 does not know it.
release="$(nvcc --version | sed -n 's/.*release \([0-9]*\).*/\1/p')"
if [ "$arch" = 90 ] && [ "$release" -ge 12 ]; then arch=90a; fi
code="-gencode arch=compute_$arch,code=sm_$arch"
flags="$code -O3 -std=c++17 -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra"
flags="$flags -Iplugins/include -Iplugins/src -Iplugins/capi -Iplugins/operators -Iplugins/tensorrt -isystem $headers"
printf '%s\n' plugins/src/*.cu plugins/capi/*.cpp plugins/operators/*.cpp plugins/tensorrt/*.cpp |
    xargs -P "$(nproc)" -I{} sh -c "nvcc $flags -c {} -o $objects/\$(basename {}).o || exit 255"
nvcc $code -shared -Xcompiler -fPIC -Xlinker --version-script=plugins/tensorrt/exports.map -Xlinker -z \
    -Xlinker nodelete -Xlinker --no-undefined "$objects"/*.o -ldl -lrt -lpthread -o "$out/libaim_edge_tensorrt.so"
# TensorRT must not be needed to load it: the process that loads it has its own.
if readelf -d "$out/libaim_edge_tensorrt.so" 2>/dev/null | grep -q 'NEEDED.*nvinfer'; then
    echo "build_plugin.sh: the library needs libnvinfer" >&2
    exit 1
fi
