"""Decoded images compared: PSNR and SSIM."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from aim_edge.runtime.images import Image8


def psnr(reference: Image8, image: Image8) -> float:
    """Peak signal-to-noise ratio in dB over all pixels, peak 255; 126 dB where nothing differs."""
    difference = (image.astype(np.float64) - reference) / 127.5
    return float(10 * np.log10(4 / max(float(np.mean(np.square(difference))), 1e-12)))


def ssim(reference: Image8, image: Image8) -> float:
    """Mean structural similarity of images (B, H, W, C): 1 where nothing differs.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to structural
    similarity", eq. 13, with their Gaussian window (11 x 11, sigma 1.5), K1 = 0.01, K2 = 0.03 and L = 255, a channel
    at a time, inside the border. Images below 11 pixels get the largest odd window that fits.
    """
    x, y = (array.astype(np.float64).transpose(0, 3, 1, 2) for array in (reference, image))
    side = min(x.shape[-2:])
    size = min(11, side - 1 + side % 2)
    window = np.exp(-0.5 * ((np.arange(size) - size // 2) / 1.5) ** 2)
    window /= window.sum()

    def mean(a: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = sliding_window_view(a, size, axis=-2) @ window
        result: NDArray[np.float64] = sliding_window_view(rows, size, axis=-1) @ window
        return result

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))
