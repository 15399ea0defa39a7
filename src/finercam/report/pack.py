"""Maps as text in a page: integers of 8 or 16 bits in base64, with a scale for each map."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

__all__ = ["pack", "packed_length", "unpack"]


def pack(maps: np.ndarray, bits: int = 16) -> dict[str, Any]:
    """Maps `(M, h, w)` as integers: each map is divided by its scale and rounded, an error of at most half a scale.

    The scale is the largest magnitude divided by `2^(bits-1) - 1`, so that zero and the sign are preserved.

    >>> packed = pack(np.array([[[0.0, 1.0, -2.0]]]), bits=8)
    >>> packed["shape"], unpack(packed).round(2).tolist()
    ([1, 3], [[[0.0, 1.01, -2.0]]])
    """
    maps = np.asarray(maps, dtype=np.float64)
    largest = np.abs(maps).max(axis=(1, 2), initial=0.0)
    scales = largest / (2 ** (bits - 1) - 1)
    divisors = np.where(scales == 0, 1.0, scales)
    whole = np.rint(maps / divisors[:, None, None]).astype(f"<i{bits // 8}")
    return {
        "shape": list(maps.shape[1:]),
        "bits": bits,
        "scales": [float(f"{scale:.9g}") for scale in scales],
        "data": base64.b64encode(whole.tobytes()).decode("ascii"),
    }


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The maps `(M, h, w)` in the output of `pack`, as a page reads them."""
    whole = np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<i{packed['bits'] // 8}")
    scales = np.array(packed["scales"])
    return whole.reshape(len(scales), *packed["shape"]) * scales[:, None, None]


def packed_length(count: int, shape: tuple[int, int], bits: int) -> int:
    """The approximate number of characters of `count` maps of a shape, including their scales."""
    return count * shape[0] * shape[1] * (bits // 8) * 4 // 3 + 16 * count + 80
