"""aim_image_to_uint8 makes the pixels that runtime.images makes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.abi import ImageParams
from kernels.harness import Device
from numpy.typing import NDArray

from aim_edge.runtime.images import to_uint8

SHAPES = [(1, 3, 16, 16), (2, 3, 17, 31), (3, 1, 5, 7), (1, 4, 1, 1), (5, 2, 33, 8), (1, 3, 256, 256)]


def convert(device: Device, images: NDArray[np.float32]) -> tuple[NDArray[np.uint8], list[int]]:
    """The pixels, and for each image what its status, 7 before, is now."""
    batch, channels, height, width = images.shape
    held = device.plain(images.shape, np.float32)
    held.fill(images)
    pixels = device.plain((batch, height, width, channels), np.uint8)
    status = device.plain((batch,), np.int32)
    status.fill(np.full(batch, 7, np.int32))
    params = ImageParams(
        batch=batch, channels=channels, height=height, width=width, image=held.pointer, pixels=pixels.pointer,
        status=status.pointer,
    )  # fmt: skip
    device.run("image_to_uint8", params)
    return pixels.read(), status.read().tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_makes_the_pixels_of_the_host(device: Device, shape: tuple[int, ...]) -> None:
    # Beyond -1 and 1 as well: a decoder overshoots.
    images = np.random.default_rng(shape[-1]).uniform(-1.3, 1.3, shape).astype(np.float32)
    pixels, status = convert(device, images)
    np.testing.assert_array_equal(pixels, to_uint8(images))
    assert status == [7] * len(images)


def test_rounds_as_the_host_does(device: Device) -> None:
    """Every value between two pixels, its neighbours in float32, the ends, both zeros and what is far outside."""
    halves = ((np.arange(255) + 0.5) / 127.5 - 1).astype(np.float32)
    near, neighbour = [halves], halves
    for direction in (np.float32(-2), np.float32(2)):
        neighbour = halves
        for _ in range(4):
            neighbour = np.nextafter(neighbour, direction)
            near.append(neighbour)
    ends = np.array([-1, 1, 0, -0.0, 1e-38, -1e-45, 1.0000001, 3e38, -3e38], np.float32)
    images = np.concatenate([*near, ends]).reshape(1, 1, 1, -1)
    np.testing.assert_array_equal(convert(device, images)[0], to_uint8(images))


def test_what_is_not_finite_is_clipped_and_told(device: Device) -> None:
    images = np.zeros((5, 1, 2, 2), np.float32)
    images[1, 0, 1] = [np.nan, -np.nan]
    images[3, 0, 0] = [np.inf, 0.0]
    images[4, 0, 0] = [0.0, -np.inf]
    pixels, status = convert(device, images)
    grey, nan = [128] * 4, [128, 128, 0, 0]
    assert pixels.reshape(5, 4).tolist() == [grey, nan, grey, [255, 128, 128, 128], [128, 0, 128, 128]]
    assert status == [7, 1, 7, 1, 1]
