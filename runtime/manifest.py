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
ENGINE_FLAGS = ("version-compatible", "hardware-compatible", "weight-stripped")

Sizes = tuple[int, int, int]


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
class QuantisationRecord:
    """How in_proj, out_proj and the head became integers.

    Attributes:
        weights: "int8" or "int4".
        bits: of a code.
        group_size: inputs that share a scale; 0: all of an output feature's.
        method: "round", or "gptq" (fitted to the layers' inputs).
        images, seed: of the samples that it was fitted to, drawn by the model itself; 0 images: none.
        calibration_sha256: of those samples, classes and codes as little-endian int32; "" where there are none.
    """

    weights: str
    bits: int
    group_size: int
    method: str
    images: int
    seed: int
    calibration_sha256: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantisationRecord:
        check_keys(cls, values)
        kind = (values["weights"], values["bits"], values["group_size"])
        if kind not in (("int8", 8, 0), ("int4", 4, 128)):
            raise ValueError(f"quantisation is {kind}; expected ('int8', 8, 0) or ('int4', 4, 128)")
        return cls(**values)


@dataclass(frozen=True)
class PluginRecord:
    """The plugin library that lies beside engines.

    Attributes:
        file: relative to the bundle.
        bytes, sha256: its size and digest.
        version: of the library: its `aim_version()`, or where it has none the version of its operators.
    """

    file: str
    bytes: int
    sha256: str
    version: int

    @property
    def record(self) -> FileRecord:
        """Size and digest, as other files have them."""
        return FileRecord(self.bytes, self.sha256)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PluginRecord:
        check_keys(cls, values)
        bad = _bad_file(values) + _bad_digests(values, "sha256")
        if type(values["version"]) is not int or values["version"] < 1:
            bad.append(f"version is {values['version']!r}; expected an integer >= 1")
        if bad:
            raise ValueError("; ".join(bad))
        return cls(**values)


@dataclass(frozen=True)
class EngineFile:
    """One graph's engine.

    Attributes:
        file: relative to the bundle.
        bytes, sha256: its size and digest.
        source_sha256: digest of the ONNX graph that it was built from.
        layers: how many of its layers compute in which type, as built: "float32", "float16", "int32", "plugin";
            "fused" where a layer is several whose types TensorRT does not tell. Empty: not known.
        plugins: its plugin layers by operator.
        device_bytes: device memory that an execution context takes; 0: not known.
    """

    file: str
    bytes: int
    sha256: str
    source_sha256: str
    layers: dict[str, int] = field(default_factory=dict)
    plugins: dict[str, int] = field(default_factory=dict)
    device_bytes: int = 0

    @property
    def record(self) -> FileRecord:
        """Size and digest, as other files have them."""
        return FileRecord(self.bytes, self.sha256)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineFile:
        check_keys(cls, values)
        bad = _bad_file(values) + _bad_digests(values, "sha256", "source_sha256")
        for name in ("layers", "plugins"):
            counts = values[name]
            if not isinstance(counts, Mapping) or any(type(n) is not int or n < 1 for n in counts.values()):
                bad.append(f"{name} is {counts!r}; expected counts >= 1 by name")
        if type(values["device_bytes"]) is not int or values["device_bytes"] < 0:
            bad.append(f"device_bytes is {values['device_bytes']!r}; expected an integer >= 0")
        if bad:
            raise ValueError("; ".join(bad))
        return cls(**values)


@dataclass(frozen=True)
class EngineRecord:
    """The engines of one target.

    Attributes:
        target: its name, such as "trt:sm90" or "rtx:sm86".
        library: "TensorRT" or "TensorRT-RTX".
        version: of the library that built them, in full.
        sms: the GPU architectures they run on, such as ("sm86",).
        precision: of the graphs, "float32" or "float16".
        batch: smallest, best and largest number of images of each optimisation profile, in the profiles' order.
        length: smallest, best and largest number of codes of `scan`.
        graphs: the engine of each graph that was built.
        gpu, driver: the GPU that they were built on and its driver's version; "" where none was needed.
        flags: of `ENGINE_FLAGS`, what the engines were asked to be.
        level: how long the builder was to look for fast layers, 0 to 5; -1: its own choice.
        plugin: the plugin library beside the engines, or None.
    """

    target: str
    library: str
    version: str
    sms: tuple[str, ...]
    precision: str
    batch: tuple[Sizes, ...]
    length: Sizes
    graphs: dict[str, EngineFile]
    gpu: str = ""
    driver: str = ""
    flags: tuple[str, ...] = ()
    level: int = -1
    plugin: PluginRecord | None = None

    def files(self) -> dict[str, FileRecord]:
        """The engines and the plugin library, by path relative to the bundle."""
        listed = {file.file: file.record for file in self.graphs.values()}
        return listed if self.plugin is None else listed | {self.plugin.file: self.plugin.record}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineRecord:
        """Raises ValueError naming every field that is not what it should be."""
        check_keys(cls, values)
        bad = [
            f"{name} is {values[name]!r}; expected a text"
            for name in ("target", "library", "version", "gpu", "driver")
            if not isinstance(values[name], str)
        ]
        bad += [
            f"{name} is {values[name]!r}; expected a list of texts"
            for name in ("sms", "flags")
            if not isinstance(values[name], (list, tuple)) or not all(isinstance(item, str) for item in values[name])
        ]
        if not bad and (unknown := sorted(set(values["flags"]) - set(ENGINE_FLAGS))):
            bad.append(f"flags are {unknown}; allowed: {', '.join(ENGINE_FLAGS)}")
        if values["precision"] not in DTYPES:
            bad.append(f"precision is {values['precision']!r}; allowed: {', '.join(DTYPES)}")
        batch = values["batch"]
        if not isinstance(batch, (list, tuple)) or not batch or not all(map(_are_sizes, batch)):
            bad.append(f"batch is {batch!r}; expected a list of one or more [min, opt, max], integers >= 1 that do "
                       "not decrease")  # fmt: skip
        if not _are_sizes(values["length"]):
            bad.append(f"length is {values['length']!r}; expected three integers >= 1 that do not decrease")
        if type(values["level"]) is not int or not -1 <= values["level"] <= 5:
            bad.append(f"level is {values['level']!r}; expected an integer from -1 to 5")
        graphs, plugin = _read_engine_files(values["graphs"], bad), None
        if values["plugin"] is not None:
            plugin = _read(PluginRecord, "plugin", values["plugin"], bad)
        if bad:
            raise ValueError(f"engines of {values['target']!r}: " + "; ".join(bad))
        typed = {
            "sms": tuple(values["sms"]), "flags": tuple(values["flags"]), "length": tuple(values["length"]),
            "batch": tuple(map(tuple, batch)), "graphs": graphs, "plugin": plugin,
        }  # fmt: skip
        return cls(**{**values, **typed})


