#!/usr/bin/env bash
# TensorRT engines on a GPU, from the exported bundles to images, in one command: builds the plugin library, builds
# engines with `aim-edge build`, runs engines_proof.py over them and times them with `aim-edge bench`. Logs, a grid of
# images and bench's reports go to $OUT (default: ./engines_proof). Exits 1 if anything failed or did not run.
#
#     bash tests/plugins/engines_proof.sh REFERENCES TOKENS.npz [build|run]
#
# REFERENCES is what make_reference.py wrote, for demo in plugin-fused float32 and float16, and for aim_b in plugin-fused
# float16 with --half-states --vq-f16 --fused-convolutions; TOKENS.npz is of make_tokens.py. PYTHON_TRT (python3.10)
# imports tensorrt, numpy, pillow, typer and rich; `build` and `run` do one half, PLUGINS naming where the library is to
# stay. HEADERS is the folder of that TensorRT's headers, ARCH (90) the GPU's compute capability.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 2 ] || { sed -n 2,12p "$0" >&2; exit 2; }
references="$1" tokens="$2" stage="${3:-all}" python="${PYTHON_TRT:-python3.10}"
export OUT="${OUT:-engines_proof}"
. tests/plugins/proof_common.sh

demo32="$references/demo-plugin-fused-float32" demo16="$references/demo-plugin-fused-float16"
aim_b="$references/aim_b-plugin-fused-float16"
if [ "$stage" != run ]; then # side by side: most of a build is one thread's work
    build "$aim_b" 1:1:8,64:64:64 --level "${LEVEL:-2}" --graph condition --graph step --graph vq_decode & large=$!
    build "$demo16" 1:1:8 --level 1 & half=$!
    build "$demo32" 1:8:64 --level 1 || failed=1
    wait "$half" || failed=1
    wait "$large" || failed=1
    echo "built in $((SECONDS - started)) s"
    [ "$stage" = build ] && exit "$failed"
fi
part tokens "$demo32" "$tokens"
part forced "$demo32" "$references/demo.npz"
part steps "$demo32" 64
part forced "$demo16" "$references/demo.npz"
part forced "$aim_b" "$references/aim_b.npz"
part steps "$aim_b" 1
part vq "$aim_b" "$references/vq.npz"
edge bench "$aim_b" --backend tensorrt --batch 1,8,64 --repeats 7 --json "$OUT/bench_aim_b.json" 2>&1 |
    tee "$OUT/bench_aim_b.log" || failed=1
edge bench "$demo32" --backend tensorrt --batch 1,64 --repeats 7 --no-profile --json "$OUT/bench_demo.json" 2>&1 |
    tee "$OUT/bench_demo.log" || failed=1
part long "$demo32"
part memory "$demo32" "$demo16"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "$([ "$failed" = 0 ] && echo PASSED || echo FAILED) in $((SECONDS - started)) s; logs in $OUT"
exit "$failed"
