"""Signs images by C2PA, with a certificate of the user's: what the file says of itself, and that it is this file.

Nothing goes over the network, so no authority dates the signature: it holds as long as its certificate does.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

    from aim_edge.runtime.provenance import Marks

FACTS = "aim-edge.provenance"
SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
# Algorithm -> the key that it takes.
ALGORITHMS = {
    "es256": "EC secp256r1", "es384": "EC secp384r1", "es512": "EC secp521r1",
    "ps256": "RSA", "ps384": "RSA", "ps512": "RSA", "ed25519": "Ed25519",
}  # fmt: skip
DEFAULT_ALGORITHM = "es256"


@dataclass(frozen=True)
class Signer:
    """Signs PNG files. `open` makes it of files.

    Attributes:
        chain: PEM: the signer's certificate, then those that vouch for it.
        key: PKCS#8 PEM of the signer's private key.
        algorithm: of `ALGORITHMS`.
        name: of whom the certificate is, for people.
    """

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str
    name: str

    @classmethod
    def open(cls, certificate: Path | None, key: Path | None, algorithm: str | None = None) -> Signer | None:
        """Reads and checks what signs, and signs once on trial; None where nothing is given.

        Args:
            certificate: PEM file, the signer's certificate first.
            key: PEM file of its private key, without a passphrase.
            algorithm: of `ALGORITHMS`; None takes es256.

        Raises:
            ModuleNotFoundError: c2pa-python is not installed.
            OSError: a file cannot be read.
            ValueError: one is given without the other, is no PEM, does not fit the other, or C2PA refuses it.
        """
        if certificate is None and key is None and algorithm is None:
            return None
        if certificate is None or key is None:
            given = [("--sign-certificate", certificate), ("--sign-key", key), ("--sign-algorithm", algorithm)]
            raise ValueError(
                f"only {' and '.join(name for name, value in given if value is not None)} given; signing needs both "
                "--sign-certificate and --sign-key"
            )
        algorithm = DEFAULT_ALGORITHM if algorithm is None else algorithm
        if algorithm not in ALGORITHMS:
            raise ValueError(f"--sign-algorithm is '{algorithm}'; allowed: {', '.join(ALGORITHMS)}")
        import c2pa  # noqa: F401  (missing, it is asked for before files are)
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        chain = read_certificates("--sign-certificate", certificate)
        secret = _read_key(key)
        _check_chain(certificate, chain)
        _check_key(key, secret, certificate, chain[0], algorithm)
        signer = cls(
            b"".join(entry.public_bytes(Encoding.PEM) for entry in chain),
            secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            algorithm, chain[0].subject.rfc4514_string(),
        )  # fmt: skip
        signer._try(certificate)
        return signer

    def sign(self, path: str | os.PathLike[str]) -> None:
        """Signs a PNG file that `save_png` marked: wholly, or it stays as it was (a temporary sibling is renamed).

        Raises:
            OSError: it cannot be read or written.
            ValueError: its marks are missing, damaged or disagree; or C2PA refuses it.
        """
        from aim_edge.runtime.provenance import read_marks

        target = Path(path)
        marks = read_marks(target)
        if problems := marks.problems():
            raise ValueError(f"{target}: not signed: {'; '.join(problems)}")
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with target.open("rb") as source, partial.open("w+b") as signed:
                self._write(describe(marks), source, signed, f"{target}: not signed")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _write(self, manifest: dict[str, Any], source: IO[bytes], signed: IO[bytes], failed: str) -> None:
        """Copies a PNG with a manifest in it. Raises ValueError, which begins with `failed`."""
        import c2pa

        try:
            info = c2pa.C2paSignerInfo(self.algorithm, self.chain, self.key, None)
            with (
                c2pa.Context.from_dict(SETTINGS) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(json.dumps(manifest), context=context) as builder,
            ):
                builder.sign(signer, "image/png", source, signed)
        except c2pa.C2paError as error:
            raise ValueError(f"{failed}: C2PA refuses: {' '.join(str(error).split())}") from error

    def _try(self, certificate: Path) -> None:
        """Signs an image of one pixel: a certificate that C2PA refuses is told before images are drawn."""
        import numpy as np

        from aim_edge.runtime.images import save_png
        from aim_edge.runtime.provenance import SOURCE_TYPES

        action = _created("aim-edge", "trial", SOURCE_TYPES + "trainedAlgorithmicMedia")
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.png"
            save_png(plain, np.zeros((1, 1, 3), np.uint8))
            with plain.open("rb") as source, (Path(folder) / "signed.png").open("w+b") as signed:
                self._write({"assertions": [action]}, source, signed,
                            f"--sign-certificate {certificate}: cannot sign with it")  # fmt: skip


def describe(marks: Marks) -> dict[str, Any]:
    """The manifest of an image: what its marks say, field by field, and how it came to be."""
    found = marks.provenance()
    name, _, version = found.software.rpartition(" ")
    return {
        "claim_generator_info": [{"name": name, "version": version}],
        "title": marks.text["Title"],
        "format": "image/png",
        "assertions": [
            _created(name, version, found.source_type),
            {"label": FACTS, "kind": "Json", "data": marks.fields(), "created": True},
        ],
    }


def read_certificates(option: str, path: Path) -> list[Certificate]:
    """The certificates of a PEM file, one at least. Raises OSError, ValueError (it names the option)."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(_read(option, path))
    except ValueError as error:
        raise ValueError(f"{option} {path}: no certificates in PEM form: {error}") from None


