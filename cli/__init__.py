"""The `aim-edge` command: one module a command, each importing what is heavy only when it runs."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from .ab import ab
from .bench import bench
from .build import build
from .console import errors
from .demo import demo
from .doctor import doctor
from .export import export
from .gate import gate
from .generate import generate
from .inspect import inspect
from .quality import quality
from .validate import validate
from .verify import verify

USER_ERROR, INTERNAL_ERROR = 2, 3

# Module that could not be imported -> the extra that brings it.
_EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "safetensors": "export",
    "huggingface_hub": "export",
    "jinja2": "export",
    "onnxruntime": "ort",
    "tensorrt": "tensorrt",
    "tensorrt_rtx_bindings": "tensorrt-rtx",
    "torch_fidelity": "quality",
    "c2pa": "c2pa",
    "cryptography": "c2pa",
}


@dataclass
class _Wishes:
    """What the options before the command ask for."""

    debug: bool = False


app = typer.Typer(
    help="AiM from a trained checkpoint to an engine that draws images: export, generate, validate, build, gate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (export, generate, validate, verify, quality, build, gate, bench, ab, inspect, doctor, demo):
    app.command()(command)
if importlib.util.find_spec(f"{__name__}.plugins") is not None:
    app.add_typer(importlib.import_module(".plugins", __name__).app, name="plugins")


def _print_version(wanted: bool) -> None:
    if wanted:
        import aim_edge

        typer.echo(f"aim-edge {aim_edge.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (so does AIM_EDGE_DEBUG=1).")
    ] = False,
) -> None:
    context.obj.debug |= debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes `sys.argv`.

    Returns:
        The exit status: 0; 1 where a gate failed, images are worse or differ, or no backend works; 2 where something
        that the user gave or that this machine lacks is in the way (one message on stderr), or `quality` can't tell; 3
        for a bug of ours.
    """
    wishes = _Wishes(os.environ.get("AIM_EDGE_DEBUG", "0") not in ("", "0"))
    try:
        app(args=arguments, prog_name="aim-edge", obj=wishes)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        return _report(error, wishes.debug)
    return 0


def _report(error: Exception, debug: bool) -> int:
    """Says on stderr what went wrong and returns the exit status."""
    message = str(error) or type(error).__name__
    expected = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ArithmeticError))
    # Of `ImportError`s ours are bugs; the others say what this machine lacks.
    if isinstance(error, ImportError) and not (error.name or "").startswith("aim_edge"):
        missing = (error.name or "").split(".")[0]
        fix = f'; pip install "aim-edge[{_EXTRAS[missing]}]"' if missing in _EXTRAS else ""
        message = f"this command needs {missing or 'a library'} ({error}){fix}"
        expected = True
    if debug or not expected:
        traceback.print_exception(error, file=sys.stderr)
    errors.print(f"aim-edge: {message}" if expected else f"aim-edge: internal error: {message}", soft_wrap=True)
    return USER_ERROR if expected else INTERNAL_ERROR
