#!/usr/bin/env bash
# From a checkpoint to gated bundles on a machine without a GPU; aim-edge.yml runs the same steps.
#
#     pip install "aim-edge[export,ort,tensorrt-rtx]"
#     bash run.sh [all|export|engines|plugin|gate]
#
# and on a machine with a GPU and TensorRT, where the bundles are:
#
#     bash run.sh tensorrt        builds engines for that GPU and gates them
#
# A step that lacks a tool fails and names what installs it. Set to change what is made:
#     CHECKPOINT  demo                a folder, a weight file or a hub id
#     OUT         build/ci            two bundles, the Jetson's library, reports
#     TARGETS     rtx:sm86,sm89,sm120 GPUs to build TensorRT-RTX engines for
#     BATCH       1:1:8               images at once, min:opt:max
#     PRESET      jetson-orin         or jetson-thor: what to compile the plugin for
#     RULES       gates.toml          beside this file
#     GPU_RULES   gpu.toml            beside this file: of the step tensorrt
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
checkpoint="${CHECKPOINT:-demo}" out="${OUT:-build/ci}"

step_export() {
  mkdir -p "$out"
  aim-edge export "$checkpoint" "$out/rtx" --lowering primitive --overwrite
  aim-edge export "$checkpoint" "$out/jetson" --lowering plugin-fused --precision float16 --overwrite
}

step_engines() {
  aim-edge build "$out/rtx" --target "${TARGETS:-rtx:sm86,sm89,sm120}" --batch "${BATCH:-1:1:8}"
}

# The compiler links the CUDA runtime of the Jetson's processor: AIM_CUDART, or else NVIDIA's wheel for aarch64.
step_plugin() {
  if [ -z "${AIM_CUDART:-}" ]; then
    local scripts
    scripts="$(python3 -c 'import aim_edge.plugins as plugins; print(plugins.__path__[0])')/scripts"
    AIM_CUDART="$(bash "$scripts/fetch_aarch64_cudart.sh" "$out/aarch64")"
    export AIM_CUDART
  fi
  aim-edge plugins build --preset "${PRESET:-jetson-orin}" --out "$out/plugin"
}

step_gate() {
  local failed=0
  gate rtx "${RULES:-$here/gates.toml}" || failed=$?
  gate jetson "$here/jetson.toml" || failed=$?
  return "$failed"
}

# A build takes minutes, and what parity says of these engines holds for this GPU only.
step_tensorrt() {
  aim-edge build "$out/rtx" --target tensorrt --batch "${BATCH:-1:1:8}"
  gate rtx "${GPU_RULES:-$here/gpu.toml}" tensorrt
}

# gate BUNDLE RULES [NAME OF THE REPORTS]
gate() {
  aim-edge gate "$out/$1" --rules "$2" --checkpoint "$checkpoint" --junit "$out/${3:-$1}.xml" \
    --markdown "$out/${3:-$1}.md"
}

case "${1:-all}" in
  all) step_export; step_engines; step_plugin; step_gate ;;
  export | engines | plugin | gate | tensorrt) "step_$1" ;;
  *) echo "run.sh: step is '$1'; known: all, export, engines, plugin, gate, tensorrt" >&2; exit 2 ;;
esac
