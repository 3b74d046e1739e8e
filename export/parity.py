"""Proof that a bundle still is the checkpoint's model: forced decoding, compared step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aim_edge.aim.checkpoint import Checkpoint, load_checkpoint
from aim_edge.runtime import Generator, NonFiniteError
from aim_edge.runtime.images import Image8

from .measures import STATE_EVERY, Floats, compare_steps, first_parting
from .parity_report import (
    GATES,
    STATE_GATES,
    Gates,
    ParityReport,
    StateGates,
    conclude,
    find_failures,
    find_state_failures,
    leaves,
    outside,
    package_versions,
    weights_of,
)
from .states import decode_beside, reference_images, reference_tokens

__all__ = [
    "GATES",
    "STATE_EVERY",
    "STATE_GATES",
    "Examination",
    "Floats",
    "compare_steps",
    "examine",
    "find_failures",
    "find_state_failures",
    "first_parting",
    "leaves",
    "outside",
    "validate",
]


@dataclass(frozen=True)
class Examination:
    """A report with what it was made from: what `locate` and the HTML report need.

    Attributes:
        report: the measures.
        checkpoint: the reference.
        labels, tokens: (B) classes and (B, T) codes that were forced.
        drawn: the bundle's images (B, H, W, C) uint8 of all codes; None where they held NaN or infinity.
        wanted: PyTorch's.
        options: of the backend.
    """

    report: ParityReport
    checkpoint: Checkpoint
    labels: NDArray[np.int32]
    tokens: NDArray[np.int32]
    drawn: Image8 | None
    wanted: Image8
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The checkpoint's."""
        return self.checkpoint.class_names


def validate(
    bundle: str | Path,
    checkpoint: str | Path | Checkpoint | None = None,
    *,
    backend: str = "ort-cpu",
    images: int = 2,
    steps: int | None = None,
    seed: int = 0,
    gates: Gates | None = None,
    progress: Callable[[str], None] | None = None,
    state_every: int = STATE_EVERY,
    state_gates: StateGates | None = None,
    options: Mapping[str, Any] | None = None,
) -> ParityReport:
    """Compares a bundle, through a backend, with its checkpoint in PyTorch float32.

    The bundle draws `images` images; then both decode with those codes forced, and their logits are compared
    step by step, every layer's states at some steps, and the decoded images too. Where the bundle can draw
    none for NaN or infinity, the codes are those that PyTorch draws.

    Args:
        bundle: the bundle's folder.
        checkpoint: what it was exported from; None takes the source that the manifest names.
        backend: a runtime backend.
        images: how many images, of classes spread over all.
        steps: compare only the first so many steps; None: all.
        seed: of the sampling.
        gates: limits; None takes `GATES` of the bundle's precision.
        progress: called with what is being done.
        state_every: states are compared at every so many steps, and at the last.
        state_gates: limits; None takes `STATE_GATES` of the bundle's precision.
        options: of the backend.

    Raises:
        ValueError: an argument is out of range, or the checkpoint is another than the bundle's.
    """
    return examine(
        bundle, checkpoint, backend=backend, images=images, steps=steps, seed=seed, gates=gates, progress=progress,
        state_every=state_every, state_gates=state_gates, options=options,
    ).report  # fmt: skip


def examine(
    bundle: str | Path, checkpoint: str | Path | Checkpoint | None = None, *, backend: str = "ort-cpu",
    images: int = 2, steps: int | None = None, seed: int = 0, gates: Gates | None = None,
    progress: Callable[[str], None] | None = None, state_every: int = STATE_EVERY,
    state_gates: StateGates | None = None, options: Mapping[str, Any] | None = None,
) -> Examination:  # fmt: skip
    """As `validate`, and returns what the report was made from too."""
    tell = progress or (lambda what: None)
    with Generator.open(bundle, backend=backend, **(options or {})) as generator:
        manifest = generator.bundle.manifest
        dims = manifest.contract.dims
        length = dims.num_tokens if steps is None else steps
        if not images >= 1 or not 1 <= length <= dims.num_tokens:
            raise ValueError(f"images is {images} and steps {steps}; allowed: >= 1, and 1..{dims.num_tokens}")
        if not state_every >= 1:
            raise ValueError(f"state_every is {state_every}; allowed: >= 1")
        if not isinstance(checkpoint, Checkpoint):
            tell("reading the checkpoint")
            try:
                checkpoint = load_checkpoint(checkpoint or manifest.checkpoint.source)
            except (FileNotFoundError, ValueError) as error:
                if manifest.family == "aim":
                    raise
                raise ValueError(
                    f"{bundle} is a Transformer's, and load_checkpoint does not read its checkpoint ({error}); give "
                    "`checkpoint` as a Checkpoint, from Python, or compare with another bundle (--against)"
                ) from error
        if checkpoint.sha256 != manifest.checkpoint.sha256:
            raise ValueError(
                f"{checkpoint.source} has SHA-256 {checkpoint.sha256}, but the bundle was exported from "
                f"{manifest.checkpoint.sha256} ({manifest.checkpoint.source}); name that checkpoint"
            )
        labels = np.linspace(0, dims.num_classes - 1, images).round().astype(np.int32)
        tell("drawing images with the bundle")
        tokens, drawn = _draw(generator, checkpoint, labels, seed)
        tell("decoding with PyTorch and with the bundle, codes forced")
        session = generator.session(images)
        decoded = decode_beside(session, checkpoint.aim, labels, tokens[:, :length], state_every)
        described = generator.backend.describe()
    tell("decoding images with PyTorch")
    wanted = reference_images(checkpoint, tokens)
    report = conclude(
        decoded, drawn, wanted, gates=gates or GATES[weights_of(manifest)],
        state_gates=state_gates or STATE_GATES[weights_of(manifest)],
        guidance_scale=manifest.sampling_defaults.guidance_scale, bundle=str(bundle), backend=backend,
        lowering=manifest.lowering, precision=manifest.precision, state_dtype=manifest.state_dtype, images=images,
        versions=package_versions(manifest.aim_edge_version), described=described,
        checkpoint_sha256=checkpoint.sha256,
    )  # fmt: skip
    return Examination(report, checkpoint, labels, tokens, drawn, wanted, dict(options or {}))


def _draw(
    generator: Generator, checkpoint: Checkpoint, labels: NDArray[np.int32], seed: int
) -> tuple[NDArray[np.int32], Image8 | None]:
    """Codes (B, T), PyTorch's where the bundle's logits are no numbers, and the bundle's images of them, if any."""
    try:
        drawn, tokens = generator.generate(labels, seed=seed)
    except NonFiniteError:
        tokens = reference_tokens(checkpoint.aim, labels, seed, generator.bundle.manifest.sampling_defaults)
        try:
            return tokens, generator.decode_tokens(tokens)
        except NonFiniteError:
            return tokens, None
    return tokens, drawn
