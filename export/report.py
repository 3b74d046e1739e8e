"""A comparison of a bundle with PyTorch or another bundle, as one HTML file: no script, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Protocol

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from aim_edge.runtime.images import Image8

from .measures import StateParity
from .parity_report import ParityReport, outside
from .svg import heat_map, line_plot

TEMPLATE = Path(__file__).with_name("report.html.jinja")
_SHOWN_IMAGES = 8


class Seen(Protocol):
    """What is shown: a `parity.Examination` or a `compare.Comparison`."""

    @property
    def report(self) -> ParityReport:
        """The measures."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of every class, if they have names."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """(B) classes."""

    @property
    def drawn(self) -> Image8 | None:
        """The bundle's images (B, H, W, C); None where they held NaN or infinity."""

    @property
    def wanted(self) -> Image8 | None:
        """The reference's."""


def render_report(seen: Seen) -> str:
    """The whole page: verdict, gates, diagnosis, errors by step, states by layer and step, images, versions."""
    report = seen.report
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        worst=report.worst(),
        worst_states=report.worst_states(),
        drift=report.drift(),
        gates=_gates(report),
        plots=_plots(report),
        heat_maps=_heat_maps(report),
        pairs=_pairs(seen),
        findings=report.diagnosis.findings if report.diagnosis else (),
        notes=report.diagnosis.notes if report.diagnosis else (),
    )


def _plots(report: ParityReport) -> list[str]:
    gates, steps = report.gates, report.steps
    reference = "PyTorch" if report.against is None else "reference"
    agreement = {"top-1": [(s.step, s.top1) for s in steps], "top-5": [(s.step, s.top5) for s in steps]}
    return [
        line_plot(
            "Logits: 1 - cosine", {"": [(s.step, _distance(s.cosine)) for s in steps]}, _complement(gates.cosine)
        ),
        line_plot("Logits: |norm ratio - 1|", {"": [(s.step, abs(s.norm_ratio - 1)) for s in steps]}, gates.norm_ratio),
        line_plot("Logits: largest absolute difference", {"": [(s.step, s.max_abs) for s in steps]}, gates.max_abs),
        line_plot(f"Logits: KL({reference} || bundle), nats", {"": [(s.step, max(s.kl, 0.0)) for s in steps]}),
        line_plot("Logits: agreement on the largest codes", agreement, gates.top1, share=True),
    ]


def _heat_maps(report: ParityReport) -> list[str]:
    measures: tuple[tuple[str, Callable[[StateParity], float]], ...] = (
        ("1 - cosine", lambda s: _distance(s.cosine)),
        ("|norm ratio - 1|", lambda s: abs(s.norm_ratio - 1)),
        ("largest difference by the reference's largest", lambda s: s.max_rel),
    )
    maps = []
    for kind in dict.fromkeys(s.kind for s in report.states):
        states = [s for s in report.states if s.kind == kind]
        for title, value in measures:
            cells = {(s.layer, s.step): (value(s), outside(s, report.state_gates)) for s in states}
            maps.append(heat_map(f"{states[0].name.rpartition('_')[0]}: {title}", cells))
    return maps


def _distance(cosine: float) -> float:
    """1 - cosine, not below zero by rounding; NaN stays."""
    return float(np.maximum(1 - cosine, 0.0))


def _complement(limit: float | None) -> float | None:
    return None if limit is None else 1 - limit


def _gates(report: ParityReport) -> list[tuple[str, str]]:
    values = [(field.name, getattr(report.gates, field.name)) for field in fields(report.gates)]
    values += [(f"states: {f.name}", getattr(report.state_gates, f.name)) for f in fields(report.state_gates)]
    return [(name, "not checked" if value is None else f"{value:g}") for name, value in values]


def _pairs(seen: Seen) -> list[dict[str, str]]:
    """Image pairs with their difference maps: data URIs, at most a few."""
    names = seen.class_names
    pairs = []
    for i, label in enumerate(seen.labels[:_SHOWN_IMAGES].tolist()):
        pair = {"name": f"class {label}" + (f", {names[label]}" if names else "")}
        pair |= {} if seen.wanted is None else {"wanted": _png(seen.wanted[i])}
        pair |= {} if seen.drawn is None else {"drawn": _png(seen.drawn[i])}
        if seen.drawn is not None and seen.wanted is not None:
            difference = np.abs(seen.drawn[i].astype(np.int16) - seen.wanted[i]).max(-1)
            largest = int(difference.max())
            shade = 255 - np.rint(difference * (255 / max(largest, 1))).astype(np.uint8)
            pair |= {"difference": _png(shade), "largest": str(largest)}
        pairs.append(pair)
    return pairs


def _png(image: Image8) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
