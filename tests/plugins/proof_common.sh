# What engines_proof.sh and gpt_proof.sh share; sourced, from the repository's root, with $OUT and $python set. Makes the
# package importable, builds the plugin library where $PLUGINS names none, and counts what failed in $failed.
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$OUT" "$work/site/aim_edge"
ln -s "$PWD/package/__init__.py" "$work/site/aim_edge/__init__.py"
for folder in aim export runtime plugins cli; do ln -s "$PWD/$folder" "$work/site/aim_edge/$folder"; done
export PYTHONPATH="$work/site:tests/plugins${PYTHONPATH:+:$PYTHONPATH}" XDG_CACHE_HOME="${XDG_CACHE_HOME:-$work/cache}"
export PLUGINS="${PLUGINS:-$work/plugins/libaim_edge_tensorrt.so}"
started=$SECONDS failed=0
if [ ! -f "$PLUGINS" ] && ! bash tests/plugins/build_plugin.sh "${ARCH:-90}" "${HEADERS:?}" "$(dirname "$PLUGINS")" \
    >"$OUT/plugins.log" 2>&1; then
    tail -n 20 "$OUT/plugins.log"
    echo "FAILED: the plugin library does not build"
    exit 1
fi
edge() { "$python" -m aim_edge.cli "$@"; }
build() { # BUNDLE BATCH OPTION...
    local name; name="$(basename "$1")"
    if edge build "$1" --target tensorrt --batch "$2" "${@:3}" --plugins "$PLUGINS" >"$OUT/build_$name.log" 2>&1; then
        tail -n 3 "$OUT/build_$name.log" | head -n 2
    else
        tail -n 20 "$OUT/build_$name.log"
        echo "FAIL  build $name"
        return 1
    fi
}
part() { "$python" tests/plugins/engines_proof.py "$@" 2>&1 | tee -a "$OUT/proof.log" || failed=1; }
