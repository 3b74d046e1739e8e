"""The demo's data: 64 x 64 colour emoji in ten classes, from the npm package `emoji-datasource-google`.

The pictures are Google's Noto Emoji (v2.048), which the package's README says are available under the Apache
License 2.0; the package itself (emoji.json, packaging) is MIT, Copyright (c) 2013 Cal Henderson. The pictures are
fetched when needed and never stored in this repository; what ships is the model that was trained on them.

Use: `python -m aim_edge.aim.demo_data OUT.npz`
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

log = logging.getLogger(__name__)

PACKAGE = "emoji-datasource-google"
VERSION = "16.0.0"
# What the registry published for this version; pinned, so that another tarball is refused whoever serves it.
INTEGRITY = "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
SIZE = 64
HELD_OUT_SHARE = 10  # one group of variants in so many is held out
UNCLASSED = -1

# Classes whose members look alike at a glance, by the package's subcategories.
CLASSES: dict[str, tuple[str, ...]] = {
    "faces": (
        "face-smiling", "face-affection", "face-tongue", "face-hand", "face-neutral-skeptical", "face-sleepy",
        "face-unwell", "face-hat", "face-glasses", "face-concerned", "face-negative",
    ),
    "people": ("person", "person-gesture", "person-role", "person-fantasy"),
    "hands": (
        "hand-fingers-open", "hand-fingers-partial", "hand-single-finger", "hand-fingers-closed", "hands", "hand-prop",
    ),
    "animals": (
        "animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine", "animal-bug",
        "cat-face", "monkey-face",
    ),
    "food": ("food-prepared", "food-asian", "food-sweet", "drink"),
    "garden": ("plant-flower", "plant-other", "food-fruit", "food-vegetable"),
    "vehicles": ("transport-ground", "transport-water", "transport-air"),
    "buildings": ("place-building", "place-religious", "place-other"),
    "buttons": ("keycap", "alphanum", "arrow", "av-symbol", "zodiac", "transport-sign", "religion", "geometric"),
    "flags": ("country-flag", "subdivision-flag"),
}  # fmt: skip
# Mirrored, these would show what no emoji shows (writing, another country's flag).
UNFLIPPABLE = frozenset({"buttons", "flags"})
# In a class's subcategories, but unlike the rest of it. They train the tokenizer only.
_OUTLIERS = frozenset(
    {
        "skull", "skull_and_crossbones", "superhero", "male_superhero", "female_superhero", "supervillain",
        "male_supervillain", "female_supervillain", "fairy", "male_fairy", "female_fairy", "merperson",
        "merman", "mermaid", "genie", "male_genie", "female_genie", "troll", "busstop", "motorway",
        "railway_track", "oil_drum", "fuelpump", "wheel", "rotating_light", "traffic_light",
        "vertical_traffic_light", "octagonal_sign", "construction", "anchor", "ring_buoy", "seat", "skateboard",
        "roller_skate", "parachute", "building_construction", "bricks", "rock", "wood", "hotsprings", "barber",
        "playground_slide", "fountain", "carousel_horse", "feet", "feather", "wing", "spider_web", "shell",
        "microbe", "pig_nose", "low_brightness", "high_brightness", "vibration_mode",
    }
)  # fmt: skip
_SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
_SELF_EFFACING = _SKIN_TONES | {"FE0F", "200D", "2640", "2642", "27A1"}  # tone, joiners, sex, direction
_PERSON = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3"}
# Single codes that are the same emoji for another sex, or mirrored.
_SAME = (
    "prince princess person_with_crown", "santa mrs_claus mx_claus", "dancer man_dancing",
    "point_left point_right", "point_up_2 point_down", "left-facing_fist right-facing_fist",
    "rightwards_hand leftwards_hand", "leftwards_pushing_hand rightwards_pushing_hand", "+1 -1",
    "pregnant_woman pregnant_man pregnant_person",
    "breast-feeding woman_feeding_baby man_feeding_baby person_feeding_baby",
    "couplekiss woman-kiss-man man-kiss-man woman-kiss-woman",
    "couple_with_heart woman-heart-man man-heart-man woman-heart-woman",
)  # fmt: skip
_NEAR = 10.0  # root mean square difference (of 255) at 16 x 16 below which two pictures are one emoji's variants


def _run_npm(folder: Path) -> Path:
    """The tarball, fetched by `npm pack` into `folder`."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "npm is not installed, and the demo's pictures come through it; install it with "
            "`apt-get install npm` (Debian, Ubuntu), `brew install node` (macOS) or `conda install nodejs`"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder), "--silent"]
    log.info("fetching %s@%s (74 MB)", PACKAGE, VERSION)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise RuntimeError(f"`npm {' '.join(command[1:])}` failed: {said}")
    found = list(folder.glob("*.tgz"))
    if len(found) != 1:
        raise RuntimeError(f"npm pack reported success but left {len(found)} tarballs; expected 1")
    return found[0]


