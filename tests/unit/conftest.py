"""What the tests of the command line share. Heavy packages are imported by those that use them only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint, exported. Tests leave it as it is."""
    from aim_edge.export import export_bundle

    return export_bundle("demo", tmp_path_factory.mktemp("cli") / "bundle", lowering="onnx")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained checkpoint of three classes and 16 codes, in place of the bundled one."""
    from test_checkpoint import write as write_checkpoint

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    monkeypatch.setattr("aim_edge.aim.checkpoint.DEMO", write_checkpoint(folder))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line and gives its exit status, stdout and stderr."""

    from aim_edge.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
