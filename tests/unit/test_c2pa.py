"""C2PA: images are signed, every reader finds the same facts, and what was altered or cannot sign is told."""

from __future__ import annotations

import datetime
import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from needs import missing
from PIL import Image
from test_provenance import PIXELS, make_provenance

from aim_edge.cli.signing import Signer
from aim_edge.runtime.images import save_png
from aim_edge.runtime.provenance import Provenance

c2pa = pytest.importorskip("c2pa", reason="NOT RUN: needs c2pa-python")
pytest.importorskip("cryptography", reason="NOT RUN: needs cryptography")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MAGIC = b"\x89PNG\r\n\x1a\n"
PKCS8, SEC1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()


@dataclass(frozen=True)
class Keys:
    """A signer's files, and its CA's certificate."""

    certificate: Path
    key: Path
    ca: Path

    def options(self) -> tuple[object, ...]:
        return "--sign-certificate", self.certificate, "--sign-key", self.key


def make_keys(
    folder: Path, key: Any = None, *, days: int = 30, purpose: Any = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    form: Any = PKCS8, locked: Any = PLAIN, self_issued: bool = False,
) -> Keys:  # fmt: skip
    """A CA, and a certificate that it issued for signing as C2PA's profile has it, unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)

    def certify(subject: str, public: Any, issuer: str, by: Any, is_ca: bool) -> bytes:
        names = [
            x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{who} Ltd"),
                       x509.NameAttribute(NameOID.COMMON_NAME, who)])
            for who in (subject, issuer)
        ]  # fmt: skip
        usage = x509.KeyUsage(
            digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(public)
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(is_ca, None), True).add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False)
        )  # fmt: skip
        if not is_ca and purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        digest = None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(by, digest).public_bytes(serialization.Encoding.PEM)

    ca = certify("Test CA", authority.public_key(), "Test CA", authority, True)
    issuer = ("Signer", key) if self_issued else ("Test CA", authority)
    chain = certify("Signer", key.public_key(), *issuer, False) + (b"" if self_issued else ca)
    keys = Keys(folder / "chain.pem", folder / "key.pem", folder / "ca.pem")
    keys.certificate.write_bytes(chain)
    keys.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, locked))
    keys.ca.write_bytes(ca)
    return keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def open_signer(keys: Keys, algorithm: str | None = None) -> Signer:
    signer = Signer.open(keys.certificate, keys.key, algorithm)
    assert signer is not None
    return signer


@pytest.fixture
def signed(keys: Keys, tmp_path: Path) -> Path:
    """A signed image, alone in its folder."""
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    save_png(path, PIXELS, make_provenance())
    open_signer(keys).sign(path)
    assert list(path.parent.iterdir()) == [path]
    return path


def read_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data, chunks, place = path.read_bytes(), [], len(MAGIC)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def write_chunks(path: Path, chunks: list[tuple[bytes, bytes]]) -> None:
    body = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    path.write_bytes(MAGIC + b"".join(body))


def read_store(path: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """By the library's own reader: everything, and the assertions of the manifest by their labels."""
    with path.open("rb") as file, c2pa.Reader("image/png", file, context=c2pa.Context.from_dict(settings)) as reader:
        store = json.loads(reader.json())
    manifest = store["manifests"][store["active_manifest"]]
    return store, {entry["label"]: entry["data"] for entry in manifest["assertions"]}


def sign_with(path: Path, keys: Keys, assertions: list[dict[str, Any]]) -> None:
    """By the library alone, with other assertions than ours."""
    plain = path.with_name("plain")
    path.rename(plain)
    info = c2pa.C2paSignerInfo("es256", keys.certificate.read_bytes(), keys.key.read_bytes(), None)
    created = {"label": "c2pa.actions.v2", "data": {"actions": [
        {"action": "c2pa.created", "digitalSourceType": SOURCE}]}}  # fmt: skip
    with plain.open("rb") as source, path.open("w+b") as out, c2pa.Signer.from_info(info) as signer:
        c2pa.Builder(json.dumps({"assertions": [created, *assertions]})).sign(signer, "image/png", source, out)


