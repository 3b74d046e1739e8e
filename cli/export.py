"""aim-edge export: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from .console import megabytes, output, reporting


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, a weight file or a hub id (owner/name); 'demo' is the bundled one.")
    ],
    out: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    lowering: Annotated[
        str, typer.Option(help="primitive, onnx, onnx-opset27, plugin or plugin-fused.")
    ] = "primitive",
    precision: Annotated[str, typer.Option(help="Of weights and activations: float32 or float16.")] = "float32",
    state_dtype: Annotated[str, typer.Option(help="Of the recurrent state: float32 or float16.")] = "float32",
    fused_convolutions: Annotated[
        bool,
        typer.Option(
            "--fused-convolutions",
            help="The image decoder's convolutions as operators with their norms; plugin-fused in float16 only.",
        ),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="int8 or int4: the projections and the head as integers; plugin-fused in float16 only.",
            show_default="as --precision",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    policy: Annotated[
        Path | None, typer.Option(help="JSON file of a usage policy that the bundle carries and generate enforces.")
    ] = None,
) -> None:
    """Export a trained checkpoint as a bundle of ONNX graphs."""
    write_bundle(
        checkpoint, out, lowering, precision, state_dtype,
        fused_convolutions=fused_convolutions, weights=weights, overwrite=overwrite, policy=policy,
    )  # fmt: skip
    folder = shlex.quote(str(out))
    output.print(f"next: aim-edge validate {folder} --checkpoint {shlex.quote(checkpoint)} --record", soft_wrap=True)
    output.print(f"      aim-edge generate {folder} --class all", soft_wrap=True)


def write_bundle(
    checkpoint: str, out: Path, lowering: str, precision: str = "float32", state_dtype: str = "float32", *,
    overwrite: bool, fused_convolutions: bool = False, weights: str | None = None, policy: Path | None = None,
) -> None:  # fmt: skip
    """Exports with progress shown and says what was written."""
    begin = time.perf_counter()
    with reporting() as report:
        report("loading PyTorch")
        from aim_edge.export import export_bundle
        from aim_edge.runtime.bundle import read_manifest

        folder = export_bundle(
            checkpoint, out, lowering=lowering, precision=precision, state_dtype=state_dtype,
            fused_convolutions=fused_convolutions, weights=weights, overwrite=overwrite, policy=policy,
            progress=lambda what, done, total: report(f"{lowering}: {what}", done, total),
        )  # fmt: skip
    manifest = read_manifest(folder)
    size = sum(record.bytes for record in manifest.files.values())
    output.print(
        f"{folder}: {manifest.lowering}, {manifest.precision}, "
        + ("" if manifest.quantisation is None else f"weights {manifest.quantisation.weights}, ")
        + f"states {manifest.state_dtype}, "
        f"{len(manifest.contract.graphs)} graphs, {megabytes(size)}, in {time.perf_counter() - begin:.1f} s",
        soft_wrap=True,
    )
