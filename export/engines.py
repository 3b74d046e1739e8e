"""A bundle's graphs become engines: all of a call's are recorded, or none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from aim_edge.runtime import Bundle
from aim_edge.runtime.bundle import put_in_place, read_manifest, sha256_of, staging, write_manifest
from aim_edge.runtime.contract import GRAPHS
from aim_edge.runtime.cuda import Device
from aim_edge.runtime.engines import engine_problem
from aim_edge.runtime.manifest import EngineFile, EngineRecord, PluginRecord, Sizes

from .engines_common import EngineBuildError, Job, Maker
from .engines_plugins import PLUGIN_LIBRARY
from .engines_rtx import SMS, RtxBuilder
from .engines_trt import TrtBuilder
from .engines_trt_options import TrtOptions

Progress = Callable[[str, int, int], None]
ENGINE_GRAPHS = ("condition", "step", "scan", "vq_decode")
RTX_TARGETS = tuple(f"rtx:{sm}" for sm in SMS)
AT_HAND = "tensorrt"  # trt: of the GPU at hand
BATCH: tuple[Sizes, ...] = ((1, 1, 8),)
_FOLDER = "engines"
_LOWERINGS = {"rtx": ("primitive",), "trt": ("primitive", "plugin", "plugin-fused", "plugin-layers")}
_PLUGIN_LOWERINGS = ("plugin", "plugin-fused", "plugin-layers")


def build_engines(
    bundle: str | Path,
    targets: Sequence[str],
    *,
    batch: Sizes | Sequence[Sizes] = BATCH,
    length: Sizes | None = None,
    graphs: Sequence[str] = ENGINE_GRAPHS,
    options: TrtOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, EngineRecord]:
    """Builds engines with TensorRT for the GPU at hand, or with TensorRT-RTX for GPUs that need not be here.

    Each becomes `engines/trt-VERSION/SM/GRAPH.engine` (or rtx-VERSION) and is recorded in the manifest. They are
    written to a temporary folder, and put in their place and recorded when all of them are there. What was recorded
    of the same targets is replaced.

    Args:
        bundle: a bundle's folder, of the lowering `primitive`;
            for TensorRT of `plugin`, `plugin-fused` and `plugin-layers` too.
        targets: "tensorrt" or "trt:SM" (which must be the GPU at hand), or of `RTX_TARGETS`; "rtx:sm86,sm89" is
            short for "rtx:sm86" and "rtx:sm89".
        batch: smallest, best and largest number of images; several such are an optimisation profile each.
        length: smallest, best and largest number of codes that `scan` takes; None: 1, half of them, all.
        graphs: which of the bundle's graphs.
        options: how TensorRT builds; None: as `TrtOptions()`. TensorRT-RTX has none of them.
        progress: called with (what, done, total); what it raises ends the build.

    Returns:
        What was recorded, by target.

    Raises:
        ValueError: an unknown target or graph, another GPU than that at hand, sizes that are no profile, another
            lowering, an option that does not fit, or no plugin library where one is needed.
        BundleError: the bundle is refused.
        BackendMissingError: the library is not installed, or TensorRT has no GPU here.
        EngineBuildError: a graph does not parse or build, or the engine is not what was asked for; nothing is recorded.
        OSError: writing failed; nothing is recorded.
    """
    asked = [name for target in targets for name in ([AT_HAND] if target == AT_HAND else parse_targets([target]))]
    asked = asked or parse_targets([])
    chosen = [graph for graph in GRAPHS if graph in graphs]
    if not chosen or set(graphs) - set(chosen):
        raise ValueError(f"graphs are {list(graphs)}; expected one or more of {', '.join(GRAPHS)}")
    kinds = dict.fromkeys("trt" if target == AT_HAND else target.partition(":")[0] for target in asked)
    if options is not None and "trt" not in kinds:
        raise ValueError(f"options are {options}; they are TensorRT's, and the targets are {', '.join(asked)}")
    opened = Bundle.open(bundle, engines=False)
    manifest = opened.manifest
    for kind in kinds:
        _check_lowering(bundle, manifest.lowering, kind)
    tokens = manifest.contract.dims.num_tokens
    length = (1, max(tokens // 2, 1), tokens) if length is None else length
    profiles = _profiles(batch)
    for sizes in profiles:
        _check_sizes("batch", sizes, None)
    _check_sizes("length", length, tokens)
    tell = progress or (lambda what, done, total: None)
    with ExitStack() as stack:
        makers: dict[str, Maker] = {}
        if "trt" in kinds:
            tell("looking for the GPU", 0, 100)
            device = stack.enter_context(closing(Device()))
            asked = [_at_hand(target, device) if target.startswith(("trt:", AT_HAND)) else target for target in asked]
            plugins = manifest.lowering in _PLUGIN_LOWERINGS
            makers["trt"] = TrtBuilder(options or TrtOptions(), device, plugins, lambda what: tell(what, 0, 100))
        if "rtx" in kinds:
            tell("loading TensorRT-RTX", 0, 100)
            makers["rtx"] = RtxBuilder()
        folder = stack.enter_context(staging(opened.path.resolve() / _FOLDER))
        made = {}
        wanted = list(dict.fromkeys(asked))
        for nth, target in enumerate(wanted):
            maker = makers[target.partition(":")[0]]

            def share(what: str, done: float, nth: int = nth) -> None:
                tell(what, int(100 * (nth + done) / len(wanted)), 100)

            made[target] = _build_target(opened, target, maker, folder, chosen, profiles, length, share)
        tell("recording", 100, 100)
        _commit(opened.path, folder, made)
    return made


def _build_target(
    opened: Bundle, target: str, maker: Maker, folder: Path, graphs: Sequence[str], profiles: tuple[Sizes, ...],
    length: Sizes, share: Callable[[str, float], None],
) -> EngineRecord:  # fmt: skip
    """Writes a target's engines below `folder`, as they will lie below the bundle's engines/."""
    manifest, sm = opened.manifest, target.partition(":")[2]
    place = Path(maker.folder, sm)
    (folder / place).mkdir(parents=True)
    files = {}
    for nth, graph in enumerate(graphs):

        def step(part: float, more: str, graph: str = graph, nth: int = nth) -> None:
            share(f"building {graph} for {sm}{more}", (nth + part) / len(graphs))

        step(0.0, "")
        spec = manifest.contract.graphs[graph]
        job = Job(
            graph, _graph_path(opened, graph), spec, sm, profiles, length, manifest.precision, manifest.state_dtype,
            # A Transformer's scan is in standard operators whatever the lowering.
            manifest.lowering in _PLUGIN_LOWERINGS and (manifest.family == "aim" or graph != "scan"),
        )  # fmt: skip
        built = maker.build(job, step)
        path = folder / place / f"{graph}.engine"
        path.write_bytes(built.plan)
        if built.detail is not None:
            _detail_of(path).write_text(json.dumps(built.detail, indent=1) + "\n", encoding="utf-8")
        files[graph] = EngineFile(
            Path(_FOLDER, place, path.name).as_posix(), built.plan.nbytes, sha256_of(path),
            manifest.files[spec.file].sha256, built.layers, built.plugins, built.device_bytes,
        )  # fmt: skip
        del built  # the next graph's build may need the memory
    plugin = None
    if maker.plugin is not None:
        beside = folder / place / PLUGIN_LIBRARY
        shutil.copyfile(maker.plugin.path, beside)
        name = Path(_FOLDER, place, PLUGIN_LIBRARY).as_posix()
        plugin = PluginRecord(name, beside.stat().st_size, sha256_of(beside), maker.plugin.version)
    record = EngineRecord(
        target, maker.library, maker.version, (sm,), manifest.precision, profiles, length, files, plugin=plugin,
        **maker.facts,
    )  # fmt: skip
    for graph in graphs:
        if problem := engine_problem(folder, Path(place, f"{graph}.engine").as_posix(), record):
            raise EngineBuildError(f"what {maker.library} wrote is not what was asked for: {problem}")
    return record


def _graph_path(bundle: Bundle, graph: str) -> Path:
    """The variant without the operators' bodies where there is one: the parser is to see the plugins."""
    path = bundle.graph_path(graph)
    bodiless = path.with_suffix(".trt.onnx")
    return bodiless if bodiless.name in bundle.manifest.files else path