def test_every_reader_shows_the_same_facts(signed: Path, keys: Keys, run: Run) -> None:
    store, assertions = read_store(signed)
    assert store["validation_state"] == "Valid"
    assert "time" not in store["manifests"][store["active_manifest"]]["signature_info"]
    facts = assertions["aim-edge.provenance"]
    wanted = {
        "class": "b", "class_id": "1", "seed": str(2**64 - 1), "guidance_scale": "0.3333333333333333",
        "licence": "CC-BY-4.0", "backend": "ort-cpu", "checkpoint": "0" * 64,
    }  # fmt: skip
    assert {name: facts[name] for name in wanted} == wanted and len(facts["bundle"]) == 64
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    name, version = facts["software"].split(" ")
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", SOURCE)
    assert action["softwareAgent"] == {"name": name, "version": version} and name == "aim-edge"
    with Image.open(signed) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
        info = dict(image.info)
    text = {key.removeprefix("aim-edge:"): value for key, value in info.items() if key.startswith("aim-edge:")}
    assert text | {"software": info["Software"]} == facts
    root = ElementTree.fromstring(info["XML:com.adobe.xmp"])
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    xmp = {child.tag.partition("}")[2]: child.text for child in description}
    assert xmp.pop("DigitalSourceType") == SOURCE and xmp.pop("CreatorTool") == facts["software"]
    assert xmp == text
    status, said, _ = run("verify", signed)
    assert status == 0 and "text and XMP agree" in said and "C2PA agrees, and its signature is Valid" in said
    assert "C2PA: signed by Signer (Signer Ltd), Es256; validation state Valid (who signed was not checked" in said
    assert said.count("same") == 2 * len(facts) + 1
    assert Provenance.read(signed) == make_provenance().with_pixels(Image.fromarray(PIXELS))


def test_readers_of_others_show_the_same_facts(signed: Path) -> None:
    """Exiv2 by pyexiv2, and ExifTool, of the signed file: every fact that C2PA's own reader finds there."""
    _, assertions = read_store(signed)
    facts = assertions["aim-edge.provenance"]
    try:
        import pyexiv2
    except ImportError as error:
        missing(f"pyexiv2 ({error})")
    with pyexiv2.Image(str(signed)) as image:
        xmp = image.read_xmp()
    assert xmp.pop("Xmp.iptcExt.DigitalSourceType") == SOURCE
    assert {"software": xmp.pop("Xmp.xmp.CreatorTool")} | {
        key.removeprefix("Xmp.aimedge."): value for key, value in xmp.items()
    } == facts
    if shutil.which("exiftool") is None:
        missing("exiftool (apt-get install libimage-exiftool-perl)")
    told = subprocess.run(
        ["exiftool", "-json", "-G1", "-XMP:all", "-PNG:all", str(signed)], capture_output=True, check=True
    ).stdout
    (found,) = json.loads(told)
    assert found["XMP-iptcExt:DigitalSourceType"] == SOURCE
    assert found["XMP-xmp:CreatorTool"] == found["PNG:Software"] == facts["software"]
    for name, value in facts.items():
        if name == "software":
            continue
        for key in (f"XMP-aimedge:{name.capitalize()}", f"PNG:Aim-edge{name}"):
            shown = found[key]
            assert shown == value or float(shown) == float(value), (key, shown, value)


