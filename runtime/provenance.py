"""Where an image comes from: marks in the PNG file that say so, and reading them back.

An image says it twice: as PNG text chunks (Software, Title, aim-edge:...) and as an XMP packet. The marks hold no time
and no path, so that the same image is the same file. They are not signed: who edits both tellings and the pixels'
digest with them is not found out, but for drawing the image again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from html import escape as escape_xml
from typing import TYPE_CHECKING, Any

from .manifest import Manifest
from .policy import POLICY, UsagePolicy
from .sampler import SamplingConfig

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.PngImagePlugin import PngInfo

SEVERAL = "several"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_PREFIX = "aim-edge:"
_XMP_CHUNK = "XML:com.adobe.xmp"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_OURS = "urn:aim-edge:provenance:1#"
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about="" xmlns:xmp="{xmp}" xmlns:Iptc4xmpExt="{iptc}" xmlns:aimedge="{ours}">
{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
# What a text chunk or XML cannot hold, and the backslash that stands for it. The line feed may stay.
_UNSAFE = re.compile("[\\\\\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")
_INTEGERS = ("class_id", "seed", "image_index")
_SAMPLING = {f.name: int if f.name == "top_k" else float for f in fields(SamplingConfig)}


@dataclass(frozen=True)
class Provenance:
    """How an image was drawn. `from_generation` makes it, `read` finds it in a file.

    Attributes:
        software: "aim-edge" and its version.
        class_name: the class's name, or its number where it has none; "several" for a grid.
        class_id, image_index: None for a grid.
        seed, sampling: as `Generator.generate` took them, the bundle's defaults filled in.
        bundle: `bundle_digest` of the bundle.
        checkpoint: SHA-256 of the weights that it was exported from.
        backend: what ran the graphs.
        prefix_tokens: the codes of an image of the user's that was continued.
        licence: the model's, where the bundle's policy names one.
        policy, notice: SHA-256 of the bundle's policy.json, and its notice.
        pixels: `pixel_digest` of the image; `save_png` fills it in.
    """

    software: str
    class_name: str
    seed: int
    sampling: SamplingConfig
    bundle: str
    checkpoint: str
    backend: str
    class_id: int | None = None
    image_index: int | None = None
    prefix_tokens: tuple[int, ...] = field(default=(), repr=False)
    licence: str | None = None
    policy: str | None = None
    notice: str | None = None
    pixels: str | None = None

    @classmethod
    def from_generation(
        cls, manifest: Manifest, policy: UsagePolicy | None, backend: str, *, seed: int, sampling: SamplingConfig,
        class_id: int | None = None, image_index: int | None = None, prefix_tokens: Sequence[int] = (),
    ) -> Provenance:  # fmt: skip
        """Of an image that a bundle drew; without a class id, of a grid of several."""
        import aim_edge

        if class_id is None:
            name = SEVERAL
        else:
            name = manifest.class_names[class_id] if manifest.class_names else str(class_id)
        return cls(
            f"aim-edge {aim_edge.__version__}", name, int(seed), sampling, bundle_digest(manifest),
            manifest.checkpoint.sha256, backend, class_id, image_index, tuple(map(int, prefix_tokens)),
            policy.licence or None if policy else None,
            manifest.files[POLICY].sha256 if policy else None,
            policy.notice or None if policy else None,
        )  # fmt: skip

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Provenance | None:
        """What an image file says of itself; None where it says nothing.

        Raises:
            OSError, ValueError: no image that can be read; marks that are damaged, or that disagree.
        """
        marks = read_marks(path)
        if not marks.text and not marks.xmp:
            return None
        if problems := marks.problems():
            raise ValueError(f"{path}: " + "; ".join(problems))
        return marks.provenance()

    def with_pixels(self, image: PilImage) -> Provenance:
        """The same with the image's digest in it."""
        return replace(self, pixels=pixel_digest(image))

    @property
    def source_type(self) -> str:
        """The IPTC's term for images made so: a user's image that was continued makes it a composite."""
        return SOURCE_TYPES + ("compositeWithTrainedAlgorithmicMedia" if self.prefix_tokens else
                               "trainedAlgorithmicMedia")  # fmt: skip

    def to_fields(self) -> dict[str, str]:
        """The fields that are set as text, by the names that both tellings use."""
        values: dict[str, Any] = {"class": self.class_name}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "sampling":
                values |= self.sampling.to_dict()
            elif entry.name == "prefix_tokens":
                values |= {entry.name: " ".join(map(str, value))} if value else {}
            elif entry.name != "class_name" and value is not None:
                values[entry.name] = value
        return {name: escape(str(value)) for name, value in values.items()}

    @classmethod
    def from_fields(cls, texts: Mapping[str, str]) -> Provenance:
        """Reads `to_fields`' form. Raises ValueError: unknown or missing fields, or bad values (one is named)."""
        known = {f.name for f in fields(cls)} - {"class_name", "sampling"} | {"class", *_SAMPLING}
        needed = {"software", "class", "seed", "bundle", "checkpoint", "backend", *_SAMPLING}
        unknown, missing = sorted(set(texts) - known), sorted(needed - set(texts))
        if unknown or missing:
            raise ValueError(f"unknown fields: {escape(', '.join(unknown))}; missing fields: {', '.join(missing)}")
        values: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        for name, text in texts.items():
            try:
                if name in _SAMPLING:
                    sampling[name] = _SAMPLING[name](text)
                elif name == "prefix_tokens":
                    values[name] = tuple(map(int, text.split()))
                elif name in _INTEGERS:
                    values[name] = int(text)
                else:
                    values["class_name" if name == "class" else name] = _unescape(text)
            except ValueError:
                raise ValueError(f"{name} is '{escape(text)}'; expected a number") from None
        return cls(**values, sampling=SamplingConfig(**sampling))

    def to_text(self) -> dict[str, str]:
        """The PNG text chunks, XMP left out."""
        values = self.to_fields()
        title = {"Software": values.pop("software"), "Title": f"AI-generated image: {values['class']}"}
        return title | {_PREFIX + name: value for name, value in values.items()}

    def to_xmp(self) -> str:
        """The XMP packet."""
        values = self.to_fields()
        properties = {
            "Iptc4xmpExt:DigitalSourceType": self.source_type, "xmp:CreatorTool": values.pop("software"),
        } | {f"aimedge:{name}": value for name, value in values.items()}  # fmt: skip
        lines = (f"   <{name}>{escape_xml(value, quote=False)}</{name}>" for name, value in properties.items())
        return _PACKET.format(rdf=_RDF, xmp=_XMP, iptc=_IPTC, ours=_OURS, properties="\n".join(lines))

    def to_png_info(self) -> PngInfo:
        """Both tellings, for Pillow's `Image.save`."""
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, text in self.to_text().items():
            info.add_text(key, text)  # iTXt where Latin-1 has no such letters
        info.add_itxt(_XMP_CHUNK, self.to_xmp())
        return info


