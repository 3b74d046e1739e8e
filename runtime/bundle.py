"""A bundle on disk: opened verified, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .engines import engine_problem
from .errors import BundleError
from .manifest import MANIFEST, FileRecord, Manifest

# What a graph may be loaded from: none may lie in a bundle without a digest in its manifest.
_GUARDED = (".onnx", ".data")


class Bundle:
    """A verified bundle. Build it with `Bundle.open`.

    Attributes:
        path: the folder.
        manifest: what it says.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True, engines: bool = True) -> Bundle:
        """Reads the manifest and checks every file that it names.

        Args:
            path: the bundle's folder.
            verify: compare SHA-256 too; False checks presence and sizes only.
            engines: check the engines that are recorded too; False is for building them anew.

        Raises:
            BundleError: no bundle, another schema, files missing, truncated, altered or not listed, an engine
                of another library version, GPU or graph than is recorded (each is named).
        """
        root = Path(path)
        manifest = read_manifest(root)
        bad = [problem for name, record in manifest.files.items() if (problem := _check(root, name, record, verify))]
        bad += [
            f"{name}: is a graph, but the manifest's files do not list it"
            for name in manifest.graph_files()
            if name not in manifest.files
        ]
        unlisted = {name for name in _files_in(root) if name.endswith(_GUARDED)} - set(manifest.files)
        bad += [f"{name}: lies in the bundle, but the manifest does not list it" for name in sorted(unlisted)]
        if engines:
            bad += _check_engines(root, manifest, verify)
        if bad:
            lines = "".join(f"\n  {problem}" for problem in bad)
            raise BundleError(f"{root}: the bundle is not what was made; copy, export or build it again{lines}")
        return cls(root, manifest)

    def graph_path(self, graph: str) -> Path:
        """The ONNX file of a graph of the contract."""
        return self.path / self.manifest.contract.graphs[graph].file


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a folder, without looking at its other files.

    Raises:
        BundleError: there is none, or it cannot be used.
    """
    root = Path(folder)
    try:
        text = (root / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{root}: no readable {MANIFEST} ({error}); expected a folder that export wrote") from error
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise BundleError(f"{root / MANIFEST}: not JSON ({error}); copy or export the bundle again") from error
    if not isinstance(values, dict):
        raise BundleError(f"{root / MANIFEST}: holds a JSON {type(values).__name__}; expected an object")
    try:
        return Manifest.from_dict(values)
    except BundleError as error:
        raise BundleError(f"{root}: {error}") from error


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Writes manifest.json, replacing an earlier one whole.

    The manifest is written as given; `record_files` makes its `files`.

    Raises:
        BundleError: a file of it is missing from the folder or has another size.
    """
    root = Path(folder)
    listed = manifest.files | manifest.engine_files()
    bad = [problem for name, record in listed.items() if (problem := _check(root, name, record, False))]
    if bad:
        raise BundleError(f"{root}: the manifest does not fit the folder: " + "; ".join(bad))
    partial = root / f".{MANIFEST}.{os.getpid()}.tmp"
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, root / MANIFEST)
    finally:
        partial.unlink(missing_ok=True)


