# What ab_gpu.sh and roofline_gpu.sh share; sourced, from the repository's root, with $OUT, $site and $work set. Makes the
# package importable for both Pythons: $maker (PYTHON), and $python (PYTHON_TRT), which `edge` runs and which alone sees
# the packages of the $PYTHONPATH that was given.
maker="${PYTHON:-python3}" python="${PYTHON_TRT:-python3.10}"
mkdir -p "$OUT" "$work" "$site/aim_edge"
ln -sfn "$PWD/package/__init__.py" "$site/aim_edge/__init__.py"
for folder in aim export runtime plugins cli; do ln -sfn "$PWD/$folder" "$site/aim_edge/$folder"; done
given="${PYTHONPATH:-}"
export PYTHONPATH="$site" XDG_CACHE_HOME="${XDG_CACHE_HOME:-$work/cache}"
export PLUGINS="${PLUGINS:-$work/plugins/libaim_edge_tensorrt.so}"
started=$SECONDS failed=0
said() { echo "[$((SECONDS - started)) s] $*"; }
edge() { # SECONDS ARGUMENT...
    PYTHONPATH="$PYTHONPATH${given:+:$given}" timeout "$1" "$python" -m aim_edge.cli "${@:2}"
}
library() {
    [ -f "$PLUGINS" ] || bash tests/plugins/build_plugin.sh "${ARCH:-90}" "${HEADERS:?}" "$(dirname "$PLUGINS")" \
        >"$OUT/plugins.log" 2>&1
}
