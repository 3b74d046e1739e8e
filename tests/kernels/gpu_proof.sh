#!/usr/bin/env bash
# The kernels' proof on a GPU, in one command and without CMake: builds the library, runs every gpu test, then
# compute-sanitizer's memcheck, racecheck and initcheck over small sizes. Logs go to $OUT (default: ./gpu_proof).
#
#     bash tests/kernels/gpu_proof.sh
#
# BUILD names a folder for the libraries, which is kept; benchmarks/kernels_gpu.py wants one of them.
# Needs nvcc, compute-sanitizer, and a python3 with numpy and pytest. ARCH (90) is the GPU's compute capability,
# OTHER_ARCH (80) one whose code it cannot run. Exits non-zero if anything failed, was skipped or did not run.
set -uo pipefail
cd "$(dirname "$0")/../.."
out="${OUT:-gpu_proof}"
arch="${ARCH:-90}" other="${OTHER_ARCH:-80}"
build="${BUILD:-}"
if [ -z "$build" ]; then
    build="$(mktemp -d)"
    trap 'rm -rf "$build"' EXIT
fi
mkdir -p "$out" "$build"
failed=0
started=$SECONDS

step() { # name, command...: runs it with its log under $out
    local name="$1" begin=$SECONDS
    shift
    if "$@" >"$out/$name.log" 2>&1; then
        echo "ok      $name ($((SECONDS - begin)) s)"
    else
        echo "FAILED  $name ($((SECONDS - begin)) s); the end of $name.log:"
        tail -n 30 "$out/$name.log"
        return 1
    fi
}

together() { # step names, each with the command of its own name: side by side, since most of their time is the CPU's
    local name jobs=()
    for name in "$@"; do
        step "$name" "run_$name" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
}

build_library() { # architecture, target: one object a source, side by side
    local code="$1" flags release
    # 90a has products that 90 lacks; CUDA 11 does not know it.
    release="$(nvcc --version | sed -n 's/.*release \([0-9]*\).*/\1/p')"
    if [ "$code" = 90 ] && [ "$release" -ge 12 ]; then code=90a; fi
    code="-gencode arch=compute_$code,code=sm_$code"
    flags="$code -O3 -std=c++17 -Xcompiler -fPIC,-Wall,-Wextra,-Werror"
    flags="$flags -lineinfo -Xptxas -v -Iplugins/include -Iplugins/src -Iplugins/capi"
    mkdir -p "$build/$1"
    printf '%s\n' plugins/src/*.cu plugins/capi/*.cpp |
        xargs -P "$(nproc)" -I{} sh -c "nvcc $flags -c {} -o $build/$1/\$(basename {}).o || exit 255" || return 1
    # shellcheck disable=SC2086
    nvcc $code -shared -Xcompiler -fPIC -o "$2" "$build/$1"/*.o
}

run_build() { build_library "$arch" "$AIM_KERNELS_LIBRARY"; }
run_build_other() { build_library "$other" "$AIM_KERNELS_OTHER_ARCH_LIBRARY"; }

run_tests() {
    local workers=()
    python3 -c 'import xdist' 2>/dev/null && workers=(-n 6)
    python3 -m pytest tests/kernels -m gpu -q -rs "${workers[@]}" --junitxml="$build/tests.xml" || return 1
    python3 - "$build/tests.xml" <<'PYTHON'
import sys
import xml.etree.ElementTree as xml

suite = next(xml.parse(sys.argv[1]).getroot().iter("testsuite"))
ran, skipped = int(suite.get("tests")), int(suite.get("skipped"))
print(f"{ran} gpu tests, {skipped} skipped")
sys.exit(0 if ran and not skipped else 1)
PYTHON
}

sanitize() { # tool: passes only if the tool itself says that it found nothing
    local report="$build/$1.txt"
    compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9 \
        python3 -m kernels.sanitizer_driver >"$report" 2>&1
    local code=$?
    cat "$report"
    [ "$code" = 0 ] && grep -Eq 'SUMMARY: 0 (errors|hazards)' "$report" && grep -q 'all within bounds' "$report"
}

run_memcheck() { sanitize memcheck; }
run_racecheck() { sanitize racecheck; }
run_initcheck() { AIM_KERNELS_INITCHECK=1 sanitize initcheck; }

export AIM_KERNELS_LIBRARY="$build/libaim_kernels.so" AIM_KERNELS_OTHER_ARCH_LIBRARY="$build/libaim_other.so"
# The import package, laid out as pyproject.toml maps it, in case it is not installed here: the sampler of the host.
mkdir -p "$build/site/aim_edge"
ln -sfn "$PWD/package/__init__.py" "$build/site/aim_edge/__init__.py"
ln -sfn "$PWD/runtime" "$build/site/aim_edge/runtime"
export PYTHONPATH="$build/site:tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
together build build_other
if [ "$failed" = 0 ]; then
    together tests
    together memcheck racecheck initcheck
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
for log in tests memcheck racecheck initcheck; do [ -f "$out/$log.log" ] && tail -n 2 "$out/$log.log"; done
echo "$([ "$failed" = 0 ] && echo PASSED || echo FAILED) in $((SECONDS - started)) s; logs in $out"
exit "$failed"