@dataclass(frozen=True)
class Marks:
    """What was found in an image file.

    Attributes:
        text: the text chunks that are marks, as they stand.
        xmp: XMP properties that are marks: DigitalSourceType, and the fields by the names of `Provenance.to_fields`.
        xmp_problem: why the packet could not be read, or None.
        pixels: `pixel_digest` of what the file shows.
    """

    text: dict[str, str]
    xmp: dict[str, str]
    xmp_problem: str | None
    pixels: str

    def fields(self) -> dict[str, str]:
        """The text chunks' fields, raw, by the names of `Provenance.to_fields`."""
        names = {"Software": "software"}
        return {names.get(key, key.removeprefix(_PREFIX)): text for key, text in self.text.items() if key != "Title"}

    def provenance(self) -> Provenance:
        """What the text chunks say. Raises ValueError where they are damaged or missing."""
        return Provenance.from_fields(self.fields())

    def problems(self) -> list[str]:
        """Every reason not to believe the marks: none if they are whole, agree and fit the pixels."""
        bad = []
        if not self.text:
            bad.append("the text chunks are missing")
        if self.xmp_problem:
            bad.append(f"the XMP packet can't be read: {self.xmp_problem}")
        elif not self.xmp:
            bad.append("the XMP packet is missing")
        if bad:
            return bad
        try:
            found = self.provenance()
        except ValueError as error:
            return [f"the text chunks are damaged: {error}"]
        altered = _differing(self.text, found.to_text())
        bad += [f"not as aim-edge writes them: {', '.join(altered)}"] if altered else []
        parted = _differing(self.xmp, self.fields() | {"DigitalSourceType": found.source_type})
        bad += [f"text and XMP disagree: {', '.join(parted)}"] if parted else []
        if found.pixels is None:
            bad.append("no digest of the pixels is recorded")
        elif found.pixels != self.pixels:
            bad.append("the pixels were altered: their digest is not the recorded one")
        return bad