def check_integrity(data: bytes, expected: str = INTEGRITY) -> None:
    """Compares a tarball with its npm integrity string ("sha512-" + base64 of the digest).

    Raises:
        ValueError: they differ.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != expected:
        raise ValueError(f"the tarball's integrity is {found}; expected {expected} ({PACKAGE}@{VERSION})")


def fetch() -> bytes:
    """The pinned package's tarball, checked.

    Raises:
        RuntimeError: npm is missing or failed.
        ValueError: the tarball is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = _run_npm(Path(folder)).read_bytes()
    check_integrity(data)
    return data


def read_package(tarball: bytes) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.uint8]]]:
    """emoji.json's entries, and the Google pictures by file name: (64, 64, 3) uint8 over white."""
    pictures: dict[str, NDArray[np.uint8]] = {}
    entries: list[dict[str, Any]] = []
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            picture = name.startswith(f"img/google/{SIZE}/") and name.endswith(".png")
            file = tar.extractfile(member) if picture or name == "emoji.json" else None
            if file is None:
                continue
            if picture:
                pictures[name.rsplit("/", 1)[-1]] = _over_white(file.read())
            else:
                entries = json.load(file)
    if not entries or not pictures:
        raise ValueError(f"the tarball holds {len(entries)} emoji and {len(pictures)} pictures; expected both")
    return entries, pictures