def _detail_of(engine: Path) -> Path:
    return engine.with_suffix(".layers.json")


def parse_targets(targets: Sequence[str]) -> list[str]:
    """Targets such as "rtx:sm86,sm89" and "trt:sm90" one by one, each once, in the order given.

    Raises:
        ValueError: one is not known; the message lists those that are.
    """
    known = f"known: {', '.join(RTX_TARGETS)} (or rtx:sm86,sm89 for several); trt:SM, such as trt:sm90, and to build " \
        f"for the GPU at hand {AT_HAND}"  # fmt: skip
    found: dict[str, None] = {}
    for target in targets:
        kind, _, names = target.partition(":")
        for sm in names.split(","):
            name = f"{kind}:{sm}"
            if name not in RTX_TARGETS and not re.fullmatch(r"trt:sm\d{2,3}", name):
                raise ValueError(f"target is {target!r}; {known}")
            found[name] = None
    if not found:
        raise ValueError(f"no target is given; {known}")
    return list(found)


def _at_hand(target: str, device: Device) -> str:
    """The target of the GPU at hand. Raises ValueError where another was asked for."""
    name = f"trt:{device.sm}"
    if target not in (AT_HAND, name):
        raise ValueError(
            f"target is {target!r}, but the GPU at hand is {device.name}, {name}: TensorRT builds for that one only; "
            f"expected {name} or {AT_HAND}, or build on a machine with the other"
        )
    return name