def record_files(folder: str | os.PathLike[str]) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file below a folder but its manifest, by relative name."""
    root = Path(folder)
    names = [name for name in _files_in(root) if name != MANIFEST]
    return {name: FileRecord((root / name).stat().st_size, sha256_of(root / name)) for name in names}


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as 64 hex digits, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def new_bundle(out: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `out` to fill; on success it becomes `out`, on any error it is removed.

    Everything is flushed to disk before the rename. Siblings that killed processes of this machine left
    are cleared first. With `overwrite` an earlier bundle is moved aside by a rename and removed after the
    new one is in place; should this process be killed between the two renames, the next call puts it back.

    Args:
        out: the bundle's folder.
        overwrite: whether an earlier bundle (or an empty folder) at `out` may be replaced.

    Raises:
        FileExistsError: `out` exists and `overwrite` is False, or `out` is no bundle.
        OSError: writing failed; nothing is left at `out` that was not there before.
    """
    target = Path(os.path.abspath(out))
    with staging(target) as folder:
        _check_free(target, overwrite)
        yield folder
        _check_free(target, overwrite)
        put_in_place(folder, target)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yields a new temporary sibling of `target`; it is removed at the end, and before it what killed processes left.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(target)
    folder = target.with_name(_sibling_prefix(target) + f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(folder: Path, target: Path) -> None:
    """Flushes a folder to disk and renames it to `target`; what is there is moved aside, then removed.

    Raises:
        OSError: it failed; what was at `target` is there still.
    """
    _sync_tree(folder)
    aside = folder.with_name(folder.name + "-old")
    replaces = target.exists()
    if replaces:
        os.rename(target, aside)
    try:
        os.rename(folder, target)
    except OSError:
        if replaces:
            os.rename(aside, target)
        raise
    _sync(target.parent)
    if replaces:
        shutil.rmtree(aside, ignore_errors=True)


def _files_in(root: Path) -> list[str]:
    """Names of all files below `root`, relative and sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def _check(root: Path, name: str, record: FileRecord, verify: bool) -> str | None:
    """What is wrong with one file of a bundle, or None."""
    path = root / name
    if not path.is_file():
        return f"{name}: missing; expected {record.bytes} bytes"
    size = path.stat().st_size
    if size != record.bytes:
        kind = "truncated" if size < record.bytes else "altered"
        return f"{name}: {kind}; {size} bytes found, {record.bytes} expected"
    if verify and (digest := sha256_of(path)) != record.sha256:
        return f"{name}: altered; SHA-256 {digest} found, {record.sha256} expected"
    return None


def _check_engines(root: Path, manifest: Manifest, verify: bool) -> list[str]:
    """What is wrong with the engines and plugin libraries that a manifest records."""
    bad = []
    for target, engines in manifest.engines.items():
        for graph, file in engines.graphs.items():
            source = manifest.files.get(manifest.contract.graphs[graph].file)
            if source is not None and source.sha256 != file.source_sha256:
                bad.append(f"{file.file}: built for {target} from a graph with SHA-256 {file.source_sha256}; "
                           f"{source.sha256} expected")  # fmt: skip
            elif problem := _check(root, file.file, file.record, verify) or engine_problem(root, file.file, engines):
                bad.append(problem)
        plugin = engines.plugin
        if plugin is not None and (problem := _check(root, plugin.file, plugin.record, verify)):
            bad.append(problem)
    return bad


def _check_free(target: Path, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists; choose another folder, or ask to overwrite it")
    if not (target / MANIFEST).is_file() and (not target.is_dir() or target.is_symlink() or any(target.iterdir())):
        raise FileExistsError(f"{target} is no bundle (it has no {MANIFEST}), so it is not overwritten")


def _sibling_prefix(target: Path) -> str:
    """Siblings carry the machine's name: on a shared disk, another machine's process ids mean nothing here."""
    return f".{target.name}.tmp-{socket.gethostname()}@"


def _clear_stale(target: Path) -> None:
    """Removes what killed processes left beside `target`, and puts back a bundle that one had moved aside."""
    prefix = _sibling_prefix(target)
    for sibling in target.parent.iterdir():
        if not sibling.name.startswith(prefix) or _is_alive(sibling.name.removeprefix(prefix).split("-")[0]):
            continue
        if sibling.name.endswith("-old") and not target.exists():
            os.rename(sibling, target)
        else:
            shutil.rmtree(sibling, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    """Whether a process runs; True where that cannot be told, so that nothing of a live one is removed."""
    if os.name != "posix" or not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            _sync(Path(folder) / name)
        _sync(Path(folder))


def _sync(path: Path) -> None:
    """Flushes a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