def _created(name: str, version: str, source_type: str) -> dict[str, Any]:
    action = {
        "action": "c2pa.created", "digitalSourceType": source_type,
        "softwareAgent": {"name": name, "version": version},
    }  # fmt: skip
    return {"label": "c2pa.actions.v2", "data": {"actions": [action]}, "created": True}


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{option} {path}: cannot be read: {error.strerror or error}") from error


def _read_key(path: Path) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(_read("--sign-key", path), None)
    except TypeError:
        raise ValueError(f"--sign-key {path}: it has a passphrase; expected a PEM private key without one") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"--sign-key {path}: no private key in PEM form: {error}") from None


def _check_chain(path: Path, chain: list[Certificate]) -> None:
    """Raises ValueError unless each certificate was issued by the next, and the first by another."""
    from cryptography.exceptions import InvalidSignature

    first = chain[0]
    if first.issuer == first.subject:
        raise ValueError(f"--sign-certificate {path}: {first.subject.rfc4514_string()} issued its certificate itself; "
                         "C2PA takes one that a CA issued")  # fmt: skip
    for number, (below, above) in enumerate(itertools.pairwise(chain), 1):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            raise ValueError(
                f"--sign-certificate {path}: certificate {number + 1} did not issue certificate {number}; expected "
                "the signer's first, then its issuer's, and so on"
            ) from None


def _check_key(path: Path, key: PrivateKeyTypes, certificate: Path, first: Certificate, algorithm: str) -> None:
    """Raises ValueError unless the key is the certificate's and of the algorithm."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    if key.public_key() != first.public_key():
        raise ValueError(f"--sign-key {path}: not the key of the first certificate in {certificate} "
                         f"({first.subject.rfc4514_string()})")  # fmt: skip
    kind = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
    if isinstance(key, EllipticCurvePrivateKey):
        kind = f"EC {key.curve.name}"
    if kind != ALGORITHMS[algorithm]:
        fitting = [name for name, wanted in ALGORITHMS.items() if wanted == kind]
        allows = f"allows: {', '.join(fitting)}" if fitting else "C2PA does not take"
        raise ValueError(f"--sign-algorithm is '{algorithm}', for a key of {ALGORITHMS[algorithm]}; {path} has one of "
                         f"{kind}, which {allows}")  # fmt: skip
