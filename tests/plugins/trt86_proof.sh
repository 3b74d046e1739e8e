#!/usr/bin/env bash
# Real TensorRT 8.6 against PyTorch, in one command: builds the plugin library against its headers and runs
# trt86_proof.py, whose arguments follow. Logs and proof.json go to $OUT (default: ./trt86_proof).
#
#     bash tests/plugins/trt86_proof.sh --case REFERENCE.npz BUNDLE... [--case ...] [--golden FILE] [--level N]
#
# Needs nvcc, a GPU, and in PYTHON_TRT (python3.10) a Python 3.10 that imports numpy and tensorrt 8.6.
# HEADERS is the folder of TensorRT 8.6's headers, ARCH (90) the GPU's compute capability.
set -uo pipefail
cd "$(dirname "$0")/../.."
export OUT="${OUT:-trt86_proof}"
python="${PYTHON_TRT:-python3.10}" headers="${HEADERS:?names no folder of the headers of TensorRT 8.6}"
mkdir -p "$OUT"
started=$SECONDS
if ! "$python" -c 'import tensorrt, numpy' 2>"$OUT/trt86_import.log"; then
    cat "$OUT/trt86_import.log"
    echo "FAILED: $python does not import tensorrt and numpy; set PYTHON_TRT"
    exit 1
fi
library="$(mktemp -d)"
trap 'rm -rf "$library"' EXIT
if ! bash tests/plugins/build_plugin.sh "${ARCH:-90}" "$headers" "$library" \
    >"$OUT/trt86_build.log" 2>&1; then
    tail -n 30 "$OUT/trt86_build.log"
    echo "FAILED: the plugin library does not build"
    exit 1
fi
echo "plugin library built in $((SECONDS - started)) s"
"$python" tests/plugins/trt86_proof.py --library "$library/libaim_edge_tensorrt.so" "$@" 2>&1 | tee "$OUT/trt86_proof.log"
code=${PIPESTATUS[0]}
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "exit status $code after $((SECONDS - started)) s; logs in $OUT"
exit "$code"
