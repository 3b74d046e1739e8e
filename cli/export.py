"""aim-edge export: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import megabytes, output, reporting

if TYPE_CHECKING:
    from aim_edge.aim import Checkpoint


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, a weight file or a hub id (owner/name); 'demo' and 'demo-gpt' are bundled.")
    ],
    out: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    lowering: Annotated[
        str, typer.Option(help="primitive, onnx, onnx-opset27, plugin, plugin-fused or plugin-layers.")
    ] = "primitive",
    precision: Annotated[str, typer.Option(help="Of weights and activations: float32 or float16.")] = "float32",
    state_dtype: Annotated[str, typer.Option(help="Of the recurrent state: float32 or float16.")] = "float32",
    fused_convolutions: Annotated[
        bool,
        typer.Option(
            "--fused-convolutions",
            help="The image decoder's convolutions as operators with their norms; plugin-fused and -layers, float16.",
        ),
    ] = False,
    keep_float32: Annotated[
        list[int] | None,
        typer.Option(
            metavar="LAYER", help="Keep this layer of a float16 bundle in float32; may be given again. See: validate."
        ),
    ] = None,
    transformer: Annotated[
        str | None,
        typer.Option(help="CHECKPOINT is a weight file of LlamaGen's Transformer of this size: B, L or XL."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The Transformer's tokenizer: a weight file such as vq_ds16_c2i.pt.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Codes of the Transformer's images.", show_default="256; 384-pixel models: 576")
    ] = None,
    lazy_states: Annotated[
        bool,
        typer.Option(
            "--lazy-states",
            help="A history beside each state, folded in seldom, for batches from about 16 on; plugin-fused only.",
        ),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="int8 or int4: projections and head as integers; float16, plugin-fused or, int8, plugin-layers.",
            show_default="as --precision",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    policy: Annotated[
        Path | None, typer.Option(help="JSON file of a usage policy that the bundle carries and generate enforces.")
    ] = None,
) -> None:
    """Export a trained checkpoint as a bundle of ONNX graphs."""
    if transformer is None and (tokenizer is not None or tokens is not None):
        raise ValueError("--tokenizer and --tokens are of a Transformer; give --transformer too: B, L or XL")
    write_bundle(
        checkpoint, out, lowering, precision, state_dtype,
        fused_convolutions=fused_convolutions, lazy_states=lazy_states, weights=weights,
        overwrite=overwrite, policy=policy,
        keep_float32=keep_float32 or (),
        transformer=None if transformer is None else (transformer, tokenizer, tokens),
    )  # fmt: skip
    folder = shlex.quote(str(out))
    if transformer is None:
        source = shlex.quote(checkpoint)
        output.print(f"next: aim-edge validate {folder} --checkpoint {source} --record", soft_wrap=True)
    output.print(f"      aim-edge generate {folder} --class all", soft_wrap=True)


def write_bundle(
    checkpoint: str, out: Path, lowering: str, precision: str = "float32", state_dtype: str = "float32", *,
    overwrite: bool, fused_convolutions: bool = False, lazy_states: bool = False, weights: str | None = None,
    policy: Path | None = None,
    keep_float32: Collection[int] = (),
    transformer: tuple[str, Path | None, int | None] | None = None,
) -> None:  # fmt: skip
    """Exports with progress shown and says what was written.

    `transformer` is of a LlamaGen checkpoint: its size, the tokenizer's weight file, and how many codes an image has.
    """
    begin = time.perf_counter()
    with reporting() as report:
        report("loading PyTorch")
        from aim_edge.export import export_bundle
        from aim_edge.runtime.bundle import read_manifest

        folder = export_bundle(
            checkpoint if transformer is None else _read_transformer(checkpoint, *transformer), out,
            lowering=lowering, precision=precision, state_dtype=state_dtype,
            fused_convolutions=fused_convolutions, lazy_states=lazy_states, weights=weights,
            overwrite=overwrite, policy=policy,
            keep_float32=keep_float32,
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


def _read_transformer(weights: str, size: str, tokenizer: Path | None, tokens: int | None) -> Checkpoint:
    """A LlamaGen checkpoint. Raises ValueError without a tokenizer, FileNotFoundError without the files."""
    from aim_edge.aim import GptConfig, load_gpt_checkpoint

    if tokenizer is None:
        raise ValueError("--transformer needs --tokenizer, the weight file of its tokenizer such as vq_ds16_c2i.pt")
    changes = {} if tokens is None else {"num_tokens": tokens}
    return load_gpt_checkpoint(weights, GptConfig.preset(size, **changes), tokenizer)
