"""The rules that a bundle is held to, read from a TOML file; what is not known is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from aim_edge.runtime.contract import GRAPHS

from .engines import parse_targets
from .parity_report import GATES, Gates


@dataclass(frozen=True)
class ParityRules:
    """How parity is measured, and its limits; one that is None is that of `GATES` for the bundle's precision."""

    backend: str = "ort-cpu"
    images: int = 2
    steps: int | None = None
    seed: int = 0
    cosine: float | None = None
    norm_ratio: float | None = None
    max_abs: float | None = None
    top1: float | None = None
    image_max_abs: float | None = None

    def gates(self, precision: str) -> Gates:
        """The limits for a bundle of this precision."""
        given = {f.name: getattr(self, f.name) for f in fields(Gates)}
        return replace(GATES[precision], **{name: limit for name, limit in given.items() if limit is not None})


@dataclass(frozen=True)
class EngineRules:
    """Engines that must be there: for each target, of each graph, for up to `batch` images."""

    targets: tuple[str, ...]
    graphs: tuple[str, ...] = ("condition", "step", "vq_decode")
    batch: int = 1


@dataclass(frozen=True)
class SizeRules:
    """Largest sizes in MB (10^6 bytes): of all graphs with their weights, of each target's engines, of everything."""

    graphs: float | None = None
    engines: float | None = None
    bundle: float | None = None


@dataclass(frozen=True)
class Rules:
    """What a bundle must keep. A part that is None is not checked; that every file is whole always is."""

    parity: ParityRules | None = None
    engines: EngineRules | None = None
    max_megabytes: SizeRules | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rules:
        """Raises ValueError naming every unknown key and every value of the wrong kind, and where nothing is ruled."""
        bad = [f"unknown key {key!r} (known: {', '.join(_KINDS)})" for key in values if key not in _KINDS]
        parts: dict[str, Any] = {}
        for name, kinds in _KINDS.items():
            part = values.get(name)
            if part is None:
                continue
            wrong = _wrong_keys(name, part, kinds)
            if not wrong:
                typed = {key: tuple(value) if isinstance(value, list) else value for key, value in part.items()}
                parts[name] = _PARTS[name](**typed)
            bad += wrong
        if not bad and not parts:
            bad.append(f"it rules nothing; expected one or more of [{'], ['.join(_KINDS)}]")
        if bad:
            raise ValueError("; ".join(bad))
        return cls(**parts)

    @classmethod
    def read(cls, path: str | Path) -> Rules:
        """Reads a TOML file.

        Raises:
            ValueError: it is no TOML, or `from_dict` refuses it; the message names the file.
            OSError: it cannot be read.
        """
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are such too
            raise ValueError(f"{path}: {error}") from error


_PARTS: dict[str, Any] = {"parity": ParityRules, "engines": EngineRules, "max_megabytes": SizeRules}
_NUMBER, _COUNT, _TEXT, _TEXTS = "a number >= 0", "an integer >= 0", "a text", "a list of texts"
_LIMITS = {f.name: _NUMBER for f in fields(Gates)}
_KINDS: dict[str, dict[str, str]] = {
    "parity": {"backend": _TEXT, "images": _COUNT, "steps": _COUNT, "seed": _COUNT} | _LIMITS,
    "engines": {"targets": _TEXTS, "graphs": _TEXTS, "batch": _COUNT},
    "max_megabytes": {f.name: _NUMBER for f in fields(SizeRules)},
}


def _wrong_keys(name: str, part: Any, kinds: Mapping[str, str]) -> list[str]:
    """What is wrong with one table of the rules."""
    if not isinstance(part, dict):
        return [f"{name} is {part!r}; expected a table [{name}]"]
    bad = [f"unknown key {key!r} in [{name}] (known: {', '.join(kinds)})" for key in part if key not in kinds]
    bad += [
        f"{key} in [{name}] is {part[key]!r}; expected {kind}"
        for key, kind in kinds.items()
        if key in part and not _is(part[key], kind)
    ]
    if bad or name != "engines":
        return bad
    if not part.get("targets"):
        return ["[engines] has no targets; name those that must be there"]
    try:
        parse_targets(part["targets"])
    except ValueError as error:
        bad.append(f"targets in [engines]: {error}")
    unknown = [graph for graph in part.get("graphs", ()) if graph not in GRAPHS]
    return bad + ([f"graphs in [engines] are {unknown}; known: {', '.join(GRAPHS)}"] if unknown else [])


def _is(value: Any, kind: str) -> bool:
    if kind == _TEXTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind == _TEXT:
        return isinstance(value, str)
    return type(value) in ((int,) if kind == _COUNT else (int, float)) and value >= 0
