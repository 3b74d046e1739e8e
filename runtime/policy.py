"""policy.json: what a bundle may be used for, as its exporter decided."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contract import check_known
from .errors import BundleError

if TYPE_CHECKING:
    from .bundle import Bundle

POLICY = "policy.json"


@dataclass(frozen=True)
class UsagePolicy:
    """A bundle's usage policy. Every bad field is reported at once, as a ValueError.

    Attributes:
        denied_classes: ids or names (in any case) of classes that are not drawn.
        notice: a text that every image carries; "": none.
        licence: of the model, which every image names; "": not known.
        require_provenance: whether images may be written only with their marks.
    """

    denied_classes: tuple[int | str, ...] = ()
    notice: str = ""
    licence: str = ""
    require_provenance: bool = False

    def __post_init__(self) -> None:
        bad = []
        denied = self.denied_classes
        if not isinstance(denied, (list, tuple)) or any(type(entry) not in (int, str) for entry in denied):
            bad.append(f"denied_classes is {denied!r} (allowed: a list of class ids and names)")
        else:
            object.__setattr__(self, "denied_classes", tuple(denied))
        for name, kind, allowed in (
            ("notice", str, "a text"), ("licence", str, "a text"), ("require_provenance", bool, "true, false"),
        ):  # fmt: skip
            if type(getattr(self, name)) is not kind:
                bad.append(f"{name} is {getattr(self, name)!r} (allowed: {allowed})")
        if bad:
            raise ValueError("policy: " + "; ".join(bad))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UsagePolicy:
        """Reads `to_dict`'s form; fields left out keep their default. Raises ValueError on unknown keys."""
        check_known(cls, values, "policy")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> UsagePolicy:
        """Reads a file's content. Raises ValueError: no JSON object, a key given twice, unknown keys, bad values."""
        try:
            values = json.loads(text, object_pairs_hook=_no_key_twice)
        except json.JSONDecodeError as error:
            raise ValueError(f"policy: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"policy: a JSON {type(values).__name__}; expected an object")
        return cls.from_dict(values)

    @classmethod
    def load(cls, given: str | os.PathLike[str] | Mapping[str, Any]) -> UsagePolicy:
        """From a JSON file or a mapping. Raises ValueError on what is in it, OSError where it can't be read."""
        if isinstance(given, Mapping):
            return cls.from_dict(given)
        try:
            return cls.from_json(Path(given).read_bytes())
        except ValueError as error:
            raise ValueError(f"{given}: {error}") from error

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> UsagePolicy | None:
        """A bundle's policy, its digest checked however the bundle was opened; None where it has none.

        Raises:
            BundleError: it is missing, altered, not listed in the manifest, or cannot be used.
        """
        path, record = bundle.path / POLICY, bundle.manifest.files.get(POLICY)
        if record is None:
            if path.exists():
                raise BundleError(f"{path}: lies in the bundle, but the manifest does not list it")
            return None
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error}); copy or export the bundle again") from error
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise BundleError(f"{path}: altered since the export; copy or export the bundle again")
        try:
            policy = cls.from_json(content)
            policy.denied_ids(bundle.manifest.contract.dims.num_classes, bundle.manifest.class_names)
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from error
        return policy

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"denied_classes": list(self.denied_classes)}

    def to_json(self) -> str:
        """What policy.json holds."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def denied_ids(self, num_classes: int, class_names: Iterable[str] | None) -> frozenset[int]:
        """The denied classes' ids; a name that several classes share denies them all.

        Raises:
            ValueError: an entry is no class of the model (all of them are named).
        """
        names = [name.casefold() for name in class_names or ()]
        ids: set[int] = set()
        unknown = []
        for entry in self.denied_classes:
            if isinstance(entry, str):
                found = [i for i, name in enumerate(names) if name == entry.casefold()]
            else:
                found = [entry] if 0 <= entry < num_classes else []
            ids.update(found)
            unknown += [] if found else [entry]
        if unknown:
            allowed = f"0..{num_classes - 1} or a name of the model's"
            raise ValueError(f"policy: denied_classes {unknown} are no classes; allowed: {allowed}")
        return frozenset(ids)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The later of two would win unseen."""
    twice = sorted({key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])})
    if twice:
        raise ValueError(f"policy: keys given twice: {twice}")
    return dict(pairs)
