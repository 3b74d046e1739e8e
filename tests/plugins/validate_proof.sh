#!/usr/bin/env bash
# `aim-edge validate` of the demo's engines on a GPU, every lowering and precision that TensorRT takes, against ONNX
# Runtime on the CPU (primitive, float32); a bundle with one weight's sign flipped must fail. Reports (HTML and JSON),
# logs and summary.txt go to $OUT (default: ./validate_proof). Exits 1 if anything failed or did not run.
#
#     bash tests/plugins/validate_proof.sh prepare OUT.tar.xz [NAME...]     where PyTorch, onnx and a registry are: bundles
#                                                                 and Python 3.10's ONNX Runtime and Jinja, 40 MB
#     bash tests/plugins/validate_proof.sh OUT.tar.xz             on the GPU's machine
#
# PYTHON (python3) prepares. PYTHON_TRT (python3.10) imports tensorrt, numpy, pillow, typer and rich. HEADERS is the
# folder of that TensorRT's headers, ARCH (90) the GPU's compute capability; PLUGINS may name a library that is built
# already. BACKEND=ort-cpu tries the script itself without a GPU: nothing is built, and what ONNX Runtime lacks fails.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n 2,14p "$0" >&2; exit 2; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/site/aim_edge" "$work/cache"
ln -s "$PWD/package/__init__.py" "$work/site/aim_edge/__init__.py"
for folder in aim export runtime plugins cli; do ln -s "$PWD/$folder" "$work/site/aim_edge/$folder"; done
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"

if [ "$1" = prepare ]; then
    set -e
    python="${PYTHON:-python3}"
    "$python" tests/plugins/make_validate_bundles.py "$work/all" "${@:3}"
    "$python" -m pip install --quiet --no-deps --no-compile --only-binary :all: --python-version 3.10 \
        --implementation cp --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
        --target "$work/all/python310" onnxruntime==1.23.2 jinja2==3.1.6 markupsafe==3.0.4 flatbuffers packaging
    tar -c -C "$work/all" . | xz -T0 --lzma2=preset=3,dict=128MiB >"$2"
    ls -l "$2"
    exit 0
fi

python="${PYTHON_TRT:-python3.10}" backend="${BACKEND:-tensorrt}"
export OUT="${OUT:-validate_proof}" XDG_CACHE_HOME="${XDG_CACHE_HOME:-$work/cache}"
export PLUGINS="${PLUGINS:-$work/plugins/libaim_edge_tensorrt.so}"
started=$SECONDS failed=0
mkdir -p "$OUT" "$work/all"
tar -xJf "$1" -C "$work/all" || exit 1
export PYTHONPATH="$PYTHONPATH:$work/all/python310"
if [ "$backend" = tensorrt ] && [ ! -f "$PLUGINS" ] &&
    ! bash tests/plugins/build_plugin.sh "${ARCH:-90}" "${HEADERS:?}" "$(dirname "$PLUGINS")" >"$OUT/plugins.log" 2>&1
then
    tail -n 20 "$OUT/plugins.log"
    echo "FAILED: the plugin library does not build"
    exit 1
fi
echo "ready in $((SECONDS - started)) s"
edge() { "$python" -m aim_edge.cli "$@"; }
# Builds NAME's engines and compares; leaves its verdict in NAME.verdict.
check() {
    local name="$1" bundle="$work/all/$1" wanted=0 status
    case "$name" in broken*) wanted=1 ;; esac
    if [ "$backend" = tensorrt ] && ! edge build "$bundle" --target tensorrt --batch 1:2:2 --level "${LEVEL:-0}" \
        --graph condition --graph step --graph vq_decode --plugins "$PLUGINS" >"$OUT/$name.log" 2>&1; then
        echo "FAIL  $name: no engines: $(tail -n 1 "$OUT/$name.log")" >"$work/$name.verdict"
        return
    fi
    edge validate "$bundle" --backend "$backend" --against "$work/all/reference" --against-option threads=3 \
        --html "$OUT/$name.html" --json "$OUT/$name.json" >>"$OUT/$name.log" 2>&1
    status=$?
    if [ "$status" = "$wanted" ] && [ -s "$OUT/$name.html" ] && [ -s "$OUT/$name.json" ]; then
        echo "PASS  $name: $(grep -h -m 1 '^parity' "$OUT/$name.log")" >"$work/$name.verdict"
        grep -h '^drift\|^states of\|^diagnosis' "$OUT/$name.log" | sed 's/^/      /' >>"$work/$name.verdict"
    else
        echo "FAIL  $name: status $status, expected $wanted" >"$work/$name.verdict"
        tail -n 12 "$OUT/$name.log" >>"$work/$name.verdict"
    fi
}
while read -r name; do
    check "$name" &
    while [ "$(jobs -pr | wc -l)" -ge "${JOBS:-5}" ]; do wait -n; done
done <"$work/all/names.txt"
wait
: >"$OUT/summary.txt"
while read -r name; do
    cat "$work/$name.verdict" >>"$OUT/summary.txt" 2>/dev/null || echo "FAIL  $name: no verdict" >>"$OUT/summary.txt"
done <"$work/all/names.txt"
grep -q '^FAIL' "$OUT/summary.txt" && failed=1
cat "$OUT/summary.txt"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "$([ "$failed" = 0 ] && echo PASSED || echo FAILED) in $((SECONDS - started)) s; reports in $OUT"
exit "$failed"
