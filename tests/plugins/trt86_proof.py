"""Engines of a real TensorRT 8.6 against PyTorch: forced decoding through condition, step and scan.

    python-trt trt86_proof.py --library LIBRARY --case REFERENCE BUNDLE... [--case ...] [--golden FILE]

REFERENCE is an .npz of make_reference.py: labels (B), tokens (B, T), logits (T, 2 B, V) and the final states by the
contract's names. Needs Python 3.10 with numpy and tensorrt 8.6, and a GPU; nothing of aim_edge but its source tree.
Prints a table, writes proof.json to $OUT, and exits 1 if anything failed or nothing ran.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from trt86_cuda import Cuda, CudaError
from trt86_decode import Decoder
from trt86_engines import BATCHES, LENGTHS, Bundle, Factory, Log, ProofError
from trt86_gates import judge, judge_golden
from trt86_refusals import check_refusals

GRAPH_STEPS = 16  # steps from captured CUDA graphs: enough to pass the states on in both directions


def prove(
    cuda: Cuda, factory: Factory, folder: Path, reference: dict[str, Any], options: Any, results: list[dict[str, Any]]
) -> None:
    """One bundle: adds a result for every way to decode."""
    bundle = Bundle.open(folder)
    labels, tokens = reference["labels"].reshape(-1), reference["tokens"]
    count = tokens.shape[1]
    if not (BATCHES[0] <= len(labels) <= BATCHES[-1] and count <= LENGTHS[-1]):
        raise ProofError(f"{len(labels)} images of {count} tokens; the engines take {BATCHES} and {LENGTHS}")
    decoder = Decoder(cuda, bundle, labels, count)
    common = {"bundle": folder.name, "lowering": bundle.lowering, "precision": bundle.precision}

    def build(graph: str) -> Any:
        begin = time.perf_counter()
        engine = factory.build(bundle, graph)
        facts[graph] = {**factory.facts, "build_s": round(time.perf_counter() - begin, 1)}
        return engine

    def record(way: str, judged: dict[str, Any]) -> None:
        results.append({**common, "way": way, **judged, **facts})
        show(results[-1])

    facts: dict[str, Any] = {}
    condition, step = build("condition"), build("step")
    decoder.condition(condition)
    record("step", judge(decoder.step(step, tokens), reference, bundle.precision))
    if bundle.lowering != "primitive":  # TensorRT 8.6 says of that engine that it cannot be captured
        few = decoder.step(step, tokens[:, :GRAPH_STEPS], graphs=True)
        record("step, CUDA graph", judge(few, reference, bundle.precision))
    # The fused lowering's scan graph is the plugin lowering's.
    scan = build("scan") if bundle.lowering != "plugin-fused" or options.every_scan else None
    if scan is not None:
        record("scan", judge(decoder.scan(scan, tokens, [count]), reference, bundle.precision))
        pieces = decoder.scan(scan, tokens, [1, 63, count - 64] if count > 64 else [1, count - 1])
        record("scan in pieces", judge(pieces, reference, bundle.precision))
    golden = options.golden
    if golden is not None and bundle.source == f"golden {golden['name']}":
        forced = golden["tokens"]
        decoder = Decoder(cuda, bundle, golden["labels"].reshape(-1), forced.shape[1])
        decoder.condition(condition)
        record("golden, step", judge_golden(decoder.step(step, forced), golden, bundle.precision))
        if scan is not None:
            decoded = decoder.scan(scan, forced, [forced.shape[1]])
            record("golden, scan", judge_golden(decoded, golden, bundle.precision))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(result: dict[str, Any]) -> None:
    """One line of the table, and the first gates that broke."""
    verdict = "FAIL" if result["failures"] else "PASS"
    numbers = ""
    if "cosine" in result:
        numbers = f"cosine {result['cosine']:.7f}  norm {result['norm_ratio']:.6f}  max|diff| {result['max_abs']:.2e}"
    if "top1" in result:
        numbers += f"  top-1 {result['top1']:.2%}"
    if result.get("state_cosine") is not None:
        numbers += f"  states {result['state_cosine']:.7f}"
    say(f"{verdict}  {result['bundle']:32} {result['way']:17} {numbers}")
    for failure in result["failures"][:5]:
        say(f"        {failure}")
    if len(result["failures"]) > 5:
        say(f"        and {len(result['failures']) - 5} more")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--library", required=True, help="libaim_edge_tensorrt.so, built against TensorRT 8.6's headers"
    )
    parser.add_argument("--case", action="append", nargs="+", required=True, metavar="FILE", help="REFERENCE BUNDLE...")
    parser.add_argument("--golden", help="golden file, for the bundles of its weights")
    parser.add_argument("--level", type=int, default=1, help="builder_optimization_level, 0 to 5 (1)")
    parser.add_argument("--prefer", action="store_true", help="precision constraints are wishes, not orders")
    parser.add_argument("--every-scan", action="store_true", help="plugin-fused: its scan graph too")
    options = parser.parse_args()
    if options.golden:
        options.golden = {**np.load(options.golden), "name": Path(options.golden).stem}
    log, started = Log(), time.perf_counter()
    cuda = Cuda()
    if trt.get_plugin_registry().load_library(options.library) is None:
        raise ProofError(f"{options.library} does not load as a plugin library")
    factory = Factory(log, options.level, not options.prefer)
    results: list[dict[str, Any]] = []
    say(f"TensorRT {trt.__version__} on {cuda.device}")
    for reference_file, *bundles in options.case:
        reference = dict(np.load(reference_file))
        for folder in map(Path, bundles):
            try:
                prove(cuda, factory, folder, reference, options, results)
            except (ProofError, CudaError, OSError, KeyError, ValueError) as error:
                failure = f"{type(error).__name__}: {error}"
                results.append({"bundle": folder.name, "way": "stopped", "failures": [failure]})
                show(results[-1])
            finally:
                cuda.free_all()
    refusals = check_refusals(log, factory.builder or trt.Builder(log))
    for what, happened in refusals.items():
        say(f"{'PASS' if happened == 'ok' else 'FAIL'}  refusal: {what}{'' if happened == 'ok' else ': ' + happened}")
    passed = bool(results) and not any(r["failures"] for r in results) and set(refusals.values()) == {"ok"}
    out = Path(os.environ.get("OUT", "."))
    told = {"tensorrt": trt.__version__, "device": cuda.device, "results": results, "refusals": refusals}
    for bundle in dict.fromkeys(result["bundle"] for result in results):
        own = [result for result in results if result["bundle"] == bundle]
        built = {g: r[g]["build_s"] for r in own for g in ("condition", "step", "scan") if g in r}
        say(f"      {bundle}: seconds to build {built}")
    told |= {"passed": passed, "seconds": round(time.perf_counter() - started, 1), "log": log.lines[-400:]}
    (out / "proof.json").write_text(json.dumps(told, indent=1))
    say(f"{'PASSED' if passed else 'FAILED'}: {len(results)} results in {told['seconds']} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
