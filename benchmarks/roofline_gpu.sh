#!/usr/bin/env bash
# The roofline's figures on a GPU, in one command: bundles of random weights, TensorRT engines built side by side, the
# token loops measured one after the other, and roofline.md with its plots. Batches 1 and 8 are of `plugin-layers`, 64
# and 256 of `plugin-fused --lazy-states`, each in float16 and with int8 weights; AiM-B in float16 also to pixels at 64.
# bench's reports, logs and the page go to $OUT (default: ./roofline_gpu). Exits 1 if anything failed or did not run.
#
#     bash benchmarks/roofline_gpu.sh [--presets B,L,XL] [--weights float16,int8] [--level 0]
#
# PYTHON (python3) has torch, onnx and onnx_ir; PYTHON_TRT (python3.10) imports tensorrt, numpy, pillow, typer and rich,
# and alone sees $PYTHONPATH. PLUGINS is the plugin library, or HEADERS TensorRT's headers and ARCH (90) the GPU's compute
# capability. BUILD_LIMIT (400) and LIMIT (120) are the seconds that a build and a measurement may take. Takes 16 cores
# 5 minutes to build and 4 to measure; with all sizes 40 GB of disk.
set -uo pipefail
cd "$(dirname "$0")/.."
presets=B,L,XL weights=float16,int8 level=0
while [ $# -gt 0 ]; do
    case "$1" in
    --presets) presets="$2" ;;
    --weights) weights="$2" ;;
    --level) level="$2" ;;
    *) sed -n 2,14p "$0" >&2; exit 2 ;;
    esac
    shift 2 || exit 2
done
export OUT="${OUT:-roofline_gpu}"
work="${WORK:-$(mktemp -d)}"
site="$work/site"
. benchmarks/two_pythons.sh
if ! library; then
    tail -n 20 "$OUT/plugins.log"
    exit 1
fi
make_one() { # NAME PRESET PROFILES GRAPHS OPTION...
    local name="$1" graphs=()
    for graph in $4; do graphs+=(--graph "$graph"); done
    "$maker" benchmarks/random_bundle.py "$work/$name" --family aim --preset "$2" --codes 256 "${@:5}" \
        >"$OUT/make_$name.log" 2>&1 || { said "FAIL  bundle $name"; tail -n 5 "$OUT/make_$name.log"; return 1; }
    edge "${BUILD_LIMIT:-400}" build "$work/$name" --target tensorrt "${graphs[@]}" --batch "$3" --level "$level" \
        --plugins "$PLUGINS" >"$OUT/build_$name.log" 2>&1 ||
        { said "FAIL  engines $name"; tail -n 12 "$OUT/build_$name.log"; return 1; }
    said "engines $name"
}
jobs=()
for kind in ${weights//,/ }; do
    options=() && [ "$kind" = float16 ] || options=(--weights "$kind")
    for preset in ${presets//,/ }; do
        lazy=("${options[@]}") graphs="condition step"
        if [ "$preset $kind" = "B float16" ]; then
            lazy+=(--vq f16 --fused-convolutions) graphs="$graphs vq_decode"
        fi
        make_one "${preset}_${kind}_layers" "$preset" 1:1:1,8:8:8 "condition step" --lowering plugin-layers \
            "${options[@]}" & jobs+=($!)
        make_one "${preset}_${kind}_lazy" "$preset" 64:64:256 "$graphs" --lowering plugin-fused --lazy-states \
            "${lazy[@]}" & jobs+=($!)
    done
done
for job in "${jobs[@]}"; do wait "$job" || failed=1; done
said "built"
reports=()
measure() { # BUNDLE NAME OPTION...
    local file="$OUT/bench_$2.json"
    edge "${LIMIT:-120}" bench "$work/$1" --backend tensorrt --repeats 5 --no-cold-start --json "$file" "${@:3}" \
        >"$OUT/bench_$2.log" 2>&1 || { failed=1; said "FAIL  bench $2"; tail -n 3 "$OUT/bench_$2.log"; }
    said "$2"
    grep -E "│ +[0-9]+ │|not run" "$OUT/bench_$2.log"
}
for kind in ${weights//,/ }; do
    for preset in ${presets//,/ }; do
        for form in layers:1,8 lazy:64,256; do
            name="${preset}_${kind}_${form%%:*}"
            measure "$name" "$name" --batch "${form##*:}" --no-pixels
            [ -f "$OUT/bench_$name.json" ] && reports+=("$OUT/bench_$name.json")
        done
    done
done
if [ -d "$work/B_float16_lazy" ]; then measure B_float16_lazy B_float16_pixels --batch 64 --no-profile; fi
[ "${#reports[@]}" -gt 0 ] && "$maker" benchmarks/roofline.py "${reports[@]}" --out "$OUT/roofline.md" \
    --svg "$OUT/roofline.svg" || failed=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "$([ "$failed" = 0 ] && echo DONE || echo FAILED) in $((SECONDS - started)) s; reports in $OUT"
exit "$failed"
