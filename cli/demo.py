"""aim-edge demo: the bundled checkpoint, exported twice, proven and drawn."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import output, reporting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

LOWERINGS = ("primitive", "onnx")
CLASSES, COUNT = 10, 4
# Engines round differently in the last bits, so once in some thousand draws one falls on the other side of a
# sampling cut-off, and that image goes its own way. A wrong lowering changes nearly all of them.
SAME_IMAGES = 0.9


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the bundles, images and grid.png.")] = Path(
        "aim-edge-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the images.")] = 0,
) -> None:
    """Export the bundled checkpoint, prove both bundles against PyTorch and draw a grid; exit with 1 if one differs."""
    import numpy as np

    from .drawing import Order, draw, summary
    from .export import write_bundle
    from .validate import GATE_FAILED, compare, write_json

    reports = []
    for lowering in LOWERINGS:
        write_bundle("demo", out / lowering, lowering, overwrite=True)
        reports.append(compare(out / lowering, "demo", record=True))
    with reporting() as report:
        from aim_edge.runtime import Generator

        report("opening the bundle")
        # The onnx lowering draws: ONNX Runtime has kernels of its own for it.
        with Generator.open(out / LOWERINGS[-1]) as generator:
            classes = range(min(generator.dims.num_classes, CLASSES))
            order = Order(classes, COUNT, batch=len(classes), sampling={"seed": seed})
            drawn = draw(generator, order, out / "images", out / "grid.png", report)
            indexes = np.arange(len(drawn.tokens))
        with Generator.open(out / LOWERINGS[0]) as generator:

            def tell(part: int, done: int, total: int) -> None:
                report(f"drawing them again with {LOWERINGS[0]}", part * total + done, COUNT * total)

            again = np.concatenate([
                generator.generate(
                    np.asarray(classes)[part // COUNT], seed=seed, image_index=part, progress=partial(tell, i)
                )[1]
                for i, part in enumerate(np.array_split(indexes, COUNT))
            ])  # fmt: skip
    difference = first_difference(again, drawn.tokens)
    same = float((again == drawn.tokens).all(axis=1).mean())
    passed = same >= SAME_IMAGES and all(found.passed for found in reports)
    values = {"seed": seed, "images": len(drawn.tokens), "same_images": same, "difference": difference}
    write_json(
        out / "parity.json", values | {"passed": passed}
        | {"bundles": {found.lowering: found.to_dict() for found in reports}},
    )  # fmt: skip
    output.print(summary(drawn, out / "images"), soft_wrap=True)
    for found in reports:
        output.print(found.line(), soft_wrap=True)
        for failure in found.failures:
            output.print(f"failed gate: {failure}", soft_wrap=True)
    output.print(
        f"tokens DIFFER: {difference}" if difference
        else f"tokens the same: {' and '.join(LOWERINGS)}, {drawn.tokens.size} codes of {len(drawn.tokens)} images",
        soft_wrap=True,
    )  # fmt: skip
    output.print(
        f"bundles: {', '.join(str(out / lowering) for lowering in LOWERINGS)}; every step: {out / 'parity.json'}; "
        f"look at {drawn.grid}",
        soft_wrap=True,
    )
    if not passed:
        raise typer.Exit(GATE_FAILED)


def first_difference(primitive: Codes, onnx: Codes) -> str | None:
    """In words, where two bundles' codes (images, T) of the same images part; None where they do not."""
    differs = primitive != onnx
    if not differs.any():
        return None
    images = differs.any(axis=1).nonzero()[0]
    image = int(images[0])
    step = int(differs[image].argmax())
    return (
        f"{len(images)} of {len(onnx)} images; image {image} first at step {step}: "
        f"{LOWERINGS[0]} drew {primitive[image, step]}, {LOWERINGS[1]} {onnx[image, step]}"
    )
