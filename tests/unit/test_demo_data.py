"""The demo's data set: classes, variants, the split and the fetching, without a network."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aim_edge.aim import demo_data


def _entry(unified: str, short_name: str, subcategory: str, order: int, tones: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "unified": unified, "short_name": short_name, "subcategory": subcategory, "sort_order": order,
        "image": f"{unified.lower()}.png", "has_img_google": True,
    }  # fmt: skip
    names = ["1F3FB", "1F3FC", "1F3FD"][:tones]
    if names:
        entry["skin_variations"] = {
            tone: {"image": f"{unified}-{tone}.png".lower(), "has_img_google": True} for tone in names
        }
    return entry


def _tarball(entries: list[dict[str, Any]]) -> bytes:
    rng = np.random.default_rng(0)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo("package/" + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        add("emoji.json", json.dumps(entries).encode())
        for entry in entries:
            for item in (entry, *entry.get("skin_variations", {}).values()):
                png = io.BytesIO()
                pixels = np.zeros((64, 64, 4), np.uint8)
                pixels[16:48, 16:48] = (*rng.integers(0, 255, 3), 255)
                pixels[:4, :4, 3] = 0
                Image.fromarray(pixels).save(png, "PNG")
                add(f"img/google/64/{item['image']}", png.getvalue())
    return raw.getvalue()


ENTRIES = [_entry(f"1F6{i:02X}", f"car{i}", "transport-ground", i) for i in range(20)] + [
    _entry("1F468-200D-1F33E", "male-farmer", "person-role", 30, tones=3),
    _entry("1F469-200D-1F33E", "female-farmer", "person-role", 31, tones=3),
    _entry("1F33E", "ear_of_rice", "plant-other", 32),
    _entry("1F6DE", "wheel", "transport-ground", 33),
    _entry("1F1EB-1F1F7", "fr", "country-flag", 34),
]


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return demo_data.build(_tarball(ENTRIES))


def test_fields(data: dict[str, np.ndarray]) -> None:
    count = len(ENTRIES) + 6
    assert data["images"].shape == (count, 64, 64, 3)
    assert data["images"].dtype == np.uint8
    assert tuple(data["images"][0, 0, 0]) == (255, 255, 255)  # transparent becomes white
    assert list(data["class_names"]) == list(demo_data.CLASSES)
    assert len(demo_data.CLASSES) == 10


def test_classes(data: dict[str, np.ndarray]) -> None:
    label = dict(zip(data["names"].tolist(), data["labels"].tolist(), strict=True))
    names = list(demo_data.CLASSES)
    assert names[label["car0"]] == "vehicles"
    assert names[label["male-farmer/1F3FB"]] == "people"
    assert label["wheel"] == demo_data.UNCLASSED
    flippable = dict(zip(data["names"].tolist(), data["flippable"].tolist(), strict=True))
    assert flippable["car0"]
    assert not flippable["fr"]


def test_variants_share_a_group_a_weight_and_a_side(data: dict[str, np.ndarray]) -> None:
    farmers = np.char.find(data["names"].astype(str), "farmer") >= 0
    assert farmers.sum() == 8
    assert len(np.unique(data["groups"][farmers])) == 1
    assert data["groups"][data["names"] == "ear_of_rice"] not in data["groups"][farmers]
    assert data["weights"][farmers].sum() == pytest.approx(1.0)
    assert len(np.unique(data["held_out"][farmers])) == 1
    for group in np.unique(data["groups"]):
        assert len(np.unique(data["held_out"][data["groups"] == group])) == 1


def test_a_tenth_of_every_class_is_held_out_and_always_the_same(data: dict[str, np.ndarray]) -> None:
    cars = data["labels"] == list(demo_data.CLASSES).index("vehicles")
    assert (cars & data["held_out"]).sum() == 2
    again = demo_data.build(_tarball(ENTRIES))
    assert np.array_equal(again["held_out"], data["held_out"])


def test_variant_keys() -> None:
    def key(unified: str, name: str = "x") -> str:
        return demo_data.variant_key({"unified": unified, "short_name": name})

    assert key("1F3C3-200D-2640-FE0F-200D-27A1-FE0F") == key("1F3C3")
    assert key("1F469-200D-1F4BB") == key("1F9D1-200D-1F4BB") != key("1F4BB")
    assert key("1F385", "santa") == key("1F936", "mrs_claus") == key("1F9D1-200D-1F384", "mx_claus")
    assert key("1F3FB", "skin-tone-2") == "1F3FB"


def test_near_twins_are_joined() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    images[2] = 255 - images[2] // 4
    images[1] = np.clip(images[0].astype(int) + 3, 0, 255)
    groups = demo_data.merge_near(images, ["a", "b", "c"])
    assert groups[0] == groups[1] != groups[2]


def test_another_tarball_is_refused() -> None:
    with pytest.raises(ValueError, match=r"integrity is sha512-.*expected sha512-ZRexfz"):
        demo_data.check_integrity(b"something else")


def test_a_tarball_without_pictures() -> None:
    with pytest.raises(ValueError, match="1 emoji and 0 pictures"):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            text = json.dumps([{}]).encode()
            info = tarfile.TarInfo("package/emoji.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        demo_data.read_package(raw.getvalue())


def test_missing_npm_names_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match="apt-get install npm"):
        demo_data.fetch()


def test_failing_npm_says_what_it_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "npm"
    fake.write_text("#!/bin/sh\necho no such registry >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(fake))
    with pytest.raises(RuntimeError, match="no such registry"):
        demo_data.fetch()
