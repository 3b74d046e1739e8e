"""Writing bundles: whole or not at all, through errors, a full disk and kills."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aim_edge.runtime.bundle import new_bundle

FILL = """
import os, signal, sys
from aim_edge.runtime import bundle
if sys.argv[2] == "between":
    rename = os.rename
    def kill_after_first(a, b):
        rename(a, b)
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = kill_after_first
with bundle.new_bundle(sys.argv[1], overwrite=True) as folder:
    (folder / "manifest.json").write_text("new")
    if sys.argv[2] == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def fill(out: Path, text: str, overwrite: bool = False) -> None:
    with new_bundle(out, overwrite) as folder:
        (folder / "manifest.json").write_text(text)


def kill(out: Path, when: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", FILL, str(out), when], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_success_leaves_only_the_bundle(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "out", "one")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_existing_folder_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    with pytest.raises(FileExistsError, match="exists"):
        fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "manifest.json").read_text() == "one"


def test_overwrite_replaces_a_bundle_or_an_empty_folder_but_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "one", overwrite=True)
    fill(tmp_path / "out", "two", overwrite=True)
    assert (tmp_path / "out" / "manifest.json").read_text() == "two"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("x")
    with pytest.raises(FileExistsError, match="no bundle"):
        fill(tmp_path / "home", "three", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


@pytest.mark.parametrize("error", [RuntimeError("bad"), KeyboardInterrupt()])
def test_an_error_leaves_nothing_new(tmp_path: Path, error: BaseException) -> None:
    fill(tmp_path / "out", "one")
    with pytest.raises(type(error)), new_bundle(tmp_path / "out", overwrite=True) as folder:
        (folder / "manifest.json").write_text("two")
        raise error
    assert (tmp_path / "out" / "manifest.json").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(os, where, full)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path / "out", "one")
    assert not list(tmp_path.iterdir())


def test_an_earlier_bundle_comes_back_when_the_new_one_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "one")
    rename, calls = os.rename, []

    def fail_second(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "out", "two", overwrite=True)
    assert (tmp_path / "out" / "manifest.json").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_process_leaves_no_bundle_and_its_rest_is_cleared(tmp_path: Path) -> None:
    kill(tmp_path / "out", "writing")
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1
    fill(tmp_path / "out", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_bundle_moved_aside_by_a_killed_process_is_put_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    kill(tmp_path / "out", "between")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError):
        fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "manifest.json").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_siblings_of_live_processes_and_of_other_machines_stay(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "out") as mine:
        (tmp_path / ".out.tmp-elsewhere@999999-aaaaaaaa").mkdir()
        with pytest.raises(RuntimeError), new_bundle(tmp_path / "out"):
            raise RuntimeError("the second stops")
        assert mine.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.tmp-elsewhere@999999-aaaaaaaa", "out"]
