"""Marks in image files: written, read back, found altered; and the usage policy that a bundle carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from toy_bundle import make_contract, make_manifest, make_weights, write_graphs

from aim_edge.runtime import Bundle, BundleError, FileRecord, Generator, SamplingConfig
from aim_edge.runtime.bundle import new_bundle, record_files, write_manifest
from aim_edge.runtime.images import load_image, save_png
from aim_edge.runtime.policy import POLICY, UsagePolicy
from aim_edge.runtime.provenance import Provenance, bundle_digest, escape, pixel_digest, read_marks

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
FILES = {"b.onnx": FileRecord(3, "b" * 64), "a.onnx": FileRecord(2, "a" * 64), POLICY: FileRecord(1, "c" * 64)}
MANIFEST = make_manifest(make_contract(), files=FILES)
POLICY_TEXT = UsagePolicy(notice="for tests <only> & not more\nsecond line", licence="CC-BY-4.0")
ODD_NAMES = [
    "", " tench, Tinca tinca ", "<b>&amp;\"'</b>", "]]><!--", "a\0b\x1b[31m\x7f\x85", "猫 été 😀",
    "back\\slash \\u0041", "tab\tline\r\nend", "\ud800\ufffe\uffff",
]  # fmt: skip


def make_provenance(name: str = "b", **changes: Any) -> Provenance:
    """Of image 2 of class 1, called `name`."""
    manifest = replace(MANIFEST, class_names=("a", name, "c", "d"))
    values: dict[str, Any] = {
        "seed": 2**64 - 1, "sampling": SamplingConfig(1 / 3, 1e-7, 5, 0.1), "class_id": 1, "image_index": 2,
    }  # fmt: skip
    return Provenance.from_generation(manifest, POLICY_TEXT, "ort-cpu", **(values | changes))


@pytest.mark.parametrize("changes", [{}, {"class_id": None, "image_index": None}, {"prefix_tokens": [3, 0, 22]}])
def test_round_trip(changes: dict[str, Any], tmp_path: Path) -> None:
    given = make_provenance(**changes)
    save_png(tmp_path / "a.png", PIXELS, given)
    found = Provenance.read(tmp_path / "a.png")
    assert found == given.with_pixels(Image.fromarray(PIXELS))
    assert read_marks(tmp_path / "a.png").problems() == []
    assert given.class_name == ("b" if given.class_id else "several")
    assert given.licence == "CC-BY-4.0" and given.policy == "c" * 64


def test_pixels_are_the_same_and_files_reproducible(tmp_path: Path) -> None:
    for name, provenance in (("plain", None), ("marked", make_provenance()), ("again", make_provenance())):
        save_png(tmp_path / name, PIXELS, provenance)
        np.testing.assert_array_equal(load_image(tmp_path / name, 8, 12), PIXELS)
    assert (tmp_path / "marked").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "marked").read_bytes() != (tmp_path / "plain").read_bytes()
    assert Provenance.read(tmp_path / "plain") is None


def test_what_other_programs_read(tmp_path: Path) -> None:
    """Chunk names and XMP properties by their full names, through Pillow and a plain XML parser."""
    save_png(tmp_path / "a.png", PIXELS, make_provenance())
    with Image.open(tmp_path / "a.png") as image:
        text = dict(image.info)
    assert text["Software"].startswith("aim-edge ") and text["Title"] == "AI-generated image: b"
    assert text["aim-edge:class"] == "b" and text["aim-edge:seed"] == str(2**64 - 1)
    assert text["aim-edge:guidance_scale"] == "0.3333333333333333" and text["aim-edge:image_index"] == "2"
    root = ElementTree.fromstring(text["XML:com.adobe.xmp"])
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    found = {child.tag: child.text for child in description}
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert found[iptc] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert found["{http://ns.adobe.com/xap/1.0/}CreatorTool"] == text["Software"]
    assert found["{urn:aim-edge:provenance:1#}checkpoint"] == "0" * 64
    assert found["{urn:aim-edge:provenance:1#}notice"] == POLICY_TEXT.notice
    continued = make_provenance(prefix_tokens=[1])
    assert continued.source_type.endswith("/compositeWithTrainedAlgorithmicMedia")
    assert continued.source_type in continued.to_xmp()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_class_names_survive(name: str, tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", PIXELS, make_provenance(name))
    assert read_marks(tmp_path / "a.png").problems() == []
    found = Provenance.read(tmp_path / "a.png")
    assert found is not None and found.class_name == name
    assert not set(escape(name)) & set(map(chr, [*range(10), *range(11, 32), 127]))


def rewrite(path: Path, text: dict[str, str], xmp: str | None, pixels: np.ndarray = PIXELS) -> Path:
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp)
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info)
    return path


Edit = Callable[[dict[str, str]], dict[str, str]]


@pytest.mark.parametrize(
    ("edit", "swap", "problem"),
    [
        (lambda text: text | {"aim-edge:seed": "7"}, ("", ""), "text and XMP disagree: seed"),
        (lambda text: text | {"aim-edge:class": "dog"}, ("", ""), "not as aim-edge writes them: Title"),
        (lambda text: text | {"Title": "a photo"}, ("", ""), "not as aim-edge writes them: Title"),
        (lambda text: text | {"Software": "other"}, ("", ""), "disagree: software"),
        (lambda text: text | {"aim-edge:seed": "x"}, ("", ""), "damaged: seed is 'x'; expected a number"),
        (lambda text: text | {"aim-edge:seed": "+7"}, ("", ""), "not as aim-edge writes them: aim-edge:seed"),
        (lambda text: text | {"aim-edge:temperature": "nan"}, ("", ""), "damaged: sampling: temperature"),
        (lambda text: text | {"aim-edge:mood": "x"}, ("", ""), "damaged: unknown fields: mood"),
        (lambda text: {k: v for k, v in text.items() if k != "aim-edge:seed"}, ("", ""), "missing fields: seed"),
        (lambda text: {k: v for k, v in text.items() if k != "aim-edge:pixels"}, ("", ""), "no digest of the pixels"),
        (lambda text: {"Software": "other"}, ("", ""), "the text chunks are missing"),
        (dict, ("trainedAlgorithmicMedia", "digitalCapture"), "disagree: DigitalSourceType"),
        (dict, (">ort-cpu<", ">other<"), "disagree: backend"),
        (dict, ("<aimedge:class>", "<aimedge:class>x</aimedge:class><aimedge:class>"), "class is given twice"),
        (dict, ("<aimedge:class>", "<aimedge:klass>"), "not XML"),
        (dict, ("<x:xmpmeta", '<!DOCTYPE a [<!ENTITY b "c">]><x:xmpmeta'), "declares a document type"),
        (dict, ("urn:aim-edge:provenance:1#", "urn:other#"), "the XMP packet is missing"),
    ],
)
def test_altered_marks_are_found(edit: Edit, swap: tuple[str, str], problem: str, tmp_path: Path) -> None:
    given = make_provenance().with_pixels(Image.fromarray(PIXELS))
    xmp = given.to_xmp()
    path = rewrite(tmp_path / "a.png", edit(given.to_text()), xmp.replace(*swap) if swap[0] else xmp)
    found = read_marks(path).problems()
    assert any(problem in line for line in found), found
    with pytest.raises(ValueError, match=r"a\.png: "):
        Provenance.read(path)


def test_an_altered_pixel_and_a_lost_packet_are_found(tmp_path: Path) -> None:
    given = make_provenance().with_pixels(Image.fromarray(PIXELS))
    other = PIXELS.copy()
    other[3, 4, 1] ^= 1
    path = rewrite(tmp_path / "a.png", given.to_text(), given.to_xmp(), other)
    assert read_marks(path).problems() == ["the pixels were altered: their digest is not the recorded one"]
    path = rewrite(tmp_path / "b.png", given.to_text(), None)
    assert read_marks(path).problems() == ["the XMP packet is missing"]


def test_xmp_that_another_program_wrote_as_attributes_agrees(tmp_path: Path) -> None:
    given = make_provenance().with_pixels(Image.fromarray(PIXELS))
    packet = given.to_xmp().replace("   <aimedge:backend>ort-cpu</aimedge:backend>\n", "")
    packet = packet.replace('rdf:about=""', 'rdf:about="" aimedge:backend="ort-cpu"')
    assert read_marks(rewrite(tmp_path / "a.png", given.to_text(), packet)).problems() == []


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    save_png(tmp_path / "whole.png", np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name in ("text.png", "cut.png", "nowhere.png"):
        with pytest.raises((OSError, ValueError)):
            Provenance.read(tmp_path / name)


def test_digests_are_as_documented() -> None:
    wanted = b"a" * 64 + b"  a.onnx\0" + b"b" * 64 + b"  b.onnx\0" + b"c" * 64 + b"  policy.json\0"
    assert bundle_digest(MANIFEST) == hashlib.sha256(wanted).hexdigest()
    assert bundle_digest(replace(MANIFEST, parity={"passed": True})) == bundle_digest(MANIFEST)
    pixels = hashlib.sha256(b"RGB 12x8\n" + PIXELS.tobytes()).hexdigest()
    assert pixel_digest(Image.fromarray(PIXELS)) == pixels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"denied": []}, r"unknown keys \['denied'\]; allowed: \['denied_classes', 'notice'"),
        ({"denied_classes": "hands"}, "denied_classes is 'hands'"),
        ({"denied_classes": [True], "notice": 3}, r"denied_classes is \[True\].*; notice is 3"),
        ({"require_provenance": "yes"}, "require_provenance is 'yes'"),
    ],
)
def test_policies_that_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(values))
    for given in (values, tmp_path / "p.json"):
        with pytest.raises(ValueError, match=message):
            UsagePolicy.load(given)


@pytest.mark.parametrize("text", ["", "[]", '{"notice": "a", "notice": "b"}', "\xff"])
def test_policy_files_that_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"p\.json: "):
        UsagePolicy.load(tmp_path / "p.json")


def test_denied_classes_by_id_and_name() -> None:
    policy = UsagePolicy.from_dict({"denied_classes": [0, "CAT"]})
    assert policy.denied_ids(4, ["a", "cat", "b", "Cat"]) == {0, 1, 3}
    assert UsagePolicy.from_json(policy.to_json()) == policy
    with pytest.raises(ValueError, match=r"\[0, 'CAT'\] are no classes"):
        policy.denied_ids(0, None)


def toy_with(out: Path, policy: str) -> Path:
    """The toy with a policy.json."""
    contract = make_contract()
    with new_bundle(out) as folder:
        write_graphs(folder, contract, make_weights())
        (folder / POLICY).write_text(policy)
        write_manifest(folder, make_manifest(contract, files=record_files(folder)))
    return out


def test_a_denied_class_is_not_drawn(tmp_path: Path) -> None:
    path = toy_with(tmp_path / "b", '{"denied_classes": ["B", 3], "notice": "ask us"}')
    with Generator.open(path) as generator:
        assert generator.policy is not None and generator.policy.notice == "ask us"
        for draw in (generator.generate, generator.stream):
            with pytest.raises(ValueError, match=r"class 1 \(b\), 3 \(d\) is denied by .*policy\.json: ask us"):
                draw([0, 3, 1])
        assert len(generator.generate([0, 2])[0]) == 2


def test_a_policy_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    path = toy_with(tmp_path / "b", '{"denied_classes": [1]}')
    (path / POLICY).write_text('{"denied_classes": [2]}')
    with pytest.raises(BundleError, match=r"policy\.json: altered"):
        Generator.open(path)
    with pytest.raises(BundleError, match=r"policy\.json: altered"):
        Generator.open(path, verify=False)
    opened = Bundle.open(path, verify=False)
    files = {name: record for name, record in opened.manifest.files.items() if name != POLICY}
    write_manifest(path, replace(opened.manifest, files=files))
    with pytest.raises(BundleError, match="does not list it"):
        Generator.open(path)
    (path / POLICY).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        UsagePolicy.of_bundle(opened)
    with Generator.open(path) as generator:
        assert generator.policy is None


def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"policy\.json: policy: denied_classes \['dragons'\]"):
        Generator.open(toy_with(tmp_path / "b", '{"denied_classes": ["dragons"]}'))
