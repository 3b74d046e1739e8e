#!/usr/bin/env bash
# AiM against the Transformer on a GPU, by number of codes and batch, in one command: makes bundles of random weights,
# builds the plugin library and TensorRT engines of condition and step side by side, measures the token loops one after
# the other with `aim-edge bench --no-pixels`, and compares them. bench's reports, ab.json, ab.md and ab.html (and
# ab_ja.*) go to $OUT (default: ./ab_gpu). Exits 1 if anything failed or did not run; what ran is compared all the same.
#
#     bash benchmarks/ab_gpu.sh [--codes 256,1024,4096] [--batch 1,64] [--preset B] [--lowering plugin-fused]
#                               [--level 1] [--stage all|make|run]
#
# PYTHON (python3) has torch, onnx, onnx_ir and jinja2 and writes bundles and pages; PYTHON_TRT (python3.10) imports
# tensorrt, numpy, pillow, typer and rich, builds and measures, and alone sees $PYTHONPATH. HEADERS is the folder of that TensorRT's headers, ARCH
# (90) the GPU's compute capability, PLUGINS a library that is built already. WORK keeps bundles and engines from
# `--stage make` for `--stage run`; GPU_HOUR (2.5) is the costs' price, REPEATS the runs at every length, LIMIT (120)
# the seconds that one build or measurement may take. BACKEND (tensorrt) may be ort-cpu, which needs no engines.
set -uo pipefail
cd "$(dirname "$0")/.."
codes=256,1024,4096 batch=1,64 preset=B lowering=plugin-fused level=1 stage=all
while [ $# -gt 0 ]; do
    case "$1" in
    --codes) codes="$2" ;;
    --batch) batch="$2" ;;
    --preset) preset="$2" ;;
    --lowering) lowering="$2" ;;
    --level) level="$2" ;;
    --stage) stage="$2" ;;
    *) sed -n 2,18p "$0" >&2; exit 2 ;;
    esac
    shift 2 || exit 2
done
backend="${BACKEND:-tensorrt}"
export OUT="${OUT:-ab_gpu}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
work="${WORK:-$scratch/work}" site="$scratch/site" limit="${LIMIT:-120}"
. benchmarks/two_pythons.sh
profiles="$(for b in ${batch//,/ }; do echo "$b:$b:$b"; done | paste -sd,)"
make_one() { # FAMILY CODES
    local name="$1_$2"
    "$maker" benchmarks/random_bundle.py "$work/$name" --family "$1" --preset "$preset" --codes "$2" \
        --lowering "$lowering" >"$OUT/make_$name.log" 2>&1 ||
        { said "FAIL  bundle $name"; tail -n 5 "$OUT/make_$name.log"; return 1; }
    said "bundle $name"
    [ "$backend" = tensorrt ] || return 0
    while [ ! -e "$scratch/library" ]; do sleep 0.2; done
    [ "$(cat "$scratch/library")" = 0 ] || return 1
    edge "$limit" build "$work/$name" --target tensorrt --graph condition --graph step --batch "$profiles" --level "$level" \
        --timing-cache "$scratch/$name.timings" --plugins "$PLUGINS" >"$OUT/build_$name.log" 2>&1 ||
        { said "FAIL  engines $name"; tail -n 12 "$OUT/build_$name.log"; return 1; }
    said "engines $name"
}
if [ "$stage" != run ]; then
    if [ "$backend" = tensorrt ]; then
        { library; code=$?; [ $code = 0 ] || tail -n 20 "$OUT/plugins.log"; echo $code >"$scratch/now"
          mv "$scratch/now" "$scratch/library"; said "plugin library: exit status $code"; } &
    fi
    jobs=()
    for n in ${codes//,/ }; do
        for family in aim gpt; do make_one "$family" "$n" & jobs+=($!); done
    done
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    said "made"
    [ "$stage" = make ] && exit "$failed"
fi
sides=("" "")
for n in ${codes//,/ }; do
    # A run of 4096 steps at batch 64 takes 10 s and more: two runs, and the first of them warms up.
    repeats="${REPEATS:-$([ "$n" -ge 4096 ] && echo 2 || { [ "$n" -ge 1024 ] && echo 5 || echo 7; })}"
    warmup="$([ "$n" -ge 4096 ] && echo 0 || echo 1)"
    for i in 0 1; do
        family="$([ $i = 0 ] && echo aim || echo gpt)"
        file="$OUT/bench_${family}_$n.json"
        edge "$limit" bench "$work/${family}_$n" --backend "$backend" \
            --batch "$batch" --repeats "$repeats" --warmup "$warmup" --no-pixels --no-profile --json "$file" \
            >"$OUT/bench_${family}_$n.log" 2>&1 || { failed=1; said "FAIL  bench ${family}_$n"; }
        grep -E "│.*tokens|not run|floor:|: memory:" "$OUT/bench_${family}_$n.log" || tail -n 5 "$OUT/bench_${family}_$n.log"
        [ -f "$file" ] && sides[i]="${sides[i]:+${sides[i]},}$file"
    done
    said "measured $n codes"
done
"$maker" - "$OUT" "${sides[0]}" "${sides[1]}" "${GPU_HOUR:-2.5}" <<'P' || failed=1
import json
import sys
from pathlib import Path

from aim_edge.export.ab_costs import Prices
from aim_edge.export.ab_html import render_ab_html
from aim_edge.export.ab_report import render_ab
from aim_edge.export.ab_sides import compare_sides
from aim_edge.runtime.bench_figures import read_report

out = Path(sys.argv[1])
files = [[Path(name) for name in side.split(",") if name] for side in sys.argv[2:4]]
ours, theirs = ([read_report(file) for file in side] for side in files)
found = compare_sides(
    ours, theirs, Prices(float(sys.argv[4])), files=([f.name for f in files[0]], [f.name for f in files[1]])
)
(out / "ab.json").write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
for language, name in (("en", "ab"), ("ja", "ab_ja")):
    (out / f"{name}.md").write_text(render_ab(found, language), encoding="utf-8")
    (out / f"{name}.html").write_text(render_ab_html(found, language), encoding="utf-8")
print(render_ab(found, "en"))
P
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "$([ "$failed" = 0 ] && echo DONE || echo FAILED) in $((SECONDS - started)) s; reports in $OUT"
exit "$failed"
