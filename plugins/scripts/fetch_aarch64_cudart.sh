#!/usr/bin/env bash
# Fetches the CUDA runtime for aarch64, which cross-compiling for a Jetson links, from the wheel nvidia-cuda-runtime.
#
#     bash plugins/scripts/fetch_aarch64_cudart.sh FOLDER [VERSION]        VERSION (13.0.*) is that of nvcc
#
# Prints the path of libcudart_static.a: what AIM_CUDART and --cudart take.
set -euo pipefail
folder="$1" version="${2:-13.0.*}"
mkdir -p "$folder"
library="$(find "$folder" -name libcudart_static.a | head -n 1)"
if [ -z "$library" ]; then
    python3 -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_aarch64 \
        --dest "$folder" "nvidia-cuda-runtime==$version" >&2
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' "$folder"/*.whl "$folder"
    library="$(find "$folder" -name libcudart_static.a | head -n 1)"
fi
[ -n "$library" ] || { echo "fetch_aarch64_cudart.sh: the wheel holds no libcudart_static.a" >&2; exit 1; }
echo "$library"
