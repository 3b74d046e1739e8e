"""Verdicts on two sets of images, and the command that gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from aim_edge.export.quality import Settings, compare_sets, measure_pairs
from aim_edge.export.quality_features import VqFeatures

Images = NDArray[np.uint8]
Run = Callable[..., tuple[int, str, str]]
FAST = ("--resamples", "40")


def pictures(count: int, seed: int) -> Images:
    """(count, 64, 64, 3) discs of random colour, place and size on a paper of random colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    made = np.empty((count, 64, 64, 3), np.uint8)
    for i in range(count):
        place, size = rng.integers(12, 52, 2), rng.integers(5, 20)
        inside = (y - place[0]) ** 2 + (x - place[1]) ** 2 <= size**2
        made[i] = np.where(inside[..., None], rng.integers(0, 256, 3), rng.integers(128, 256, 3))
    return made


def save(folder: Path, images: Images, prefix: str = "") -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{prefix}{i:04d}.png", compress_level=1)
    return folder


def blurred(images: Images, radius: float = 4) -> Images:
    return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(radius))) for i in images])


def noisy(images: Images, strength: int) -> Images:
    noise = np.random.default_rng(5).integers(-strength, strength + 1, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b: two halves of one set; soft and rough: a, blurred and with noise; real: more of them."""
    root = tmp_path_factory.mktemp("quality")
    halves = pictures(240, 0)
    save(root / "a", halves[:120], "a")
    save(root / "b", halves[120:], "b")
    save(root / "soft", blurred(halves[:120]), "a")
    save(root / "rough", noisy(halves[:120], 40))
    save(root / "real", pictures(150, 1))
    return root


@pytest.fixture
def quality(run: Run) -> Run:
    """Runs `aim-edge quality`, with few resamples."""
    return lambda *arguments: run("quality", *arguments, *FAST)


def test_two_halves_of_one_set_are_the_same(folders: Path, tmp_path: Path, quality: Run) -> None:
    status, out, err = quality(folders / "a", folders / "b", "--json", tmp_path / "report.json")
    assert status == 0 and "B against A: same" in out and "vq-frechet" in out
    assert "below 500 a Frechet distance is biased" in err and "no FID or KID" in err
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["verdict"] == "same" and found["n"] == 120 and found["paired"] is None
    assert {row["name"] for row in found["rows"]} == {f"vq-{n}" for n in (
        "frechet", "kernel", "precision", "recall", "class-score")}  # fmt: skip
    quality(folders / "a", folders / "b", "--json", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == found


def test_blurred_copies_are_worse_and_their_originals_better(folders: Path, tmp_path: Path, quality: Run) -> None:
    report = tmp_path / "report.json"
    status, out, _ = quality(folders / "a", folders / "soft", "--reference", folders / "real", "--json", report)
    assert status == 1 and "B against A: worse" in out and "120 pairs: 0 identical" in out
    found = json.loads(report.read_text())
    assert found["reference_n"] == 150 and found["paired"]["pairs"] == 120
    assert 0 < found["paired"]["feature_ratio"] < 0.9
    status, out, _ = quality(folders / "soft", folders / "a", "--reference", folders / "real")
    assert status == 0 and "B against A: better" in out


def test_without_a_reference_noisy_images_are_different_not_worse(folders: Path, quality: Run) -> None:
    status, out, _ = quality(folders / "b", folders / "rough")
    assert status == 1 and "B against A: different" in out


def test_noise_that_nobody_sees_is_the_same_and_strong_noise_is_worse(folders: Path) -> None:
    extract = VqFeatures()
    images = pictures(120, 0)
    a, real = extract(images).values, extract(pictures(150, 1)).values
    for strength, verdict in ((1, "same"), (40, "worse")):
        changed = noisy(images, strength)
        b = extract(changed).values
        pairs = measure_pairs(images, changed, a, b)
        found = [
            compare_sets(a, b, real, paired=pairs, settings=Settings(resamples=40, seed=seed)) for seed in (0, 1)
        ]
        assert [one.verdict for one in found] == [verdict] * 2, found
        assert found[0].rows != found[1].rows  # the resampling follows the seed


def test_few_images_tell_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4))
    found = compare_sets(rows, rows + 9, settings=Settings(resamples=40))
    assert found.verdict == "can't tell" and "30 images" in found.reason
    assert found.rows[0].verdict == "different"


def test_a_difference_that_holds_zero_and_is_wide_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(120, 4)) for _ in range(3)]
    found = compare_sets(sets[0], sets[1], sets[2] + 1, settings=Settings(resamples=60, tolerance=0))
    assert found.verdict == "can't tell" and "more images narrow it" in found.reason


def test_the_same_image_twice_is_the_same() -> None:
    rows, images = np.random.default_rng(0).normal(size=(120, 4)), np.zeros((120, 2, 2, 3), np.uint8)
    pairs = measure_pairs(images, images, rows, rows)
    assert (pairs.pairs, pairs.identical, pairs.feature_ratio) == (120, 120, 0)
    for reference in (rows + 1, None):
        found = compare_sets(rows, rows, reference, paired=pairs, settings=Settings(resamples=40, tolerance=0))
        assert found.verdict == "same"


def test_random_features_are_called_different_about_as_rarely_as_the_level_says() -> None:
    rng, different = np.random.default_rng(0), 0
    for _ in range(60):
        a, b = rng.normal(size=(2, 100, 3))
        different += compare_sets(a, b, settings=Settings(resamples=40)).verdict == "different"
    assert different <= 9  # 5%: 3 are expected; more than 9 come once in a thousand times


def test_bundles_draw_pairs(bundle: Path, tmp_path: Path, quality: Run) -> None:
    report = tmp_path / "report.json"
    status, out, _ = quality(bundle, bundle, "--count", 6, "--json", report)
    assert status == 2 and "6 pairs: 6 identical" in out and "can't tell" in out
    found = json.loads(report.read_text())
    assert found["paired"]["feature_ratio"] == 0 and found["sources"]["B"].endswith("on ort-cpu")


def test_a_folder_sets_how_many_a_bundle_draws_and_its_grid_is_left_out(
    bundle: Path, tmp_path: Path, quality: Run
) -> None:
    folder = save(tmp_path / "some", pictures(5, 3))
    Image.new("RGB", (200, 90)).save(folder / "grid.png")
    status, out, _ = quality(folder, bundle)
    assert status == 2 and "A: 5 of 5 images" in out and "B: 5 of 5 images" in out and "pairs" not in out


def test_bundles_of_other_sizes_are_refused(bundle: Path, tiny: Path, tmp_path: Path, quality: Run, run: Run) -> None:
    assert run("export", tiny, tmp_path / "tiny")[0] == 0
    status, _, err = quality(bundle, tmp_path / "tiny", "--count", 4)
    said = " ".join(err.split())
    assert status == 2 and "10 and 3 classes, 512 and 64 codes in their vocabularies" in said, said
    assert "pixels an image" in said


def test_bad_input_is_told(folders: Path, tmp_path: Path, quality: Run) -> None:
    one = save(tmp_path / "one", pictures(1, 0))
    empty = save(tmp_path / "empty", pictures(0, 0))
    uneven = save(tmp_path / "uneven", pictures(4, 0))
    Image.new("RGB", (32, 48)).save(uneven / "z.png")
    small = save(tmp_path / "small", pictures(5, 0)[:, :32, :32])
    broken = save(tmp_path / "broken", pictures(4, 0))
    (broken / "z.png").write_text("no image")
    cut = save(tmp_path / "cut", pictures(4, 0))
    (cut / "y.png").write_bytes((folders / "rough" / "0000.png").read_bytes()[:3000])  # its header is whole
    a = folders / "a"
    for arguments, said in (
        ((a, tmp_path / "nowhere"), "nowhere is no folder"),
        ((a / "a0000.png", a), "a0000.png is no folder"),
        ((empty, a), "empty holds 0 PNG images"),
        ((a, one), "one holds 1 PNG images"),
        ((a, uneven), "z.png is 32 x 48 pixels; expected one size"),
        ((a, small), "of (height, width) (64, 64)"),
        ((a, broken), "z.png is no readable image"),
        ((a, cut), "y.png is no readable image"),
        ((a, a, "--count", 500), "holds 120 PNG images; --count is 500"),
        ((a, a, "--count", 5000), "allowed: 2..3000"),
        ((a, a, "--features", "fid"), "allowed: vq, inception"),
        ((a, a, "--tolerance", 1.5), "tolerance is 1.5"),
        ((a, a, "--inception", one), "give that too"),
        ((a, a, "--json", tmp_path / "no" / "r.json"), "there is no folder"),
    ):
        status, _, err = quality(*arguments)
        assert status == 2 and said in " ".join(err.split()), (arguments, err)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"resamples": 3}, "resamples is 3"), ({"seed": -1}, "seed is -1"), ({"statistics": ("fid",)}, "allowed: one or")],
)
def test_bad_settings_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**wrong)  # type: ignore[arg-type]
