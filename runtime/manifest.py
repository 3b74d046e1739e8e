"""manifest.json: what a bundle is, as frozen dataclasses that refuse what they do not know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from .contract import DTYPES, GRAPHS, LOWERINGS, Contract, check_keys
from .errors import BundleError
from .sampler import SamplingConfig

SCHEMA_VERSION = 1
FORMAT = "aim-edge-bundle"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (64 lower-case hex digits) of one file."""

    bytes: int
    sha256: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileRecord:
        check_keys(cls, values)
        if type(values["bytes"]) is not int or values["bytes"] < 0:
            raise ValueError(f"bytes is {values['bytes']!r}; expected an integer >= 0")
        if not re.fullmatch("[0-9a-f]{64}", str(values["sha256"])):
            raise ValueError(f"sha256 is {values['sha256']!r}; expected 64 lower-case hex digits")
        return cls(**values)


@dataclass(frozen=True)
class CheckpointRecord:
    """Where the weights came from (a folder's name or a hub id) and the SHA-256 of the weight file."""

    source: str
    sha256: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CheckpointRecord:
        check_keys(cls, values)
        return cls(**values)


@dataclass(frozen=True)
class EngineFile:
    """One graph's engine: its file (relative to the bundle), size and digest, and the digest of the ONNX graph."""

    file: str
    bytes: int
    sha256: str
    source_sha256: str

    @property
    def record(self) -> FileRecord:
        """Size and digest, as other files have them."""
        return FileRecord(self.bytes, self.sha256)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineFile:
        check_keys(cls, values)
        for digest in ("sha256", "source_sha256"):
            FileRecord.from_dict({"bytes": values["bytes"], "sha256": values[digest]})
        return cls(**{**values, "file": str(values["file"])})


@dataclass(frozen=True)
class EngineRecord:
    """The engines of one target.

    Attributes:
        target: its name, such as "rtx:sm86".
        library: "TensorRT-RTX".
        version: of the library that built them, in full; no other loads them.
        sms: the GPU architectures they run on, such as ("sm86",).
        precision: of the graphs; the networks are strongly typed, so that it is the engines' too.
        batch, length: smallest, best and largest number of images, and of codes of `scan`.
        graphs: the engine of each graph that was built.
    """

    target: str
    library: str
    version: str
    sms: tuple[str, ...]
    precision: str
    batch: tuple[int, int, int]
    length: tuple[int, int, int]
    graphs: dict[str, EngineFile]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineRecord:
        check_keys(cls, values)
        for name in ("batch", "length"):
            sizes = values[name]
            if len(sizes) != 3 or any(type(n) is not int or n < 1 for n in sizes) or list(sizes) != sorted(sizes):
                raise ValueError(f"{name} is {sizes!r}; expected three integers >= 1 that do not decrease")
        unknown = sorted(set(values["graphs"]) - set(GRAPHS))
        if unknown or not values["graphs"]:
            raise ValueError(f"graphs are {sorted(values['graphs'])}; expected one or more of {GRAPHS}")
        typed = {name: tuple(values[name]) for name in ("sms", "batch", "length")}
        graphs = {name: EngineFile.from_dict(file) for name, file in values["graphs"].items()}
        return cls(**{**values, **typed, "graphs": graphs})


