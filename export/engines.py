"""A bundle's graphs become engines for GPUs that need not be here: all of a call's are recorded, or none."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from aim_edge.runtime import Bundle
from aim_edge.runtime.bundle import put_in_place, read_manifest, sha256_of, staging, write_manifest
from aim_edge.runtime.contract import GRAPHS
from aim_edge.runtime.engines import TENSORRT_RTX, engine_problem
from aim_edge.runtime.manifest import EngineFile, EngineRecord

from .engines_rtx import SMS, EngineBuildError, RtxBuilder, Sizes

Progress = Callable[[str, int, int], None]
ENGINE_GRAPHS = ("condition", "step", "scan", "vq_decode")
TARGETS = tuple(f"rtx:{sm}" for sm in SMS)
_FOLDER = "engines"


def build_engines(
    bundle: str | Path,
    targets: Sequence[str],
    *,
    batch: Sizes = (1, 1, 8),
    length: Sizes | None = None,
    graphs: Sequence[str] = ENGINE_GRAPHS,
    progress: Progress | None = None,
) -> dict[str, EngineRecord]:
    """Builds engines with TensorRT-RTX, without a GPU, and records them in the manifest.

    Each becomes `engines/rtx-VERSION/SM/GRAPH.engine`. They are written to a temporary folder, and put in their
    place and recorded when all of them are there. What was recorded of the same targets is replaced.

    Args:
        bundle: a bundle's folder, of the `primitive` lowering.
        targets: of `TARGETS`; "rtx:sm86,sm89" is short for "rtx:sm86" and "rtx:sm89".
        batch: smallest, best and largest number of images.
        length: smallest, best and largest number of codes that `scan` takes; None: 1, half of them, all.
        graphs: which of the bundle's graphs.
        progress: called with (what, done, total); what it raises ends the build.

    Returns:
        What was recorded, by target.

    Raises:
        ValueError: an unknown target or graph, sizes that are no profile, or another lowering.
        BundleError: the bundle is refused.
        BackendMissingError: TensorRT-RTX is not installed.
        EngineBuildError: a graph does not parse or build; nothing is recorded.
        OSError: writing failed; nothing is recorded.
    """
    sms = parse_targets(targets)
    chosen = [graph for graph in GRAPHS if graph in graphs]
    if not chosen or set(graphs) - set(chosen):
        raise ValueError(f"graphs are {list(graphs)}; expected one or more of {', '.join(GRAPHS)}")
    opened = Bundle.open(bundle, engines=False)
    manifest = opened.manifest
    if manifest.lowering != "primitive":
        raise ValueError(
            f"{bundle} is of the lowering {manifest.lowering!r}; TensorRT-RTX takes no plugins and no operators but "
            "the standard's: aim-edge export CHECKPOINT FOLDER --lowering primitive"
        )
    tokens = manifest.contract.dims.num_tokens
    length = (1, max(tokens // 2, 1), tokens) if length is None else length
    _check_sizes("batch", batch, None)
    _check_sizes("length", length, tokens)
    tell = progress or (lambda what, done, total: None)
    tell("loading TensorRT-RTX", 0, 100)
    builder = RtxBuilder()
    version = re.sub(r"^(\d+\.\d+).*", r"\1", builder.version)
    place = Path(_FOLDER, f"rtx-{version}")
    total = len(sms) * len(chosen)
    files: dict[str, dict[str, EngineFile]] = {sm: {} for sm in sms}
    with staging(opened.path.resolve() / _FOLDER) as folder:
        for nth, (sm, graph) in enumerate(product(sms, chosen)):

            def step(share: float, what: str = f"building {graph} for {sm}", nth: int = nth) -> None:
                tell(what, int(100 * (nth + share) / total), 100)

            spec = manifest.contract.graphs[graph]
            plan = builder.build(opened.graph_path(graph), spec, sm, batch, length, step)
            path = folder / sm / f"{graph}.engine"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(plan)
            name = (place / sm / path.name).as_posix()
            files[sm][graph] = EngineFile(name, plan.nbytes, sha256_of(path), manifest.files[spec.file].sha256)
        shared = (manifest.precision, batch, length)
        records = [EngineRecord(f"rtx:{sm}", TENSORRT_RTX, builder.version, (sm,), *shared, files[sm]) for sm in sms]
        for record, graph in product(records, chosen):
            if problem := engine_problem(folder, f"{record.sms[0]}/{graph}.engine", record):
                raise EngineBuildError(f"what TensorRT-RTX wrote is not what was asked for: {problem}")
        tell("recording", 100, 100)
        made = {record.target: record for record in records}
        _commit(opened.path, folder, place, made)
    return made


def parse_targets(targets: Sequence[str]) -> list[str]:
    """The GPU architectures of targets such as "rtx:sm86,sm89", each once, in the order given.

    Raises:
        ValueError: one is not known; the message lists those that are.
    """
    sms: dict[str, None] = {}
    for target in targets:
        kind, _, names = target.partition(":")
        for sm in names.split(","):
            if f"{kind}:{sm}" not in TARGETS:
                raise ValueError(f"target is {target!r}; known: {', '.join(TARGETS)} (or rtx:sm86,sm89 for several)")
            sms[sm] = None
    if not sms:
        raise ValueError(f"no target is given; known: {', '.join(TARGETS)}")
    return list(sms)


def _check_sizes(name: str, sizes: Sequence[int], most: int | None) -> None:
    whole = len(sizes) == 3 and all(type(size) is int and size >= 1 for size in sizes)
    if not whole or list(sizes) != sorted(sizes) or (most is not None and sizes[-1] > most):
        limit = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} is {tuple(sizes)}; expected (min, opt, max), each >= 1{limit}, none below the last")


def _commit(root: Path, folder: Path, place: Path, records: dict[str, EngineRecord]) -> None:
    """Puts engines in their place, records them and removes those that they replace.

    Should the process be killed between these steps, the bundle has files that are not recorded, never a record
    without its files.
    """
    before = read_manifest(root)
    replaced = [file.file for target in records if (old := before.engines.get(target)) for file in old.graphs.values()]
    _record(root, records, ())
    (root / place).mkdir(parents=True, exist_ok=True)
    for engines in records.values():
        put_in_place(folder / engines.sms[0], root / place / engines.sms[0])
    _record(root, records, records.values())
    for name in set(replaced) - set(read_manifest(root).engine_files()):
        (root / name).unlink(missing_ok=True)


def _record(root: Path, targets: Container[str], records: Iterable[EngineRecord]) -> None:
    """Has the manifest say of these targets what `records` say, and of others what it said."""
    manifest = read_manifest(root)
    kept = {target: old for target, old in manifest.engines.items() if target not in targets}
    write_manifest(root, replace(manifest, engines=kept | {new.target: new for new in records}))
