#!/usr/bin/env bash
# Compiles every source of ours that reads TensorRT's headers against each folder of headers that is named, and what
# they share with ONNX Runtime's without any, with warnings as errors. Host compiler only: seconds, no nvcc, no GPU.
#
#     bash tests/plugins/compile_all.sh FOLDER...        each holds NvInferRuntime.h
#
# CUDA's own headers are looked for beside nvcc; CUDA_INCLUDE names them otherwise. CXX is the compiler (g++).
set -uo pipefail
cd "$(dirname "$0")/../.."
if [ $# = 0 ]; then
    echo "compile_all.sh: name one or more folders of TensorRT headers" >&2
    exit 2
fi
cuda="${CUDA_INCLUDE:-$(nvcc --dryrun -E -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')/include}"
if [ ! -f "$cuda/cuda_runtime_api.h" ]; then
    echo "compile_all.sh: no cuda_runtime_api.h in '$cuda'; set CUDA_INCLUDE" >&2
    exit 2
fi
flags=(-std=c++17 -O1 -fPIC -fvisibility=hidden -Wall -Wextra -Werror)
flags+=(-isystem "$cuda" -isystem "$cuda/cccl" -Iplugins/include -Iplugins/operators)
objects="$(mktemp -d)"
trap 'rm -rf "$objects"' EXIT
failed=0
compile() { # FLAG... SOURCE
    "${CXX:-g++}" "${flags[@]}" "${@:1:$#-1}" -c "${@: -1}" -o "$objects/object.o"
}
sources=(plugins/operators/*.cpp) bad=0
for source in "${sources[@]}"; do
    compile "$source" || bad=1
done
[ "$bad" = 0 ] && echo "ok      no framework: ${#sources[@]} sources" || { echo "FAILED  no framework"; failed=1; }
for headers in "$@"; do
    if [ ! -f "$headers/NvInferRuntime.h" ]; then
        echo "FAILED  $headers holds no NvInferRuntime.h"
        failed=1
        continue
    fi
    # The macros may refer to one another: let the preprocessor say what they are.
    version="$(printf '#include <NvInferVersion.h>\nNV_TENSORRT_MAJOR.NV_TENSORRT_MINOR\n' |
        "${CXX:-g++}" -x c++ -E -P -isystem "$headers" - | tail -n 1 | tr -d ' ')"
    sources=(plugins/tensorrt/*.cpp)
    case $version in [89].*) ;; *) sources+=(tests/plugins/v3_*.cpp) ;; esac
    bad=0
    for source in "${sources[@]}"; do
        compile -isystem "$headers" -Iplugins/tensorrt "$source" || bad=1
    done
    if [ "$bad" = 0 ]; then
        echo "ok      TensorRT $version: ${#sources[@]} sources"
    else
        echo "FAILED  TensorRT $version"
        failed=1
    fi
done
exit "$failed"
