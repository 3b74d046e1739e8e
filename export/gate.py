"""Whether a bundle may be shipped: what it makes of the rules."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from aim_edge.aim.checkpoint import Checkpoint
from aim_edge.runtime import Bundle, BundleError, Manifest
from aim_edge.runtime.bundle import read_manifest

from .engines import parse_targets
from .gate_rules import EngineRules, ParityRules, Rules, SizeRules
from .parity import validate
from .parity_report import ParityReport

PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"


@dataclass(frozen=True)
class Verdict:
    """What became of one gate; `found` and `limit` are for people, `why` says in words how it was broken."""

    group: str
    name: str
    status: str
    limit: str = ""
    found: str = ""
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class GateReport:
    """What `check_gates` found: a verdict a gate, in order, and the parity report where it came to that."""

    bundle: str
    verdicts: tuple[Verdict, ...]
    parity: ParityReport | None = None

    @property
    def passed(self) -> bool:
        """Every gate ran and none was broken."""
        return all(verdict.status == PASSED for verdict in self.verdicts)

    def count(self, status: str) -> int:
        """How many gates have this status."""
        return sum(verdict.status == status for verdict in self.verdicts)

    def line(self) -> str:
        """The result in one line."""
        counts = ", ".join(f"{self.count(status)} {status}" for status in (PASSED, FAILED, NOT_RUN))
        return f"gate {'PASS' if self.passed else 'FAIL'}: {self.bundle}: {counts}"


@dataclass
class _Verdicts:
    """Collects verdicts, each with the time since the last."""

    found: list[Verdict] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)

    def add(self, group: str, name: str, passed: bool, limit: str = "", found: str = "", why: str = "") -> None:
        now = time.perf_counter()
        status, self.since, seconds = PASSED if passed else FAILED, now, now - self.since
        self.found.append(Verdict(group, name, status, limit, found, "" if passed else why, seconds))


def check_gates(
    bundle: str | Path,
    rules: Rules,
    checkpoint: str | Path | Checkpoint | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> GateReport:
    """Holds a bundle to rules.

    Args:
        bundle: the bundle's folder.
        rules: what it must keep.
        checkpoint: what it was exported from; None takes the source that the manifest names.
        progress: called with what is being done.

    Raises:
        BundleError: `bundle` has no manifest that can be read. Files that are missing or altered and engines
            that are not what is recorded break the gate "integrity" instead, and no other gate is run.
        ValueError, BackendMissingError: as `validate` raises them.
    """
    tell = progress or (lambda what: None)
    manifest, verdicts = read_manifest(bundle), _Verdicts()
    tell("checking every file")
    try:
        Bundle.open(bundle)
    except BundleError as error:
        verdicts.add("bundle", "integrity", False, "every file as recorded", "not so", str(error))
        left = [part.name for part in fields(rules) if getattr(rules, part.name) is not None]
        not_run = [Verdict(part, part, NOT_RUN, why="the bundle is not whole") for part in left]
        return GateReport(str(bundle), (*verdicts.found, *not_run))
    files = len(manifest.files) + len(manifest.engine_files())
    verdicts.add("bundle", "integrity", True, "every file as recorded", f"{files} files")
    if rules.engines is not None:
        _check_engines(manifest, rules.engines, verdicts)
    if rules.max_megabytes is not None:
        _check_sizes(manifest, rules.max_megabytes, verdicts)
    report = None
    if rules.parity is not None:
        report = _check_parity(bundle, manifest, rules.parity, checkpoint, verdicts, tell)
    return GateReport(str(bundle), tuple(verdicts.found), report)


def _check_engines(manifest: Manifest, rules: EngineRules, verdicts: _Verdicts) -> None:
    limit = f"{', '.join(rules.graphs)} for batch {rules.batch}"
    for target in parse_targets(rules.targets):
        engines = manifest.engines.get(target)
        if engines is None:
            why = f"no engines of {target} are recorded (there are: {', '.join(manifest.engines) or 'none'})"
            verdicts.add("engines", target, False, limit, "none", why)
            continue
        takes = ", ".join(f"{low} to {high}" for low, _, high in engines.batch)
        lacking = [graph for graph in rules.graphs if graph not in engines.graphs]
        why = f"no engine of {', '.join(lacking)}" if lacking else f"its engines take batch {takes}"
        found = f"{', '.join(engines.graphs)} for batch {takes}, {engines.library} {engines.version}"
        fits = any(low <= rules.batch <= high for low, _, high in engines.batch)
        verdicts.add("engines", target, not lacking and fits, limit, found, why)


def _check_sizes(manifest: Manifest, rules: SizeRules, verdicts: _Verdicts) -> None:
    by_target = {
        target: sum(file.bytes for file in engines.files().values()) for target, engines in manifest.engines.items()
    }
    graphs = sum(record.bytes for record in manifest.files.values())
    sizes = [("graphs", rules.graphs, graphs)]
    sizes += [(f"engines of {target}", rules.engines, size) for target, size in by_target.items()]
    sizes.append(("bundle", rules.bundle, graphs + sum(by_target.values())))
    for name, limit, size in sizes:
        if limit is not None:
            found = f"{size / 1e6:.2f} MB"
            verdicts.add("size", name, size <= limit * 1e6, f"<= {limit:g} MB", found, f"{size} bytes")


# Limit -> how it is written, and what is shown: the worst of the steps, NaN if there is one.
_SHOWN: dict[str, tuple[str, Callable[[ParityReport], float]]] = {
    "cosine": (">= {:g}", lambda r: float(np.min([s.cosine for s in r.steps]))),
    "norm_ratio": ("1 +- {:g}", lambda r: max((s.norm_ratio for s in r.steps), key=_from_one)),
    "max_abs": ("<= {:g}", lambda r: float(np.max([s.max_abs for s in r.steps]))),
    "top1": (">= {:g}", lambda r: float(np.min([s.top1 for s in r.steps]))),
    "image_max_abs": ("<= {:g}", lambda r: r.image_max_abs),
}


def _from_one(ratio: float) -> float:
    return math.inf if math.isnan(ratio) else abs(1 - ratio)


def _check_parity(
    bundle: str | Path, manifest: Manifest, rules: ParityRules, checkpoint: str | Path | Checkpoint | None,
    verdicts: _Verdicts, tell: Callable[[str], None],
) -> ParityReport:  # fmt: skip
    gates = rules.gates(manifest.precision)
    report = validate(
        bundle, checkpoint, backend=rules.backend, images=rules.images, steps=rules.steps, seed=rules.seed,
        gates=gates, progress=tell,
    )  # fmt: skip
    broken = {failure.partition(":")[0]: failure for failure in report.failures}
    for name, limit in asdict(gates).items():
        if limit is not None:
            form, worst = _SHOWN[name]
            why = broken.pop(name, "")
            verdicts.add("parity", name, not why, form.format(limit), f"{worst(report):.8g}", why)
    for name, why in broken.items():  # of what `validate` holds every bundle to, whatever the rules say
        verdicts.add("parity", name, False, "as validate has it", "", why)
    return report
