"""Where a bundle that left its gates went wrong: the cause, or the first layer.

Weights are compared with the checkpoint's by name. Then the bundle decodes again up to the first step that left
the gates, and beside it PyTorch, changed in one way at a time: a change that makes the two match is the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from aim_edge.aim.checkpoint import Checkpoint
from aim_edge.aim.gpt import GptModel
from aim_edge.aim.model import AimModel
from aim_edge.runtime import Generator

from .diagnosis import Diagnosis, Finding
from .parity import Examination, examine, find_failures, outside
from .search import Search
from .sensitivity import STEPS, propose
from .weight_check import WeightCheck, check_weights
from .weight_findings import weight_findings, weight_note


def locate(
    bundle: str | Path,
    checkpoint: str | Path | Checkpoint | None = None,
    examination: Examination | None = None,
    *,
    backend: str = "ort-cpu",
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Names the cause, or the first layer, of a bundle's broken gates.

    Args:
        bundle: the bundle's folder.
        checkpoint: what it was exported from; None takes the source that the manifest names.
        examination: what `examine` found over them; None examines two images now.
        backend: that of the examination.
        progress: called with what is being done.

    Returns:
        Findings, the most certain first; none where no gate was broken.
    """
    tell = progress or (lambda what: None)
    seen = examination or examine(bundle, checkpoint, backend=backend, progress=progress)
    report = seen.report
    if report.passed:
        return Diagnosis((), ("no gate was broken",))
    findings: list[Finding] = []
    notes: list[str] = []
    with Generator.open(bundle, backend=backend, **seen.options) as generator:
        tell("comparing weights with the checkpoint")
        weights = check_weights(generator.bundle, seen.checkpoint)
        findings += weight_findings(weights)
        notes.append(weight_note(weights))
        broken = _first_broken(seen)
        if broken is not None and isinstance(seen.checkpoint.aim, GptModel):
            notes.append(f"step {broken} is the first outside; why is looked for in AiM models only, not a Transformer")
        elif broken is not None:
            tell("decoding again, to the first step that left the gates")
            findings += Search.of(generator, seen, broken).findings(explained=bool(findings))
            if report.precision == "float16" and not _explained(findings):
                _half_precision(seen, generator.bundle.manifest.keep_float32, tell, findings, notes)
    findings += _image_findings(seen, weights, decoded_well=broken is None)
    return Diagnosis.of(findings, notes)


_LACK_PRECISION = ("overflow", "near-overflow", "first-outside", "weight-not-finite")


def _explained(findings: list[Finding]) -> bool:
    """Whether there is a cause that more precision would not cure."""
    return any(f.cause not in _LACK_PRECISION for f in findings)


def _half_precision(
    seen: Examination, kept: tuple[int, ...], tell: Callable[[str], None], findings: list[Finding], notes: list[str]
) -> None:
    """Adds the layers to keep in float32, or that half precision is not why."""
    model = seen.checkpoint.aim
    if not isinstance(model, AimModel):
        return
    tell("rounding PyTorch's layers to float16, one after another")
    found = propose(model, seen.labels, seen.tokens, seen.report.gates, kept=kept)
    if not found.keep:
        notes.append(
            f"PyTorch with every layer rounded to float16 keeps the gates at the first {STEPS} steps (cosine >= "
            f"{found.cosine:.6f}): half precision's rounding alone is not why"
        )
        return
    worst = "; ".join(f"layer {e.layer}: {e.cosine:.6g}" for e in found.effects[:3])
    layers = ", ".join(map(str, found.keep))
    option = " ".join(f"--keep-float32 {layer}" for layer in sorted({*kept, *found.keep}))
    text = (
        f"rounded to float16, one layer alone moves PyTorch's logits to a cosine of {worst} (nan: overflow); with "
        f"layers {layers} in float32 and the others rounded it keeps the gates"
    )
    action = f"export with {option}, in a lowering other than plugin-fused"
    findings.append(Finding("half-precision", f"layers {layers}", "likely", text, action))


def _first_broken(seen: Examination) -> int | None:
    """The first step at which logits or a state were seen outside the gates, or not finite."""
    report = seen.report
    steps = [s.step for s in report.steps if find_failures((s,), 0.0, report.gates)]
    steps += [s.step for s in report.states if outside(s, report.state_gates)]
    steps += [f.step for f in report.non_finite if f.step is not None]
    return min(steps, default=None)


def _image_findings(seen: Examination, weights: WeightCheck, *, decoded_well: bool) -> Iterator[Finding]:
    """The tokenizer: its weights, and images that differ though the weights do not."""
    report, gates = seen.report, seen.report.gates
    for graph in ("vq_decode", "vq_encode"):
        differing = [d for d in weights.differences if d.graph == graph]
        if differing:
            agree = "; codes and logits agree" if decoded_well else ""
            yield Finding(
                "stale-vq", graph, "certain",
                f"stale VQ: {len(differing)} of {weights.compared[graph]} weights of {graph} are not this checkpoint's "
                f"({differing[0].key} among them, relative difference {differing[0].relative:.3g}){agree}",
                f"export again, or put this checkpoint's {graph} in place",
            )  # fmt: skip
    image_bad = any(f.startswith("image_") for f in report.failures)
    if image_bad and not any(d.graph == "vq_decode" for d in weights.differences):
        of = "holds NaN or infinity" if seen.drawn is None else f"differs by up to {report.image_max_abs:.3g}"
        yield Finding(
            "vq-graph", "vq_decode", "likely",
            f"the decoded image {of} (allowed {gates.image_max_abs}), and vq_decode's weights are the checkpoint's: "
            "the graph, its precision or the backend is at fault",
            "export vq_decode in float32, or compare with another backend",
        )  # fmt: skip
