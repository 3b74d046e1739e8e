"""aim-edge generate: images from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import errors, output, reporting


def generate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    classes: Annotated[
        list[str],
        typer.Option("--class", "-c", help="Ids or names, with commas between several, or 'all'; may be given again."),
    ],
    count: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 4,
    seed: Annotated[int, typer.Option(help="With the image's index it decides the image.")] = 0,
    first_index: Annotated[int, typer.Option(min=0, help="Index of the first image.")] = 0,
    guidance_scale: Annotated[float | None, typer.Option(show_default="the bundle's")] = None,
    temperature: Annotated[float | None, typer.Option(show_default="the bundle's")] = None,
    top_k: Annotated[int | None, typer.Option(show_default="the bundle's")] = None,
    top_p: Annotated[float | None, typer.Option(show_default="the bundle's")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 8,
    backend: Annotated[str, typer.Option(help="See: aim-edge doctor.")] = "ort-cpu",
    threads: Annotated[int | None, typer.Option(help="For ONNX Runtime.", show_default="its own choice")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the backend, such as sampler=host; may be given again."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNG files and grid.png.")] = Path("images"),
    prefix_image: Annotated[
        Path | None, typer.Option(help="An image whose top part every image keeps and continues.")
    ] = None,
    prefix_rows: Annotated[
        int | None, typer.Option(help="Rows of codes that are kept of it.", show_default="half of them")
    ] = None,
    preview_every: Annotated[
        int | None, typer.Option(min=1, help="Write the growing images to OUT/previews every so many codes.")
    ] = None,
    no_provenance: Annotated[
        bool, typer.Option("--no-provenance", help="Leave out of the files what says where they come from.")
    ] = False,
    sign_certificate: Annotated[
        Path | None, typer.Option(help="Sign the files by C2PA: the signer's certificate and its CAs', PEM.")
    ] = None,
    sign_key: Annotated[Path | None, typer.Option(help="The certificate's private key, PEM.")] = None,
    sign_algorithm: Annotated[
        str | None, typer.Option(help="es256, es384, es512, ps256, ps384, ps512 or ed25519.", show_default="es256")
    ] = None,
) -> None:
    """Draw images with a bundle: a PNG each, and a grid with a row for each class."""
    from aim_edge.runtime import Generator
    from aim_edge.runtime.backends import parse_options
    from aim_edge.runtime.images import load_image

    from .drawing import Order, choose_classes, draw, summary
    from .signing import Signer

    if prefix_rows is not None and prefix_image is None:
        raise ValueError("--prefix-rows says how much of --prefix-image is kept; give that too")
    refuse_checkpoint_name(bundle)
    signer = Signer.open(sign_certificate, sign_key, sign_algorithm)
    with reporting() as report:
        report(f"opening {bundle}")
        # Passed on only where given: not every backend has threads to set.
        options = parse_options(backend, ([] if threads is None else [f"threads={threads}"]) + (option or []))
        with Generator.open(bundle, backend=backend, **options) as generator:
            dims = generator.dims
            prefix = None
            if prefix_image is not None:
                prefix = load_image(prefix_image, dims.image_height, dims.image_width)
                prefix_rows = dims.grid_height // 2 if prefix_rows is None else prefix_rows
            order = Order(
                choose_classes(classes, generator.bundle.manifest), count, batch, first_index, preview_every,
                {"seed": seed, "guidance_scale": guidance_scale, "temperature": temperature, "top_k": top_k,
                 "top_p": top_p},
                prefix, prefix_rows, marked=not no_provenance, signer=signer,
            )  # fmt: skip
            drawn = draw(generator, order, out, out / "grid.png", report)
            described = generator.backend.describe()  # only now does it tell whether CUDA graphs were captured
    output.print(f"{summary(drawn, out)}\n{described}", soft_wrap=True)
    if signer is not None:
        output.print(f"signed (C2PA, {signer.algorithm}) by {signer.name}", soft_wrap=True)
    if no_provenance:
        errors.print("--no-provenance: the images are unmarked; nothing in them says that a model drew them")


def refuse_checkpoint_name(bundle: Path) -> None:
    """Helps whoever names the bundled checkpoint where a bundle is needed. Raises ValueError."""
    if str(bundle) in ("demo", "demo-gpt") and not bundle.exists():
        raise ValueError(
            f"'{bundle}' is a checkpoint, not a bundle; first: aim-edge export {bundle} FOLDER, then name FOLDER"
        )
