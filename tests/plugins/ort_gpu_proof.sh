#!/usr/bin/env bash
# ONNX Runtime on a GPU in one command: our operators through the CUDA provider (ort_gpu_proof.py), and the runtime's
# ort-cuda backend on graphs of standard operators. Logs go to $OUT (default: ./ort_proof). Exits non-zero if anything
# failed, was skipped or did not run.
#
#     bash tests/plugins/ort_gpu_proof.sh REFERENCE [LIBRARY [LIBRARY_OF_ANOTHER_ARCHITECTURE]]
#
# REFERENCE is a folder that tests/plugins/make_reference.py wrote. Without LIBRARY it is built here, against the C
# headers in AIM_ONNXRUNTIME_INCLUDE, for ARCH (90). Needs a python3 with onnxruntime-gpu, torch (for its CUDA), numpy,
# onnx and pytest; ORT_SITE is a folder of packages to put first, such as the one that onnxruntime-gpu was installed
# into with pip's --target.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n 2,13p "$0" >&2; exit 2; }
reference="$1" library="${2:-}" other="${3:-}" out="${OUT:-ort_proof}" arch="${ARCH:-90}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/site/aim_edge"
started=$SECONDS

# The import package, laid out as pyproject.toml maps it, in case it is not installed here.
ln -s "$PWD/package/__init__.py" "$work/site/aim_edge/__init__.py"
for folder in runtime plugins; do ln -s "$PWD/$folder" "$work/site/aim_edge/$folder"; done
export PYTHONPATH="${ORT_SITE:+$ORT_SITE:}$work/site:tests:tests/plugins${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

build() {
    command -v nvcc >/dev/null || export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
    python3 - "$arch" "$work/build" "${AIM_ONNXRUNTIME_INCLUDE:?names the folder of onnxruntime_c_api.h}" <<'PYTHON'
import sys
from aim_edge.plugins.build import build

arch, out, headers = sys.argv[1:]
print(*build("ci", out, [arch], kernels_only=True, onnxruntime_headers=headers, strict=True).lines(), sep="\n")
PYTHON
}

if [ -z "$library" ]; then
    if ! build >"$out/ort_build.log" 2>&1; then
        tail -n 20 "$out/ort_build.log"
        echo "FAILED: the build"
        exit 1
    fi
    library="$work/build/libaim_edge_onnxruntime.so"
    echo "built in $((SECONDS - started)) s"
fi

failed=0
python3 tests/plugins/ort_gpu_proof.py "$library" "$reference" ${other:+--other-arch "$other"} 2>&1 |
    tee "$out/ort_operators.log" || failed=1
tail -n 1 "$out/ort_operators.log" | grep -q '^PASSED' || failed=1

# tests/conftest.py loads torch, and with it CUDA, before onnxruntime.
python3 -m pytest -m gpu -q -rs tests/unit/test_ort_cuda.py --junitxml="$work/cuda.xml" 2>&1 |
    tee "$out/ort_cuda.log" || failed=1
python3 - "$work/cuda.xml" <<'PYTHON' || failed=1
import sys
import xml.etree.ElementTree as xml

suite = next(xml.parse(sys.argv[1]).getroot().iter("testsuite"))
ran, skipped = int(suite.get("tests")), int(suite.get("skipped"))
print(f"ort-cuda: {ran} tests, {skipped} skipped")
sys.exit(0 if ran and not skipped else 1)
PYTHON
echo "$([ "$failed" = 0 ] && echo PASSED || echo FAILED) in $((SECONDS - started)) s; logs in $out"
exit "$failed"
