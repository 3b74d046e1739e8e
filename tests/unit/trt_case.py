"""The toy bundle with engines of the fake TensorRT, on the fake driver."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_kernels import make_library
from fake_tensorrt import make_module, write_engine
from toy_bundle import make_bundle

from aim_edge.runtime import Bundle, Generator
from aim_edge.runtime.backends import tensorrt
from aim_edge.runtime.bundle import read_manifest, sha256_of, write_manifest
from aim_edge.runtime.manifest import EngineFile, EngineRecord, PluginRecord

GRAPHS = ("condition", "step", "scan", "vq_decode", "vq_encode")
BATCHES = ((1, 1, 2), (2, 4, 6))
LENGTH = (2, 4, 5)
FOLDER = "engines/trt-8.6/sm90"


def make_engines(
    root: Path,
    version: str = "8.6.1",
    operators: dict[str, dict[str, int]] | None = None,
    **misbehaviour: dict[str, Any],
) -> Path:
    """Adds engines and a plugin library to a bundle. `misbehaviour`: graph -> what `write_engine` takes.

    `operators`: graph -> how many plugins of which operator are recorded.
    """
    manifest = read_manifest(root)
    recorded = operators or {graph: {"SelectiveScan": 2} for graph in ("step", "scan")}
    engines = {}
    for graph in GRAPHS:
        path = root / FOLDER / f"{graph}.engine"
        onnx = root / manifest.contract.graphs[graph].file
        write_engine(path, onnx, [list(sizes) for sizes in BATCHES], list(LENGTH), **misbehaviour.get(graph, {}))
        engines[graph] = EngineFile(
            f"{FOLDER}/{graph}.engine", path.stat().st_size, sha256_of(path), manifest.files[onnx.name].sha256,
            plugins=recorded.get(graph, {}),
        )  # fmt: skip
    library = root / FOLDER / "libaim_edge_tensorrt.so"
    library.write_text(json.dumps(sorted({name for graph in recorded.values() for name in graph})))
    plugin = PluginRecord(f"{FOLDER}/{library.name}", library.stat().st_size, sha256_of(library), 200)
    record = EngineRecord(
        "trt:sm90", "TensorRT", version, ("sm90",), "float32", BATCHES, LENGTH, engines, plugin=plugin
    )
    write_manifest(root, replace(manifest, engines={record.target: record}))
    return root


@dataclass
class Case:
    """A bundle, the fakes under it, and what was opened on them."""

    root: Path
    cuda: FakeCuda
    module: Any
    opened: list[Any] = field(default_factory=list)

    def backend(self, **options: Any) -> tensorrt.TrtBackend:
        made = tensorrt.open_backend("tensorrt", Bundle.open(self.root), tensorrt.TrtOptions(**options))
        self.opened.append(made)
        return made

    def generator(self, **options: Any) -> Generator:
        made = Generator.open(self.root, backend="tensorrt", **options)
        self.opened.append(made)
        return made

    def change(self, **values: Any) -> None:
        """Replaces fields of the recorded engines; a new `target` is the record's key too."""
        manifest = read_manifest(self.root)
        (record,) = manifest.engines.values()
        changed = replace(record, **values)
        write_manifest(self.root, replace(manifest, engines={changed.target: changed}))


Make = Callable[..., Case]


@pytest.fixture(name="make")
def make_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a case.

    `cuda`, `version`, `aliases` for the fakes, `layout` for the toy or another `bundle`, the rest for `make_engines`.
    """
    cases: list[Case] = []

    def build(
        *, cuda: FakeCuda | None = None, version: str = "8.6.1", aliases: bool = False,
        layout: tuple[str, bool] = ("float32", False), kernels: int = 200, bundle: Path | None = None,
        **misbehaviour: Any,
    ) -> Case:  # fmt: skip
        driver = cuda or FakeCuda()
        module, library = make_module(driver, version, aliases=aliases), make_library(driver, kernels)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr("aim_edge.runtime.cuda.load_library", lambda: driver.library)
        monkeypatch.setattr(tensorrt, "load_library", lambda path: library)
        monkeypatch.setattr(tensorrt, "_loaded", {})
        root = make_bundle(tmp_path / f"bundle{len(cases)}", *layout) if bundle is None else bundle
        make_engines(root, version, **misbehaviour)
        cases.append(Case(root, driver, module))
        return cases[-1]

    yield build
    for case in cases:
        for opened in case.opened:
            opened.close()
