#!/usr/bin/env bash
# The IPluginV3 objects on a GPU, in one command: builds the plugin library against TensorRT 10's headers and the host
# program that stands in for TensorRT, and runs it (see v3_host.cpp); once more with a library that was compiled for
# another GPU, which must refuse. Logs go to $OUT (default: ./v3_proof).
#
#     bash tests/plugins/v3_proof.sh TENSORRT_HEADERS
#
# Needs nvcc. ARCH (90) is the GPU's compute capability, OTHER_ARCH (80) one whose code it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
headers="${1:?names no folder of the headers of TensorRT 10 or later}" out="${OUT:-v3_proof}" arch="${ARCH:-90}" other="${OTHER_ARCH:-80}"
command -v nvcc >/dev/null || export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
build="$(mktemp -d)"
trap 'rm -rf "$build"' EXIT
mkdir -p "$out"
started=$SECONDS

bash tests/plugins/build_plugin.sh "$arch" "$headers" "$build" >"$out/v3_build.log" 2>&1 &
first=$!
bash tests/plugins/build_plugin.sh "$other" "$headers" "$build/other" >"$out/v3_build_other.log" 2>&1 &
second=$!
nvcc -std=c++17 -O2 -Xcompiler -Wall,-Wextra -isystem "$headers" tests/plugins/v3_host.cpp -o "$build/v3_host" -ldl \
    >"$out/v3_build_host.log" 2>&1
host=$?
wait "$first" && wait "$second" && [ "$host" = 0 ]
if [ $? != 0 ]; then
    tail -n 20 "$out"/v3_build*.log
    echo "FAILED: the build"
    exit 1
fi
echo "built in $((SECONDS - started)) s"

failed=0
"$build/v3_host" "$build/libaim_edge_tensorrt.so" >"$out/v3_host.log" 2>"$out/v3_host_messages.log" || failed=1
cat "$out/v3_host.log"
grep -q '^[1-9][0-9]* cases, 0 failures$' "$out/v3_host.log" || failed=1

if "$build/v3_host" "$build/other/libaim_edge_tensorrt.so" >"$out/v3_other_arch.log" 2>&1; then
    echo "FAILED: a library without code for this GPU passes"
    failed=1
elif grep -q "this library was built for: $other" "$out/v3_other_arch.log"; then
    echo "PASS  a library for sm_$other only: $(grep -m 1 'built for' "$out/v3_other_arch.log")"
else
    echo "FAILED: a library without code for this GPU does not say so; see v3_other_arch.log"
    failed=1
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "$([ "$failed" = 0 ] && echo PASSED || echo FAILED) in $((SECONDS - started)) s; logs in $out"
exit "$failed"