def _over_white(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        rgba = image.convert("RGBA")
    if rgba.size != (SIZE, SIZE):
        raise ValueError(f"a picture is {rgba.size}; expected {(SIZE, SIZE)}")
    canvas = Image.new("RGBA", rgba.size, "white")
    canvas.alpha_composite(rgba)
    return np.asarray(canvas.convert("RGB"))


def variant_key(entry: Mapping[str, Any]) -> str:
    """What an emoji's variants (skin tone, sex, direction, mirrored) have in common."""
    for i, names in enumerate(_SAME):
        if entry["short_name"] in names.split():
            return f"same-{i}"
    kept = [part for part in entry["unified"].split("-") if part not in _SELF_EFFACING]
    if kept == ["1F9D1", "1F384"]:  # the third of Santa's sexes is spelled with a tree
        return next(f"same-{i}" for i, names in enumerate(_SAME) if "santa" in names)
    return "-".join(_PERSON.get(part, part) for part in kept) or entry["unified"]


def class_of(entry: Mapping[str, Any]) -> int:
    """Index into CLASSES, or UNCLASSED."""
    if entry["short_name"] in _OUTLIERS:
        return UNCLASSED
    for i, subcategories in enumerate(CLASSES.values()):
        if entry["subcategory"] in subcategories:
            return i
    return UNCLASSED


def merge_near(images: NDArray[np.uint8], groups: Sequence[str]) -> NDArray[np.int64]:
    """Group ids (N,) after joining groups that hold all but equal pictures, so that no twin crosses the split."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    own = np.array([names[group] for group in groups])
    step = images.shape[1] // 16
    small = images.reshape(len(images), 16, step, 16, step, 3).mean((2, 4), dtype=np.float32).reshape(len(images), -1)
    square = (small**2).sum(1)
    for i in range(len(small)):
        distance = square[i] + square[i + 1 :] - 2 * small[i + 1 :] @ small[i]
        for j in np.flatnonzero(distance < _NEAR**2 * small.shape[1]) + i + 1:
            parent[root(own[i])] = root(own[j])
    return np.array([root(i) for i in own], dtype=np.int64)


def hold_out(labels: NDArray[np.int64], groups: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) True for the held-out tenth of every class's groups, chosen by the hash of a group's first name."""
    first: dict[int, str] = {}
    members: dict[int, Counter[int]] = defaultdict(Counter)
    for label, group, name in zip(labels.tolist(), groups.tolist(), names, strict=True):
        first[group] = min(name, first.get(group, name))
        members[group][label] += 1
    by_class: dict[int, list[int]] = defaultdict(list)
    for group, counts in members.items():
        by_class[counts.most_common(1)[0][0]].append(group)
    chosen: list[int] = []
    for its in by_class.values():
        its.sort(key=lambda group: hashlib.sha256(first[group].encode()).digest())
        chosen += its[: -(-len(its) // HELD_OUT_SHARE)]
    return np.isin(groups, chosen)


def build(tarball: bytes) -> dict[str, NDArray[Any]]:
    """The data set from the package's tarball.

    Returns:
        images uint8 (N, 64, 64, 3); labels int64 (N,), UNCLASSED for those that train the tokenizer only;
        groups int64 (N,), equal for variants of one emoji; weights float32 (N,), one shared by each group;
        held_out bool (N,); flippable bool (N,); names (N,) text; class_names (10,) text.
    """
    entries, pictures = read_package(tarball)
    images, labels, keys, names = [], [], [], []
    for entry in sorted(entries, key=lambda e: int(e["sort_order"])):
        variants = [("", entry), *entry.get("skin_variations", {}).items()]
        for tone, variant in variants:
            if variant.get("has_img_google") and variant["image"] in pictures:
                images.append(pictures[variant["image"]])
                labels.append(class_of(entry))
                keys.append(variant_key(entry))
                names.append(f"{entry['short_name']}/{tone}".rstrip("/"))
    image_array, label_array = np.stack(images), np.array(labels, dtype=np.int64)
    groups = merge_near(image_array, keys)
    count = np.bincount(groups, minlength=len(groups))
    class_names = list(CLASSES)
    unflippable = [class_names.index(name) for name in UNFLIPPABLE]
    return {
        "images": image_array,
        "labels": label_array,
        "groups": groups,
        "weights": (1.0 / count[groups]).astype(np.float32),
        "held_out": hold_out(label_array, groups, names),
        "flippable": ~np.isin(label_array, unflippable),
        "names": np.array(names),
        "class_names": np.array(class_names),
    }


def summary(data: Mapping[str, NDArray[Any]]) -> str:
    """Pictures and groups of variants by class, training and held out."""
    lines = []
    for i, name in [*enumerate(data["class_names"]), (UNCLASSED, "(no class)")]:
        parts = []
        for held in (False, True):
            rows = (data["labels"] == i) & (data["held_out"] == held)
            parts.append(f"{rows.sum():5d} pictures in {len(np.unique(data['groups'][rows])):4d} groups")
        lines.append(f"{name:11s} train {parts[0]}, held out {parts[1]}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetches the package and writes the data set."""
    parser = argparse.ArgumentParser(prog="python -m aim_edge.aim.demo_data", description="fetch the demo's data")
    parser.add_argument("out", type=Path, help="the .npz to write")
    parser.add_argument("--tarball", type=Path, help="an already fetched package tarball")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.tarball is None:
        tarball = fetch()
    else:
        tarball = options.tarball.read_bytes()
        check_integrity(tarball)
    data: dict[str, Any] = {**build(tarball)}
    np.savez_compressed(options.out, **data)
    log.info("%s\nwrote %s, %.1f MB", summary(data), options.out, options.out.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