@dataclass(frozen=True)
class Manifest:
    """Everything that is known of a bundle without reading its graphs.

    Attributes:
        aim_edge_version: of the exporter.
        contract: the graphs and states.
        model_config: the published config that the model was built from.
        class_names: one a class, or None.
        sampling_defaults: what `Generator.generate` uses where nothing is given.
        precision: "float32" or "float16", of the weights.
        state_dtype: "float32" or "float16".
        lowering: of `contract.LOWERINGS`.
        tool_versions: what exported it, by package.
        checkpoint: the source of the weights.
        files: every file but the manifest and the engines, by its path relative to the bundle ("/" between parts).
        parity: what `validate` found, or None where it has not run.
        engines: what was built for a target, by target.
    """

    aim_edge_version: str
    contract: Contract
    model_config: dict[str, Any]
    class_names: tuple[str, ...] | None
    sampling_defaults: SamplingConfig
    precision: str
    state_dtype: str
    lowering: str
    tool_versions: dict[str, str]
    checkpoint: CheckpointRecord
    files: dict[str, FileRecord] = field(default_factory=dict)
    parity: dict[str, Any] | None = None
    engines: dict[str, EngineRecord] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    format: str = FORMAT

    def __post_init__(self) -> None:
        bad = []
        for name, allowed in (("precision", DTYPES), ("state_dtype", DTYPES), ("lowering", LOWERINGS)):
            if getattr(self, name) not in allowed:
                bad.append(f"{name} is {getattr(self, name)!r} (allowed: {allowed})")
        if set(self.contract.graphs) != set(GRAPHS):
            bad.append(f"the contract's graphs are {sorted(self.contract.graphs)} (expected: {sorted(GRAPHS)})")
        classes = self.contract.dims.num_classes
        if self.class_names is not None and len(self.class_names) != classes:
            bad.append(f"class_names has {len(self.class_names)} entries (expected: {classes}, or null)")
        tokens, cells = self.contract.dims.num_tokens, self.contract.dims.grid_height * self.contract.dims.grid_width
        if tokens != cells:
            bad.append(f"num_tokens is {tokens} (expected: grid_height * grid_width = {cells})")
        bad += [f"file name {name!r} leaves the bundle" for name in self.files if not _is_inside(name)]
        bad += [f"graph file {name!r} leaves the bundle" for name in self.graph_files() if not _is_inside(name)]
        bad += [f"engine file {name!r} leaves the bundle" for name in self.engine_files() if not _is_inside(name)]
        for target, engines in self.engines.items():
            if engines.target != target:
                bad.append(f"the engines of {target} are recorded as those of {engines.target}")
        if bad:
            raise BundleError(f"{MANIFEST}: " + "; ".join(bad))

    def graph_files(self) -> list[str]:
        """The ONNX file of each graph, relative to the bundle."""
        return [graph.file for graph in self.contract.graphs.values()]

    def engine_files(self) -> dict[str, FileRecord]:
        """Every engine file, by its path relative to the bundle."""
        return {file.file: file.record for engines in self.engines.values() for file in engines.graphs.values()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Reads `to_dict`'s form.

        Raises:
            BundleError: another format, a newer schema, unknown or missing keys (all named), a bad value.
        """
        if values.get("format") != FORMAT:
            raise BundleError(f"{MANIFEST}: format is {values.get('format')!r}; expected {FORMAT!r}")
        version = values.get("schema_version")
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            raise BundleError(
                f"{MANIFEST}: schema version {version!r} found, 1..{SCHEMA_VERSION} supported; "
                "upgrade aim-edge, or export the bundle again with this version"
            )
        try:
            check_keys(cls, values)
            names = values["class_names"]
            typed = {
                "contract": Contract.from_dict(values["contract"]),
                "class_names": None if names is None else tuple(map(str, names)),
                "sampling_defaults": SamplingConfig.from_dict(values["sampling_defaults"]),
                "checkpoint": CheckpointRecord.from_dict(values["checkpoint"]),
                "files": {name: FileRecord.from_dict(record) for name, record in values["files"].items()},
                "engines": {target: EngineRecord.from_dict(record) for target, record in values["engines"].items()},
            }
            return cls(**{**values, **typed})
        except BundleError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise BundleError(f"{MANIFEST}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form (tuples become lists when dumped)."""
        return asdict(self)


def _is_inside(name: str) -> bool:
    """Whether a relative name stays below the bundle on any system."""
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and ".." not in path.parts and name != "."
    return plain and not set(name) & set("\\:\0")
