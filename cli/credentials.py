"""What an image's C2PA manifest says, who signed it, and whether it holds. Nothing goes over the network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .signing import FACTS, SETTINGS, read_certificates

if TYPE_CHECKING:
    from aim_edge.runtime.provenance import Marks

INSTALL = 'pip install "aim-edge[c2pa]"'
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNTRUSTED = "signingCredential.untrusted"
_WORDS = {
    "assertion.dataHash.mismatch": "the file was altered after it was signed",
    "signingCredential.expired": "the signer's certificate has expired",
}


@dataclass(frozen=True)
class Credentials:
    """What was found in an image's manifest; all of it is the file's word, unless `failures` is empty.

    Attributes:
        state: "Invalid"; "Valid": the file is as it was signed; "Trusted": and a CA that was given vouches for the
            signer; None where the library is missing.
        signer: of whom the certificate is.
        facts: by the names of `Provenance.to_fields`, and DigitalSourceType; {} where another program made it.
        failures: why it is not valid, or whether it was not checked.
    """

    state: str | None
    signer: str
    facts: dict[str, str]
    failures: tuple[str, ...]

    def problems(self, marks: Marks) -> list[str]:
        """Every reason not to believe it, or where the marks say otherwise."""
        bad = [f"C2PA: {failure}" for failure in self.failures]
        if not self.facts:
            return bad if bad else ["C2PA: the manifest holds no facts of aim-edge"]
        for name, side in (("text", marks.fields()), ("XMP", marks.xmp)):
            source = name == "XMP"  # text has none
            said = {key: fact for key, fact in self.facts.items() if source or key != "DigitalSourceType"}
            apart = sorted(key for key in {*said, *side} if said.get(key) != side.get(key))
            bad += [f"{name} and C2PA disagree: {', '.join(apart)}"] if side and apart else []
        return bad

    def summary(self) -> str:
        """Who signed and the state, for people."""
        if self.state is None:
            return "signed, not checked"
        hint = " (who signed was not checked; --trust-anchors does)" if self.state == "Valid" else ""
        return f"signed by {self.signer}; validation state {self.state}{hint}"


def read_anchors(path: Path) -> str:
    """The CA certificates of a PEM file that are trusted. Raises OSError, ValueError, ModuleNotFoundError."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(entry.public_bytes(Encoding.PEM).decode() for entry in read_certificates("--trust-anchors", path))


def read_credentials(path: Path, anchors: str | None = None) -> Credentials | None:
    """Reads and checks a PNG file's manifest; None where there is none.

    Args:
        path: an image file.
        anchors: PEM of CA certificates; given, a signer whom none of them vouches for is a failure.

    Raises:
        OSError: the file cannot be read.
    """
    if not has_manifest(path):
        return None
    try:
        import c2pa
    except ModuleNotFoundError as error:
        if error.name != "c2pa":
            raise
        return Credentials(None, "", {}, (f"signed, but NOT checked: this needs c2pa-python; {INSTALL}",))
    settings = SETTINGS | ({} if anchors is None else {"trust": {"trust_anchors": anchors}})
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            path.open("rb") as file,
            c2pa.Reader("image/png", file, context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        return Credentials("Invalid", "?", {}, (f"the manifest can't be read: {error}",))
    return _from_store(store, anchors is not None)


def has_manifest(path: Path) -> bool:
    """Whether a file is a PNG with a chunk for C2PA. Raises OSError."""
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            return False
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            if head[4:] == b"caBX":
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _from_store(store: dict[str, Any], trusting: bool) -> Credentials:
    """Of the library's JSON. What another program wrote may have any form."""
    state = str(store.get("validation_state"))
    codes = {str(entry.get("code")): str(entry.get("explanation")) for entry in store.get("validation_status") or ()}
    untrusted = codes.pop(_UNTRUSTED, None)
    failures = [f"{_WORDS.get(code, words)} ({code})" for code, words in codes.items()]
    if trusting and (untrusted is not None or state == "Valid"):
        failures.append(f"no CA of --trust-anchors vouches for the signer ({_UNTRUSTED})")
    if state not in ("Valid", "Trusted") and not failures:
        failures.append(f"validation state {state}")
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = manifest.get("signature_info") or {}
    signer = f"{signature.get('common_name', '?')} ({signature.get('issuer', '?')}), {signature.get('alg', '?')}"
    return Credentials(state, signer, _facts(manifest.get("assertions") or []), tuple(failures))


def _facts(assertions: list[dict[str, Any]]) -> dict[str, str]:
    facts: dict[str, str] = {}
    source = {}
    for assertion in assertions:
        label, data = str(assertion.get("label")), assertion.get("data")
        if not isinstance(data, dict):
            continue
        if label == FACTS:
            facts = {str(name): str(value) for name, value in data.items()}
        elif label in ("c2pa.actions", "c2pa.actions.v2"):
            for action in data.get("actions") or ():
                if action.get("action") == "c2pa.created" and "digitalSourceType" in action:
                    source = {"DigitalSourceType": str(action["digitalSourceType"])}
    return facts | source if facts else {}