def read_marks(path: str | os.PathLike[str]) -> Marks:
    """Finds the marks in an image file, of any format that Pillow reads.

    Raises:
        OSError, ValueError: the file is missing, or no image that can be read whole.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()  # what stands behind the pixels too
            digest, info = pixel_digest(image), image.info
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: no image that can be read: {error}") from error
    text = {
        key: str(value) for key, value in info.items()
        if isinstance(key, str) and (key in ("Software", "Title") or key.startswith(_PREFIX))
    }  # fmt: skip
    # Any program names itself and gives a title: on their own these are no marks.
    text = text if any(key.startswith(_PREFIX) for key in text) else {}
    packet = info.get(_XMP_CHUNK) or info.get("xmp") or ""
    try:
        xmp = _read_xmp(packet.decode("utf-8") if isinstance(packet, bytes) else str(packet))
    except ValueError as error:
        return Marks(text, {}, str(error), digest)
    return Marks(text, xmp, None, digest)


def pixel_digest(image: PilImage) -> str:
    """SHA-256 of the mode, the size and the pixels row by row: of b"RGB 64x64\\n" and 64 * 64 * 3 bytes, say."""
    head = f"{image.mode} {image.width}x{image.height}\n".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def bundle_digest(manifest: Manifest) -> str:
    """One digest for a bundle: SHA-256 over its manifest's table of files.

    What is hashed is, for each file in order of its name, the file's SHA-256 in hex, two spaces, its name in UTF-8
    and a zero byte: what `sha256sum -z` prints. Engines and parity results, which come later, do not change it.
    """
    lines = (f"{record.sha256}  {name}\0" for name, record in sorted(manifest.files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def escape(text: str) -> str:
    r"""Text that chunks, XML and terminals can hold: control characters and backslashes become \uXXXX."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def _differing(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Names whose texts differ or that one side lacks."""
    return sorted(escape(name) for name in {*found, *expected} if found.get(name) != expected.get(name))


def _read_xmp(packet: str) -> dict[str, str]:
    """The properties of a packet that are marks; {} without our own among them. Raises ValueError."""
    from xml.etree import ElementTree

    if not packet.strip():
        return {}
    if "<!DOCTYPE" in packet:
        raise ValueError("it declares a document type")  # entities could swell without end
    try:
        root = ElementTree.fromstring(packet.strip("\0"))
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML ({error})") from error
    found: dict[str, str] = {}
    ours = False
    for description in root.iter(f"{{{_RDF}}}Description"):
        properties = [(child.tag, child.text or "") for child in description]
        for tag, text in [*properties, *description.attrib.items()]:  # XMP may write either
            space, _, name = tag.removeprefix("{").partition("}")
            if space == _OURS:
                ours = True
            elif (space, name) == (_XMP, "CreatorTool"):
                name = "software"
            elif (space, name) != (_IPTC, "DigitalSourceType"):
                continue
            if name in found:
                raise ValueError(f"{escape(name)} is given twice")
            found[name] = text
    return found if ours else {}
