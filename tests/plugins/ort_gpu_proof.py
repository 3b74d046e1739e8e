"""The ONNX Runtime operators on a GPU: every operator alone, bundles against a reference, refusals.

ort_gpu_proof.sh starts it:

    PYTHONPATH=tests python tests/plugins/ort_gpu_proof.py LIBRARY REFERENCE [--other-arch LIBRARY] [--seconds 60]

REFERENCE is what tests/plugins/make_reference.py wrote: <model>-<lowering>-<precision>/ and <model>.npz with labels
(B), tokens (B, T), logits (T, 2B, V) and the final states. Prints a table; exits 1 if a line of it failed, or if there
was nothing to check. Bundles that do not fit into --seconds are a failure, not left out in silence.
"""

from __future__ import annotations

import torch  # isort: skip  (first: it loads the CUDA and cuDNN that onnxruntime-gpu needs)

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import ort_cases
from ort_decode import decode, differences

from aim_edge.runtime import Bundle

# As export.parity.GATES: least cosine, largest |1 - norm ratio|, largest difference, least share of equal top codes.
GATES = {"float32": (0.999999, 1e-4, 1e-3, 1.0), "float16": (0.9999, 0.01, np.inf, 0.0)}
STATE_GATES = {"float32": (0.999999, 1e-4), "float16": (0.999, 0.01)}
LOWERINGS = ("plugin", "plugin-fused")

Row = tuple[bool, str, str]


def open_session(model: bytes | str, library: Path) -> Any:
    """On CUDA alone, in full float32: products of matrices are in TF32 otherwise."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # refusals are printed below
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(model, options, providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError(
            f"the CUDA provider did not start; onnxruntime {ort.__version__} took {session.get_providers()}"
        )
    session.disable_fallback()
    return session


def operators(library: Path) -> Iterator[Row]:
    """The operators, each in a graph of its own. The session is run twice: nothing may stay of the first time."""
    for case in ort_cases.all_cases():
        session = open_session(ort_cases.make_model(case), library)
        bad = []
        for seed in (0, 1):
            feeds = ort_cases.make_feeds(case, seed)
            bad += ort_cases.failures(case, feeds, session.run(None, feeds))
        yield not bad, str(case), "; ".join(bad) or "within bounds"


def refusal(title: str, message: str, call: Any) -> Row:
    try:
        call()
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return message in str(error), title, str(error).split("aim_edge.")[-1][:160]
    return False, title, "was not refused"


def refusals(library: Path, other: Path | None) -> Iterator[Row]:
    case = ort_cases.make_case("SelectiveScan", "float16", "float32", 7)
    model, feeds = ort_cases.make_model(case, known=False), ort_cases.make_feeds(case)
    wrong = ort_cases.make_model(case, {"aim_edge_version": 2})
    yield refusal("graph of version 2", "this library has version 1", lambda: open_session(wrong, library))
    wrong = ort_cases.make_model(case, {"headdim": 15})
    yield refusal("headdim 15", "'x' has shape", lambda: open_session(wrong, library))
    session = open_session(model, library)
    short = {**feeds, "dt": feeds["dt"][:, :3]}
    yield refusal("dt of another length", "'dt' has shape (3, 3, 6); expected", lambda: session.run(None, short))
    bad = ort_cases.failures(case, feeds, session.run(None, feeds))
    yield not bad, "the session still works", "; ".join(bad) or "within bounds"
    if other is not None:
        message = "the library holds no code for this GPU"
        yield refusal("library of another architecture", message, lambda: open_session(model, other))


def check_bundle(path: Path, reference: Path, library: Path, graph: str) -> Row:
    began = time.perf_counter()
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    wanted = np.load(reference)
    labels, tokens = wanted["labels"], wanted["tokens"]
    found, states = decode(bundle, lambda file: open_session(str(path / file), library), labels, tokens, graph, "cuda")
    told = differences(found, wanted["logits"])
    least, ratio, most, top1 = GATES[manifest.precision]
    good = told["cosine"] >= least and told["norm_ratio"] <= ratio and told["max_abs"] <= most and told["top1"] >= top1
    compared = [
        differences(value[None].astype(np.float32), wanted[name][None])
        for name, value in states.items()
        if name in wanted
    ]
    state = {"cosine": min(d["cosine"] for d in compared), "norm_ratio": max(d["norm_ratio"] for d in compared)}
    least, ratio = STATE_GATES["float16" if "float16" in (manifest.precision, manifest.state_dtype) else "float32"]
    good = good and state["cosine"] >= least and state["norm_ratio"] <= ratio
    text = (
        f"cosine {told['cosine']:.7f} norm {told['norm_ratio']:.1e} max {told['max_abs']:.1e} top1 {told['top1']:.4f} "
        f"states {state['cosine']:.7f} {state['norm_ratio']:.1e} "
        f"({len(found)} steps, {time.perf_counter() - began:.1f} s)"
    )
    return good, f"{path.name} {graph}.onnx", text


def bundles(folder: Path, library: Path, until: float) -> Iterator[Row]:
    found = [path for path in sorted(folder.iterdir()) if (path / "manifest.json").is_file()]
    for path in found:
        model, _, rest = path.name.partition("-")
        if rest.rpartition("-")[0] not in LOWERINGS:
            continue
        # The graph with bodies too, once: ONNX Runtime takes the library's kernels before the bodies.
        for graph in ("step.trt", "scan.trt", "step") if model == "demo" else ("step.trt", "scan.trt"):
            if time.perf_counter() > until:
                yield False, f"{path.name} {graph}.onnx", "NOT RUN: out of time"
                continue
            yield check_bundle(path, folder / f"{model}.npz", library, graph)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--other-arch", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    until = time.perf_counter() + options.seconds
    sys.stdout.write(f"onnxruntime {ort.__version__}, {torch.cuda.get_device_name()}\n")
    parts = {
        "operators": operators(options.library),
        "refusals": refusals(options.library, options.other_arch),
        "bundles": bundles(options.reference, options.library, until),
    }
    failed = 0
    for name, rows in parts.items():
        count = 0
        for good, title, text in rows:
            count, failed = count + 1, failed + (not good)
            sys.stdout.write(f"{'PASS' if good else 'FAIL'}  {title:<62} {text}\n")
        sys.stdout.write(f"{name}: {count} checked\n")
        failed += count == 0
    sys.stdout.write(f"{'FAILED' if failed else 'PASSED'}: {failed} failures\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
