"""Two bundles compared, each on a backend: forced decoding side by side. Needs neither PyTorch nor onnx."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aim_edge.runtime import Bundle, Generator, Manifest, NonFiniteError
from aim_edge.runtime.arena import Snapshot
from aim_edge.runtime.images import Image8

from .diagnosis import Diagnosis, Finding
from .measures import STATE_EVERY, Decoded, Floats, Ids, StateParity, decode_against, feed
from .parity_report import (
    GATES,
    STATE_GATES,
    Gates,
    ParityReport,
    SideRecord,
    StateGates,
    conclude,
    find_failures,
    outside,
    package_versions,
    weights_of,
)


@dataclass(frozen=True)
class Side:
    """A bundle's folder, the backend that it runs on, and the backend's options."""

    bundle: str | Path
    backend: str = "ort-cpu"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Bundle and backend."""
        return f"{self.bundle} on {self.backend}"


@dataclass(frozen=True)
class Comparison:
    """A report with what it was made from.

    Attributes:
        report: the measures.
        class_names: of every class, if they have names.
        labels, tokens: (B) classes and (B, T) codes that were forced.
        drawn, wanted: the images (B, H, W, C) uint8 of the bundle and of the reference; None where they held NaN or
            infinity.
    """

    report: ParityReport
    class_names: tuple[str, ...] | None
    labels: Ids
    tokens: Ids
    drawn: Image8 | None
    wanted: Image8 | None


def compare_bundles(
    side: Side, against: Side, *, images: int = 2, steps: int | None = None, seed: int = 0,
    gates: Gates | None = None, progress: Callable[[str], None] | None = None, state_every: int = STATE_EVERY,
    state_gates: StateGates | None = None,
) -> Comparison:  # fmt: skip
    """Compares a bundle on a backend with another, or with itself on another backend.

    The reference draws `images` images (the other side does where the reference finds NaN or infinity; where both
    do, the codes are uniform); then both decode with those codes forced, and are compared as `validate` does it.

    Args:
        side: what is judged.
        against: the reference.
        images: how many images, of classes spread over all.
        steps: compare only the first so many steps; None: all.
        seed: of the sampling, with the reference's defaults.
        gates: limits; None takes `GATES` of the less precise of the two.
        progress: called with what is being done.
        state_every: states are compared at every so many steps, and at the last.
        state_gates: limits; None takes `STATE_GATES` of the less precise of the two.

    Raises:
        ValueError: an argument is out of range, or the two are not bundles of the same model.
        BundleError, BackendMissingError, EngineError: as `Generator` raises them.
    """
    tell = progress or (lambda what: None)
    tell("checking both bundles")
    opened, other = Bundle.open(side.bundle), Bundle.open(against.bundle)
    mine, theirs = opened.manifest, other.manifest
    check_same_model(side, against, mine, theirs)
    dims = mine.contract.dims
    length = dims.num_tokens if steps is None else steps
    if not images >= 1 or not 1 <= length <= dims.num_tokens:
        raise ValueError(f"images is {images} and steps {steps}; allowed: >= 1, and 1..{dims.num_tokens}")
    if not state_every >= 1:
        raise ValueError(f"state_every is {state_every}; allowed: >= 1")
    types = (mine.precision, mine.state_dtype, theirs.precision, theirs.state_dtype)
    loosest = "float16" if "float16" in types else "float32"
    loosest = next((w for w in ("int4", "int8") if w in (weights_of(mine), weights_of(theirs))), loosest)
    labels = np.linspace(0, dims.num_classes - 1, images).round().astype(np.int32)
    tell("opening both backends")
    with (
        Generator.open(other, against.backend, **against.options) as reference,
        Generator.open(opened, side.backend, **side.options) as engine,
    ):
        tell("drawing images with the reference")
        tokens, wanted, codes = _draw(((against.name, reference), (side.name, engine)), labels, seed)
        wanted = _decode(reference, tokens) if wanted is None else wanted
        drawn = _decode(engine, tokens)
        tell("decoding with both, codes forced")
        decoded = _decode_both(engine, reference, labels, tokens[:, :length], state_every)
        report = conclude(
            decoded, drawn, wanted, gates=gates or GATES[loosest], state_gates=state_gates or STATE_GATES[loosest],
            guidance_scale=theirs.sampling_defaults.guidance_scale, bundle=str(side.bundle), backend=side.backend,
            lowering=mine.lowering, precision=mine.precision, state_dtype=mine.state_dtype, images=images,
            described=engine.backend.describe(), checkpoint_sha256=mine.checkpoint.sha256, codes=codes,
            against=SideRecord(
                str(against.bundle), against.backend, theirs.lowering, theirs.precision, theirs.state_dtype,
                reference.backend.describe(), theirs.checkpoint.source, theirs.checkpoint.sha256,
            ),
            warnings=_warnings(side, against, mine, theirs),
            versions=(*package_versions(mine.aim_edge_version),
                      ("aim-edge that exported the reference", theirs.aim_edge_version)),
        )  # fmt: skip
        if not report.passed:
            tell("decoding again, to the first step that left the gates")
            report = replace(report, diagnosis=_locate(report, engine, reference, labels, tokens))
    return Comparison(report, mine.class_names, labels, tokens, drawn, wanted)