def test_an_algorithm_for_each_kind_of_key(tmp_path: Path, run: Run) -> None:
    for algorithm, key in (
        ("es384", ec.generate_private_key(ec.SECP384R1())),
        ("es512", ec.generate_private_key(ec.SECP521R1())),
        ("ps256", rsa.generate_private_key(65537, 2048)),
        ("ed25519", ed25519.Ed25519PrivateKey.generate()),
    ):
        path = tmp_path / f"{algorithm}.png"
        save_png(path, PIXELS, make_provenance())
        signer = open_signer(make_keys(tmp_path / algorithm, key), algorithm)
        assert signer.key.decode() not in repr(signer) and "PRIVATE" not in repr(signer)
        signer.sign(path)
        status, said, _ = run("verify", path)
        assert status == 0 and algorithm in said.lower()
    keys = make_keys(tmp_path / "sec1", form=SEC1)
    assert b"BEGIN EC PRIVATE KEY" in keys.key.read_bytes()
    open_signer(keys)


def test_a_continued_image_is_a_composite(keys: Keys, tmp_path: Path, run: Run) -> None:
    save_png(tmp_path / "a.png", PIXELS, make_provenance("猫\n\x1b[31m", prefix_tokens=[3, 0, 22]))
    open_signer(keys).sign(tmp_path / "a.png")
    (action,) = read_store(tmp_path / "a.png")[1]["c2pa.actions.v2"]["actions"]
    assert action["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    status, said, _ = run("verify", tmp_path / "a.png")
    assert status == 0 and "\x1b" not in said


def test_a_pixel_altered_after_signing_is_found(signed: Path, tmp_path: Path, run: Run) -> None:
    other = PIXELS.copy()
    other[3, 4, 1] ^= 1
    # The marks stay and fit no more; then marks that were made to fit too, which only the signature tells.
    for name, source in (("kept", None), ("refitted", make_provenance())):
        save_png(tmp_path / "other.png", other, source)
        altered = [chunk for chunk in read_chunks(tmp_path / "other.png") if source is None or chunk[0] != b"caBX"]
        if source is None:
            data = b"".join(data for kind, data in altered if kind == b"IDAT")
            chunks = [(kind, data if kind == b"IDAT" else old) for kind, old in read_chunks(signed)]
        else:
            manifest = next(chunk for chunk in read_chunks(signed) if chunk[0] == b"caBX")
            chunks = [altered[0], manifest, *altered[1:]]
        path = tmp_path / f"{name}.png"
        write_chunks(path, chunks)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), other)
        store, _ = read_store(path)
        assert store["validation_state"] == "Invalid"
        status, said, _ = run("verify", path)
        assert status == 1 and "FAILED" in said and "validation state Invalid" in said
        assert "C2PA: the file was altered after it was signed (assertion.dataHash.mismatch)" in said
        assert ("the pixels were altered" in said) == (source is None)
        assert ("text and C2PA disagree: pixels" in said) == (source is not None)


