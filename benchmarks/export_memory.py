"""Peak memory and time of an export, in a process of its own.

    python benchmarks/export_memory.py [--preset XL] [--precision float16] [--lowering primitive]

A random checkpoint of the preset is written to disk first; the export then reads it as a user's would be read.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.common import checkpoint, show, versions


def export(source: str, out: str, lowering: str, precision: str) -> None:
    """The measured part: prints its seconds and peak resident memory as JSON."""
    from aim_edge.export import export_bundle

    start = time.perf_counter()
    export_bundle(source, out, lowering=lowering, precision=precision, progress=lambda *a: sys.stderr.write(f"{a}\n"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="XL")
    parser.add_argument("--lowering", default="primitive")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        export(*options.child, options.lowering, options.precision)
        return
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "checkpoint", Path(folder) / "bundle"
        source.mkdir()
        loaded = checkpoint(options.preset)
        state = {f"mamba.{k}": v for k, v in loaded.aim.state_dict().items() if k != "lm_head.weight"}
        state |= {f"vqvae.{k}": v for k, v in loaded.vq.state_dict().items()}
        save_file(state, source / "model.safetensors")
        (source / "config.json").write_text(json.dumps(loaded.aim.config.to_published()))
        del loaded, state
        command = [sys.executable, __file__, "--lowering", options.lowering, "--precision", options.precision]
        done = subprocess.run([*command, "--child", str(source), str(out)], stdout=subprocess.PIPE, check=True)
        result = json.loads(done.stdout)
        size = sum(f.stat().st_size for f in out.iterdir())
    columns = ("model", "lowering", "precision", "seconds", "peak memory, GB", "bundle, GB")
    row = (options.preset, options.lowering, options.precision, f"{result['seconds']:.0f}")
    show("export", columns, [(*row, f"{result['peak'] / 1e9:.2f}", f"{size / 1e9:.2f}")])
    from benchmarks.common import console

    console.print(versions("torch", "onnx-ir"))


if __name__ == "__main__":
    main()