def check_same_model(side: Side, against: Side, mine: Manifest, theirs: Manifest) -> None:
    """Raises ValueError with every size that differs."""
    sizes = asdict(mine.contract.dims) | {"family": mine.family}
    others = asdict(theirs.contract.dims) | {"family": theirs.family}
    differing = [f"{name} is {size} and {others[name]}" for name, size in sizes.items() if size != others[name]]
    if differing:
        raise ValueError(
            f"{side.bundle} and {against.bundle} are not the same model: {', '.join(differing)}; compare bundles of "
            "one checkpoint"
        )


def _warnings(side: Side, against: Side, mine: Manifest, theirs: Manifest) -> tuple[str, ...]:
    if mine.checkpoint.sha256 == theirs.checkpoint.sha256:
        return ()
    return (
        f"the checkpoints differ: {side.bundle} was exported from {mine.checkpoint.source} with SHA-256 "
        f"{mine.checkpoint.sha256}, {against.bundle} from {theirs.checkpoint.source} with {theirs.checkpoint.sha256}",
    )


def _draw(
    sides: tuple[tuple[str, Generator], ...], labels: Ids, seed: int
) -> tuple[Ids, Image8 | None, str]:
    """Codes (B, T) of the first side that can draw, the images if that is the reference (the first), and its name."""
    sampling = sides[0][1].bundle.manifest.sampling_defaults
    for name, generator in sides:
        try:
            pictures, tokens = generator.generate(labels, seed=seed, **asdict(sampling))
        except NonFiniteError:
            continue
        return tokens, pictures if generator is sides[0][1] else None, name
    dims = sides[0][1].dims
    shape = (len(labels), dims.num_tokens)
    tokens = np.random.default_rng(seed).integers(0, dims.vocab_size, shape, np.int32)
    return tokens, None, "chance, uniformly: neither side could"


def _decode(generator: Generator, tokens: Ids) -> Image8 | None:
    try:
        return generator.decode_tokens(tokens)
    except NonFiniteError:
        return None


def _decode_both(engine: Generator, reference: Generator, labels: Ids, tokens: Ids, every: int) -> Decoded:
    with engine.borrow_session(labels) as session, reference.borrow_session(labels) as other:
        steps = _steps(other, tokens)
        return decode_against(session, steps, labels, tokens, every, engine.dims.vocab_size)


def _steps(session: Any, tokens: Ids) -> Iterator[tuple[Floats, Callable[[], Snapshot]]]:
    """Logits of each step with tokens (B, T) forced, and what gives the states; the session is at its start."""
    given = feed(tokens)
    for t in range(tokens.shape[1]):
        yield session.step(given[:, t], t), session.snapshot


def _locate(
    report: ParityReport, engine: Generator, reference: Generator, labels: Ids, tokens: Ids
) -> Diagnosis:
    """The first state outside the gates: both decode again, every step's states compared, to the first bad step."""
    notes = ("the cause is looked for only where the reference is PyTorch: aim-edge validate BUNDLE",)
    broken = [s.step for s in report.steps if find_failures((s,), 0.0, report.gates)]
    broken += [s.step for s in report.states if outside(s, report.state_gates)]
    broken += [f.step for f in (*report.non_finite, *report.reference_non_finite) if f.step is not None]
    if not broken:
        text = "codes forced, logits and states keep the gates; the decoded images do not"
        finding = Finding("first-outside", "vq_decode", "likely", text, "compare vq_decode of the two")
        return Diagnosis((finding,), notes)
    decoded = _decode_both(engine, reference, labels, tokens[:, : min(broken) + 1], 1)
    return Diagnosis((_first_outside(decoded.states, min(broken), report.state_gates),), notes)


def _first_outside(states: tuple[StateParity, ...], broken: int, gates: StateGates) -> Finding:
    state = next((s for s in states if outside(s, gates)), None)
    if state is None:
        text = f"at step {broken} the logits are outside the gates, and up to it every state keeps them"
        return Finding("first-outside", "logits", "likely", text, "compare what comes after the last layer's states")
    text = (
        f"the first state outside the gates is {state.name} at step {state.step}, with cosine {state.cosine:.6g} and "
        f"norm ratio {state.norm_ratio:.6g}"
    )
    first = state.kind in ("conv", "k")
    before = f", and of layer {state.layer - 1} behind its states" if first and state.layer else ""
    action = f"compare layer {state.layer} of the two, up to its {state.name.rpartition('_')[0]}{before}"
    return Finding("first-outside", state.name, "likely", text, action)