def test_an_edited_or_broken_manifest_is_found(signed: Path, run: Run) -> None:
    chunks = read_chunks(signed)
    for edit, problem in (
        (lambda data: data.replace(b'"seed":"1', b'"seed":"2'), "assertion.hashedURI.mismatch"),
        (lambda data: data[: len(data) // 2], "the manifest can't be read"),
        (lambda data: b"", "the manifest can't be read"),
    ):
        write_chunks(signed, [(kind, edit(data) if kind == b"caBX" else data) for kind, data in chunks])
        assert read_chunks(signed) != chunks
        status, said, _ = run("verify", signed)
        assert status == 1 and problem in said and "validation state Invalid" in said


def test_facts_that_disagree_under_a_good_signature_are_found(keys: Keys, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "a.png"
    save_png(path, PIXELS, make_provenance())
    with Image.open(path) as image:
        facts = {"software": image.info["Software"]} | {
            key[9:]: text for key, text in image.info.items() if key.startswith("aim-edge:")
        }
    for change, fields in (({"seed": "8"}, "seed"), ({"mood": "\x1b[31m"}, "mood"), ({}, None)):
        save_png(path, PIXELS, make_provenance())
        sign_with(path, keys, [{"label": "aim-edge.provenance", "data": facts | change}])
        status, said, _ = run("verify", path)
        assert status == (0 if fields is None else 1) and "validation state Valid" in said and "\x1b" not in said
        for side in ("text", "XMP"):
            assert (f"{side} and C2PA disagree: {fields}" in said) == (fields is not None)
        assert said.count("same") == 2 * len(facts) + 1 - (fields == "seed")  # where no side has it, none is the same
    save_png(path, PIXELS, make_provenance(prefix_tokens=[1]))
    sign_with(path, keys, [{"label": "aim-edge.provenance", "data": facts | {"prefix_tokens": "1"}}])
    status, said, _ = run("verify", path)
    assert status == 1 and "XMP and C2PA disagree: DigitalSourceType" in said and "text and C2PA" not in said
    save_png(path, PIXELS, make_provenance())
    sign_with(path, keys, [])
    status, said, _ = run("verify", path)
    assert status == 1 and "the manifest holds no facts of aim-edge" in said


def test_trust_anchors(signed: Path, keys: Keys, tmp_path: Path, run: Run) -> None:
    status, said, _ = run("verify", signed, "--trust-anchors", keys.ca)
    assert status == 0 and "validation state Trusted" in said
    other = make_keys(tmp_path / "other")
    status, said, _ = run("verify", signed, "--trust-anchors", other.ca)
    assert status == 1 and "no CA of --trust-anchors vouches for the signer" in said
    save_png(tmp_path / "plain.png", PIXELS, make_provenance())
    status, said, _ = run("verify", tmp_path / "plain.png")
    assert status == 0 and "C2PA: no manifest" in said
    status, said, _ = run("verify", tmp_path / "plain.png", "--trust-anchors", keys.ca)
    assert status == 1 and "not signed by C2PA" in said
    status, _, err = run("verify", signed, "--trust-anchors", keys.key)
    assert status == 2 and "--trust-anchors" in err and "no certificates in PEM form" in err


def test_without_the_library(
    signed: Path, keys: Keys, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(tmp_path / "plain.png", PIXELS, make_provenance())
    monkeypatch.setitem(sys.modules, "c2pa", None)
    status, said, _ = run("verify", signed)
    assert status == 1 and 'NOT checked: this needs c2pa-python; pip install "aim-edge[c2pa]"' in said
    assert run("verify", tmp_path / "plain.png")[0] == 0
    status, _, err = run("generate", "nowhere", "-c", 0, *keys.options())
    assert status == 2 and 'pip install "aim-edge[c2pa]"' in err and "Traceback" not in err


def test_generate_signs_every_file(tiny: Path, keys: Keys, tmp_path: Path, run: Run) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    assert run("export", tiny, bundle)[0] == 0
    draw = ("generate", bundle, "-c", "a", "--count", 2, "--preview-every", 8, "--out", out)
    status, _, err = run(*draw, "--no-provenance", *keys.options())
    assert status == 2 and "--no-provenance leaves out what --sign-certificate signs" in err and not out.exists()
    status, said, _ = run(*draw, *keys.options())
    assert status == 0 and "signed (C2PA, es256) by CN=Signer,O=Signer Ltd" in said
    images = sorted(out.rglob("*.png"))
    assert len(images) == 4 == len(sorted(path for path in out.rglob("*") if path.is_file()))
    assert all(read_store(path)[0]["validation_state"] == "Valid" for path in images)
    status, said, _ = run("verify", *images, "--bundle", bundle, "--trust-anchors", keys.ca)
    assert status == 0 and said.count("its signature is Trusted") == 4
    status, said, _ = run("verify", out / "a_00000_0.png", "--bundle", bundle, "--redraw")
    assert status == 0 and "the pixels are the same" in said


def test_a_file_that_cannot_be_signed_stays_as_it_was(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, signer = tmp_path / "a.png", open_signer(keys)
    save_png(path, PIXELS)
    with pytest.raises(ValueError, match=r"a\.png: not signed: the text chunks are missing"):
        signer.sign(path)
    save_png(path, PIXELS, make_provenance())
    before = path.read_bytes()

    def fill_the_disk(self: Any, signer: Any, form: str, source: Any, out: Any) -> None:
        out.write(b"half")
        raise c2pa.C2paError("disk full")

    monkeypatch.setattr(c2pa.Builder, "sign", fill_the_disk)
    with pytest.raises(ValueError, match=r"a\.png: not signed: C2PA refuses: disk full"):
        signer.sign(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_half_of_what_signing_needs_is_refused(keys: Keys, run: Run) -> None:
    for given, message in (
        (("--sign-certificate", keys.certificate), "only --sign-certificate given"),
        (("--sign-key", keys.key), "only --sign-key given"),
        (("--sign-algorithm", "es256"), "only --sign-algorithm given"),
        (("--sign-key", keys.key, "--sign-algorithm", "es256"), "only --sign-key and --sign-algorithm given"),
        ((*keys.options(), "--sign-algorithm", "md5"), "--sign-algorithm is 'md5'; allowed: es256, es384"),
    ):
        status, _, err = run("generate", "nowhere", "-c", 0, *given)
        assert status == 2 and message in err and "Traceback" not in err


def test_files_that_cannot_sign_are_refused(keys: Keys, tmp_path: Path) -> None:
    junk, gone = tmp_path / "junk.pem", tmp_path / "gone.pem"
    junk.write_bytes(b"\0no PEM")
    other, many = make_keys(tmp_path / "other"), tmp_path / "many.pem"
    many.write_bytes(keys.certificate.read_bytes().partition(b"-----END")[0] + b"-----END CERTIFICATE-----\n"
                     + other.ca.read_bytes())  # fmt: skip
    turned = tmp_path / "turned.pem"
    turned.write_bytes(other.ca.read_bytes() + other.certificate.read_bytes())
    own = make_keys(tmp_path / "own", self_issued=True)
    late = make_keys(tmp_path / "late", days=-1)
    bare = make_keys(tmp_path / "bare", purpose=None)
    locked = make_keys(tmp_path / "locked", locked=serialization.BestAvailableEncryption(b"secret"))
    curve = make_keys(tmp_path / "curve", ec.generate_private_key(ec.SECP256K1()))
    for certificate, key, algorithm, error, message in (
        (gone, keys.key, None, OSError, r"--sign-certificate .*gone\.pem: cannot be read"),
        (keys.certificate, gone, None, OSError, r"--sign-key .*gone\.pem: cannot be read"),
        (junk, keys.key, None, ValueError, r"--sign-certificate .*junk\.pem: no certificates in PEM form"),
        (keys.key, keys.key, None, ValueError, r"--sign-certificate .*key\.pem: no certificates in PEM form"),
        (keys.certificate, junk, None, ValueError, r"--sign-key .*junk\.pem: no private key in PEM form"),
        (keys.certificate, keys.certificate, None, ValueError, r"--sign-key .*: no private key in PEM form"),
        (locked.certificate, locked.key, None, ValueError, "--sign-key .*: it has a passphrase"),
        (keys.certificate, other.key, None, ValueError, r"not the key of the first certificate in .*\(CN=Signer"),
        (many, keys.key, None, ValueError, "certificate 2 did not issue certificate 1"),
        (turned, other.key, None, ValueError, "CN=Test CA.* issued its certificate itself"),
        (own.certificate, own.key, None, ValueError, "CN=Signer.* issued its certificate itself"),
        (late.certificate, late.key, None, ValueError, "--sign-certificate .*: cannot sign with it: .*not valid"),
        (bare.certificate, bare.key, None, ValueError, "--sign-certificate .*: cannot sign with it: C2PA refuses"),
        (keys.certificate, keys.key, "es384", ValueError, "is 'es384', for a key of EC secp384r1; .*allows: es256"),
        (keys.certificate, keys.key, "ps256", ValueError, "is 'ps256', for a key of RSA; .*allows: es256"),
        (curve.certificate, curve.key, None, ValueError, "EC secp256k1, which C2PA does not take"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            Signer.open(certificate, key, algorithm)
