"""The command line: marks in images, `verify`, and usage policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aim_edge.export import export_bundle
from aim_edge.runtime.bundle import read_manifest
from aim_edge.runtime.images import save_png
from aim_edge.runtime.provenance import Provenance

Run = Callable[..., tuple[int, str, str]]


def test_generate_marks_every_image_and_verify_finds_it(bundle: Path, tmp_path: Path, run: Run) -> None:
    top = tmp_path / "top.png"
    Image.new("RGB", (64, 64), (250, 10, 10)).save(top)
    out = tmp_path / "out"
    drawn = ("generate", bundle, "-c", 4, "--count", 2, "--out", out, "--first-index", 7, "--temperature", 0.7)
    assert run(*drawn, "--prefix-image", top, "--prefix-rows", 12, "--preview-every", 32)[0] == 0
    single = [out / "food_00007_0.png", out / "food_00008_0.png"]
    several = [out / "grid.png", out / "previews" / "00007_0224.png"]
    status, said, _ = run("verify", *single, *several, "--bundle", bundle)
    assert status == 0 and said.count(": ok: text and XMP agree") == 4 and said.count("digest matches") == 4
    for text in ("compositeWithTrainedAlgorithmicMedia", "food", "0.7", "AI-generated image: several"):
        assert text in said
    status, said, _ = run("verify", *single, "--bundle", bundle, "--redraw")
    assert status == 0 and said.count("drawn anew on ort-cpu, the pixels are the same") == 2
    status, said, _ = run("verify", several[0], "--bundle", bundle, "--redraw")
    assert status == 1 and "NOT redrawn" in said


def test_generate_without_provenance_says_so(bundle: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("generate", bundle, "-c", 0, "--count", 1, "--no-provenance", "--out", tmp_path)
    assert status == 0 and "the images are unmarked" in err
    for name in ("faces_00000_0.png", "grid.png"):
        status, said, _ = run("verify", tmp_path / name)
        assert status == 1 and "FAILED: no marks of aim-edge were found" in said


def test_verify_fails_what_was_altered(bundle: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    assert run("generate", bundle, "-c", 0, "--count", 1, "--out", tmp_path)[0] == 0
    image = tmp_path / "faces_00000_0.png"
    found = Provenance.read(image)
    assert found is not None
    pixels = np.asarray(Image.open(image)).copy()
    assert run("verify", image, "--bundle", export_bundle(tiny, tmp_path / "other"))[0] == 1
    # Marks that fit each other and the pixels: only the bundle, or drawing it anew, tells.
    for change, problem in (
        ({"seed": 5}, "pixels differ, by up to"),
        ({"image_index": 2**70}, "cannot be drawn anew"),
        ({"class_id": 77}, "class_id is 77; the bundle has 0..9"),
        ({"class_name": "\x1b[31mpeople"}, "not what the bundle says: class"),
        ({"licence": "MIT"}, "not what the bundle says: licence"),
        ({"bundle": "0" * 64}, "another bundle drew it"),
        ({}, "have shape (64, 64, 3); the file's have (32, 64, 3)"),
    ):
        save_png(image, pixels if change else pixels[:32], replace(found, **change))
        assert run("verify", image)[0] == 0
        status, said, _ = run("verify", image, "--bundle", bundle, "--redraw")
        assert status == 1 and problem in said and "\x1b" not in said
    save_png(image, pixels, found)
    pixels[0, 0] ^= 1
    info = found.to_png_info()
    info.add_text("Title", ":cat:\x1b[31m")
    Image.fromarray(pixels).save(image, pnginfo=info)
    status, said, _ = run("verify", image)
    assert status == 1 and "the pixels were altered" in said and "not as aim-edge writes them: Title" in said
    assert ":cat:\\u001b" in said and "\x1b" not in said


def test_verify_refuses(bundle: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "text.png").write_text("no image")
    save_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    for arguments, message in (
        (["nowhere.png"], "nowhere.png"),
        ([tmp_path / "text.png"], "text.png"),
        ([tmp_path / "a.png", "--redraw"], "give --bundle too"),
        ([tmp_path / "a.png", "--bundle", tmp_path], "manifest.json"),
        ([tmp_path / "a.png", "--bundle", bundle, "--redraw", "--backend", "abacus"], "backend is 'abacus'"),
    ):
        status, _, err = run("verify", *arguments)
        assert status == 2 and message in err and "Traceback" not in err


def test_a_policy_is_exported_enforced_and_recorded(tiny: Path, tmp_path: Path, run: Run) -> None:
    policy, path, out = tmp_path / "rules.json", tmp_path / "b", tmp_path / "out"
    values = {"denied_classes": ["b"], "notice": "for tests", "licence": "MIT", "require_provenance": True}
    policy.write_text(json.dumps(values))
    assert run("export", tiny, path, "--policy", policy)[0] == 0
    assert json.loads((path / "policy.json").read_text()) == values
    assert export_bundle(tiny, tmp_path / "c", policy=values).joinpath("policy.json").read_bytes() == (
        path / "policy.json"
    ).read_bytes()
    assert "policy.json" in read_manifest(path).files
    assert "policy.json" not in read_manifest(export_bundle(tiny, tmp_path / "free")).files
    status, _, err = run("generate", path, "-c", "all", "--out", out)
    assert status == 2 and "class 1 (b) is denied by the usage policy" in err
    status, _, err = run("generate", path, "-c", "a", "--no-provenance", "--out", out)
    assert status == 2 and "its usage policy requires provenance" in err
    assert not out.exists()
    assert run("generate", path, "-c", "a", "--count", 1, "--out", out)[0] == 0
    found = Provenance.read(out / "a_00000_0.png")
    assert found is not None and (found.notice, found.licence) == ("for tests", "MIT")
    assert found.policy == read_manifest(path).files["policy.json"].sha256
    assert run("verify", out / "a_00000_0.png", "--bundle", path, "--redraw")[0] == 0


@pytest.mark.parametrize("text", ['{"denied_classes": ["dragons"]}', '{"deny": []}', "no JSON", None])
def test_export_refuses_a_bad_policy(text: str | None, tiny: Path, tmp_path: Path, run: Run) -> None:
    policy = tmp_path / "rules.json"
    if text is not None:
        policy.write_text(text)
    status, _, err = run("export", tiny, tmp_path / "b", "--policy", policy)
    assert status == 2 and ("policy: " in err or "rules.json" in err) and "Traceback" not in err
    assert not (tmp_path / "b").exists()