def _read_engine_files(values: Any, bad: list[str]) -> dict[str, EngineFile]:
    if not isinstance(values, Mapping) or not values or set(values) - set(GRAPHS):
        found = sorted(values) if isinstance(values, Mapping) else values
        bad.append(f"graphs are {found}; expected one or more of {GRAPHS}")
        return {}
    read = {graph: _read(EngineFile, graph, file, bad) for graph, file in values.items()}
    return {graph: file for graph, file in read.items() if file is not None}


def _read(cls: Any, name: str, values: Any, bad: list[str]) -> Any:
    """`cls.from_dict`, or None with what is wrong added to `bad`."""
    try:
        return cls.from_dict(values)
    except (ValueError, TypeError) as error:
        bad.append(f"{name}: {error}")
        return None


def _bad_file(values: Mapping[str, Any]) -> list[str]:
    return [] if isinstance(values["file"], str) else [f"file is {values['file']!r}; expected a text"]


def _bad_digests(values: Mapping[str, Any], *names: str) -> list[str]:
    bad: list[str] = []
    for name in names:
        try:
            FileRecord.from_dict({"bytes": values["bytes"], "sha256": values[name]})
        except ValueError as error:
            bad.append(str(error))
    return list(dict.fromkeys(bad))


def _are_sizes(sizes: Any) -> bool:
    """Whether these are a smallest, best and largest number."""
    whole = isinstance(sizes, (list, tuple)) and len(sizes) == 3 and all(type(n) is int and n >= 1 for n in sizes)
    return whole and list(sizes) == sorted(sizes)


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
        fused_convolutions: whether the image decoder's convolutions are operators of ours.
        keep_float32: layers that compute in float32 in a float16 bundle.
        lazy_states: whether a history is kept beside each ssm_state (`runtime.lazy`).
        quantisation: how the large matrices became integers; None: they are in `precision`.
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
    fused_convolutions: bool = False
    keep_float32: tuple[int, ...] = ()
    lazy_states: bool = False
    quantisation: QuantisationRecord | None = None
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

    @property
    def family(self) -> str:
        """Which model draws the codes: "aim" or "gpt" (the contract's)."""
        return self.contract.family

    def graph_files(self) -> list[str]:
        """The ONNX file of each graph, relative to the bundle."""
        return [graph.file for graph in self.contract.graphs.values()]

    def engine_files(self) -> dict[str, FileRecord]:
        """Every engine and plugin library, by its path relative to the bundle."""
        return {name: file for engines in self.engines.values() for name, file in engines.files().items()}

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
        # Bundles from before the options lack them.
        values = {
            "fused_convolutions": False, "keep_float32": (), "lazy_states": False, "quantisation": None, **values
        }  # fmt: skip
        try:
            check_keys(cls, values)
            if type(fused := values["fused_convolutions"]) is not bool:
                raise ValueError(f"fused_convolutions is {fused!r}; expected true or false")
            kept, count = values["keep_float32"], values["contract"]["dims"]["n_layer"]
            if not isinstance(kept, (list, tuple)) or any(type(i) is not int or not 0 <= i < count for i in kept):
                raise ValueError(f"keep_float32 is {kept!r}; expected a list of layers")
            if type(lazy := values["lazy_states"]) is not bool:
                raise ValueError(f"lazy_states is {lazy!r}; expected true or false")
            names, quantised = values["class_names"], values["quantisation"]
            typed = {
                "keep_float32": tuple(kept),
                "contract": Contract.from_dict(values["contract"]),
                "class_names": None if names is None else tuple(map(str, names)),
                "sampling_defaults": SamplingConfig.from_dict(values["sampling_defaults"]),
                "checkpoint": CheckpointRecord.from_dict(values["checkpoint"]),
                "quantisation": None if quantised is None else QuantisationRecord.from_dict(quantised),
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
