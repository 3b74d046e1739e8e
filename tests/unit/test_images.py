"""Arrays to and from image files, and the labelled grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aim_edge.runtime import NonFiniteError
from aim_edge.runtime.images import from_uint8, grid, load_image, read_pixels, save_png, to_uint8


def test_every_byte_survives_the_trip_through_float() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    planes = from_uint8(image)
    assert planes.shape == (1, 3, 16, 16) and planes.min() == -1 and planes.max() == 1
    np.testing.assert_array_equal(to_uint8(planes), image)


def test_values_outside_are_clipped_and_non_finite_ones_refused() -> None:
    values = np.array([-7, -1, 0, 1, 9], np.float32).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(to_uint8(values).ravel(), [0, 0, 128, 255, 255])
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFiniteError):
            to_uint8(np.full((1, 3, 2, 2), bad, np.float32))


def test_png_round_trip_leaves_no_partial_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    save_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 8, 12), image)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), image)
    with pytest.raises((TypeError, ValueError)):
        save_png(tmp_path / "b.png", np.zeros((2, 2, 7), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_load_crops_about_the_centre_and_lays_alpha_over_white(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 4), np.uint8)
    wide[:, 5:25] = (255, 0, 0, 255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = load_image(tmp_path / "wide.png", 5, 5)
    assert found.shape == (5, 5, 3)
    np.testing.assert_array_equal(found[2, 2], [255, 0, 0])
    np.testing.assert_array_equal(load_image(tmp_path / "wide.png", 10, 30)[0, 0], [255, 255, 255])


def test_grid_places_enlarged_images_and_a_label_a_row() -> None:
    images = np.stack([np.full((64, 64, 3), 20 * i, np.uint8) for i in range(6)])
    plain = grid(images, 2, 3)
    assert plain.shape == (4 + 2 * 132, 4 + 3 * 132, 3)
    for i in range(6):
        row, col = divmod(i, 3)
        assert (plain[4 + row * 132 :, 4 + col * 132 :][:128, :128] == 20 * i).all()
    labelled = grid(images, 2, 3, ["cat", "smiling face"])
    left = labelled.shape[1] - plain.shape[1]
    assert left > 60
    for row in range(2):
        assert labelled[4 + row * 132 : 132 + row * 132, :left].min() < 100  # ink beside each row


def test_grid_counts_images_and_labels() -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="2 x 2"):
        grid(images, 2, 2)
    with pytest.raises(ValueError, match="labels has 1 entries"):
        grid(images, 2, 3, ["one"])
