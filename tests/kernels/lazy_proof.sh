#!/usr/bin/env bash
# mamba2_lazy_step on a GPU, in one command: builds the library, runs the operator's gpu tests, then the benchmark, which
# proves 256 steps against float64 first, and the chain of a whole step beside the ordinary operator's.
#
#     bash tests/kernels/lazy_proof.sh
#
# Needs nvcc (12 or later) and a python3 with numpy, pytest and torch. ARCH (90a) is the GPU's. Exits non-zero if anything
# failed or was skipped. CHAIN=0 leaves out the chain.
set -euo pipefail
cd "$(dirname "$0")/../.."
arch="${ARCH:-90a}"
build="${BUILD:-$(mktemp -d)}"
mkdir -p "$build/objects"
code="-gencode arch=compute_$arch,code=sm_$arch"
flags="$code -O3 -std=c++17 -Xcompiler -fPIC -lineinfo -Iplugins/include -Iplugins/src -Iplugins/capi"
printf '%s\n' plugins/src/*.cu plugins/capi/*.cpp |
    xargs -P "$(nproc)" -I{} sh -c "nvcc $flags -c {} -o $build/objects/\$(basename {}).o || exit 255"
# shellcheck disable=SC2086
nvcc $code -shared -Xcompiler -fPIC -o "$build/libaim_kernels.so" "$build"/objects/*.o
export AIM_KERNELS_LIBRARY="$build/libaim_kernels.so" PYTHONUNBUFFERED=1
mkdir -p "$build/site/aim_edge"
ln -sfn "$PWD/package/__init__.py" "$build/site/aim_edge/__init__.py"
ln -sfn "$PWD/runtime" "$build/site/aim_edge/runtime"
export PYTHONPATH="$build/site:tests${PYTHONPATH:+:$PYTHONPATH}"
python3 -m pytest -p no:cacheprovider tests/kernels/test_mamba2_lazy_step.py tests/kernels/test_mamba2_decode_step.py \
    -m gpu -q -rs | tee "$build/tests.log"
if grep -q "skipped" "$build/tests.log"; then
    echo "FAILED: gpu tests were skipped"
    exit 1
fi
python3 benchmarks/lazy_step_gpu.py
[ "${CHAIN:-1}" = 0 ] || python3 benchmarks/decode_chain_gpu.py --lazy
echo PASSED