def _check_lowering(bundle: str | Path, lowering: str, kind: str) -> None:
    if lowering not in _LOWERINGS[kind]:
        who = "TensorRT-RTX takes no plugins and no operators but the standard's" if kind == "rtx" else (
            "TensorRT takes the standard's operators and our plugins")  # fmt: skip
        known = " or ".join(_LOWERINGS[kind])
        raise ValueError(
            f"{bundle} is of the lowering {lowering!r}; {who}: aim-edge export CHECKPOINT FOLDER --lowering {known}"
        )


def _profiles(batch: Sizes | Sequence[Sizes]) -> tuple[Sizes, ...]:
    """Sizes, one profile's or several's, as several's."""
    if not batch:
        raise ValueError("batch is empty; expected (min, opt, max), or several such")
    many = [batch] if all(isinstance(size, int) for size in batch) else batch
    return tuple(tuple(sizes) if isinstance(sizes, (tuple, list)) else sizes for sizes in many)  # type: ignore[misc]


def _check_sizes(name: str, sizes: Sequence[int], most: int | None) -> None:
    whole = isinstance(sizes, (tuple, list)) and len(sizes) == 3
    whole = whole and all(type(size) is int and size >= 1 for size in sizes)
    if not whole or list(sizes) != sorted(sizes) or (most is not None and sizes[-1] > most):
        limit = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} is {sizes}; expected (min, opt, max), each >= 1{limit}, none below the last")


def _commit(root: Path, folder: Path, records: dict[str, EngineRecord]) -> None:
    """Puts engines in their place, records them and removes those that they replace.

    Should the process be killed between these steps, the bundle has files that are not recorded, never a record
    without its files.
    """
    before = read_manifest(root)
    replaced = [name for target in records if (old := before.engines.get(target)) for name in old.files()]
    _record(root, records, ())
    for engines in records.values():
        place = Path(next(iter(engines.graphs.values())).file).parent
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        put_in_place(folder / place.relative_to(_FOLDER), root / place)
    _record(root, records, records.values())
    kept = read_manifest(root).engine_files()
    for name in set(replaced) - set(kept):
        (root / name).unlink(missing_ok=True)
        _detail_of(root / name).unlink(missing_ok=True)


def _record(root: Path, targets: Container[str], records: Iterable[EngineRecord]) -> None:
    """Has the manifest say of these targets what `records` say, and of others what it said."""
    manifest = read_manifest(root)
    kept = {target: old for target, old in manifest.engines.items() if target not in targets}
    write_manifest(root, replace(manifest, engines=kept | {new.target: new for new in records}))
