"""Philox4x32-10: the counter-based generator that every backend draws with, to the same bits.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11), and the Random123 library,
whose known-answer vectors the tests hold.

One uniform number belongs to one (seed, image index, step), whatever batch the image is part of:

    key     = (seed's low 32 bits, seed's high 32 bits)
    counter = (step, image index's low 32 bits, image index's high 32 bits, stream), stream being 0
    w0..w3  = Philox4x32-10(counter, key)
    u       = ((w0 >> 5) * 2^26 + (w1 >> 6)) / 2^53        in [0, 1), a float64 without rounding
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32.

    Args:
        counter: (4, n) uint32, a counter a column.
        key: two integers in [0, 2^32).

    Returns:
        (4, n) uint32, four random words a column.
    """
    # 64-bit words throughout: a product's halves and the xors need no casts between the rounds.
    words = counter.astype(np.uint64)
    even, odd = words[0::2], words[1::2]
    k0, k1 = key
    for _ in range(ROUNDS):
        product = even * _MULTIPLIERS
        low, high = product & _MASK, product >> _HALF
        round_key = np.array([[k0], [k1]], dtype=np.uint64)
        even, odd = high[::-1] ^ odd ^ round_key, low[::-1]
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([even[0], odd[0], even[1], odd[1]]).astype(np.uint32)


def uniform(seed: int, image_index: NDArray[np.uint64], step: int, stream: int = 0) -> NDArray[np.float64]:
    """The uniform number of each image at one step.

    Args:
        seed: in [0, 2^64).
        image_index: (B) uint64.
        step: index of the code to draw, in [0, 2^32).
        stream: in [0, 2^32); 0 draws the codes.

    Returns:
        (B) float64 in [0, 1).

    Raises:
        ValueError: seed, step or stream is out of range.
    """
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("stream", stream, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} is {value}; allowed: 0..2^{bits}-1")
    counter = np.empty((4, len(image_index)), dtype=np.uint32)
    counter[0] = step
    counter[1] = image_index & _MASK
    counter[2] = image_index >> _HALF
    counter[3] = stream
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    high, low = (words[0] >> 5).astype(np.float64), (words[1] >> 6).astype(np.float64)
    result: NDArray[np.float64] = (high * 2.0**26 + low) / 2.0**53
    return result
