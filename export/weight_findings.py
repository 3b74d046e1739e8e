"""What a bundle's weights tell of a broken gate."""

from __future__ import annotations

from collections import defaultdict

from .diagnosis import Finding
from .weight_check import WeightCheck, WeightDifference

_LISTED = 6  # findings on single weights; the rest is counted
EXPORT_AGAIN = "export the bundle again from this checkpoint"


def weight_note(weights: WeightCheck) -> str:
    """How many weights were compared, and how many are the checkpoint's."""
    total = sum(weights.compared.values())
    unknown = f"; {len(weights.unknown)} of no known name were not" if weights.unknown else ""
    same = total - len(weights.differences)
    return f"{same} of {total} weights in {len(weights.compared)} graphs are the checkpoint's{unknown}"


def weight_findings(weights: WeightCheck) -> list[Finding]:
    """What the files alone tell. The tokenizer's graphs are judged as a whole."""
    decoder = [d for d in weights.differences if not d.graph.startswith("vq_")]
    findings: list[Finding] = []
    moved: dict[tuple[int, int], list[WeightDifference]] = defaultdict(list)
    for difference in decoder:
        if difference.layer is not None and difference.layer_taken is not None:
            moved[difference.layer, difference.layer_taken].append(difference)
    for (layer, taken), differences in moved.items():
        back = (taken, layer) in moved
        if back and layer > taken:
            continue
        graphs = ", ".join(sorted({d.graph for d in differences}))
        count = len({d.key for d in differences})
        text = (
            f"layers {layer} and {taken} are swapped: {count} weights of each hold the other's"
            if back
            else f"layer {layer} holds {count} weights of layer {taken}"
        )
        findings.append(
            Finding("weights-of-another-layer", f"layers {layer} and {taken}", "certain", f"{text} (graph {graphs})",
                    EXPORT_AGAIN)
        )  # fmt: skip
    single: dict[str, list[WeightDifference]] = defaultdict(list)
    for difference in decoder:
        if difference.layer_taken is None:
            single[difference.key].append(difference)
    ordered = sorted(single.items(), key=lambda item: -max(d.relative for d in item[1]))
    findings += [_weight_finding(key, found) for key, found in ordered[:_LISTED]]
    if len(ordered) > _LISTED:
        rest = ", ".join(key for key, _ in ordered[_LISTED : 2 * _LISTED])
        text = f"{len(ordered) - _LISTED} more weights differ from the checkpoint's: {rest}, ..."
        findings.append(Finding("weight-altered", "step", "certain", text, EXPORT_AGAIN))
    return findings


def _weight_finding(key: str, found: list[WeightDifference]) -> Finding:
    graphs = ", ".join(sorted(d.graph for d in found))
    d = found[0]
    at = "" if d.layer is None else f"layer {d.layer}: "
    if not d.finite:
        text = f"{at}{key} holds NaN or infinity in {graphs}"
        return Finding("weight-not-finite", key, "certain", text, "export in float32, or mend the checkpoint")
    if d.flipped == d.differing:
        count = "all" if d.flipped == d.total else str(d.flipped)
        text = f"{at}{key} has its sign flipped in {graphs} ({count} of {d.total} numbers)"
        return Finding("weight-sign", key, "certain", text, EXPORT_AGAIN)
    text = (
        f"{at}{key} is not the checkpoint's in {graphs}: {d.differing} of {d.total} numbers differ, "
        f"relative difference {d.relative:.3g}"
    )
    return Finding("weight-altered", key, "certain", text, EXPORT_AGAIN)
