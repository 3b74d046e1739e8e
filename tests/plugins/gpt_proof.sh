#!/usr/bin/env bash
# A Transformer's TensorRT engines on a GPU, as engines_proof.sh does AiM's: tokens of a tiny one in float32, in standard
# operators and in ours, against ONNX Runtime's; forced steps (and a scan) against PyTorch's; what a step's CUDA graph
# holds (kernels only: a cache is not copied); `aim-edge bench` of GPT-B. Logs go to $OUT. Exits 1 if anything failed.
#
#     bash tests/plugins/gpt_proof.sh BUNDLES [build|run]
#
# BUNDLES is what make_gpt.py wrote. The rest as in engines_proof.sh: PYTHON_TRT, PLUGINS or HEADERS and ARCH. MODELS
# ("b") are those to build and time, BATCHES ("1:1:8,64:64:64") their profiles, TIMED ("1,64") the batches, LEVEL 1.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n 2,10p "$0" >&2; exit 2; }
bundles="$1" stage="${2:-all}" python="${PYTHON_TRT:-python3.10}"
export OUT="${OUT:-gpt_proof}"
. tests/plugins/proof_common.sh

models="${MODELS-b}" lowerings="${LOWERINGS:-plugin-fused}" timed="${TIMED:-1,64}" builds=()
if [ "$stage" != run ]; then # side by side: most of a build is one thread's work
    for name in $models; do
        build "$bundles/gpt_$name" "${BATCHES:-1:1:8,64:64:64}" --level "${LEVEL:-1}" --graph condition --graph step \
            --graph vq_decode & builds+=($!)
    done
    # TensorRT 8's engine of it is wrong, so that `build` refuses it there; LOWERINGS="primitive plugin-fused" from 9 on.
    for lowering in $lowerings; do build "$bundles/tiny-$lowering" 1:8:64 --level 0 & builds+=($!); done
    for one in "${builds[@]}"; do wait "$one" || failed=1; done
    echo "built in $((SECONDS - started)) s"
    [ "$stage" = build ] && exit "$failed"
fi
for lowering in $lowerings; do
    part tokens "$bundles/tiny-$lowering" "$bundles/tiny_tokens.npz"
    part forced "$bundles/tiny-$lowering" "$bundles/tiny.npz"
done
for name in $models; do
    part forced "$bundles/gpt_$name" "$bundles/$name.npz"
    part steps "$bundles/gpt_$name" 1
    part steps "$bundles/gpt_$name" "${timed##*,}"
    edge bench "$bundles/gpt_$name" --backend tensorrt --batch "$timed" --repeats 5 --no-cold-start \
        --json "$OUT/bench_gpt_$name.json" 2>&1 | tee "$OUT/bench_gpt_$name.log" || failed=1
done
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "$([ "$failed" = 0 ] && echo PASSED || echo FAILED) in $((SECONDS - started)) s; logs in $OUT"
exit "$failed"
