"""The canvas that a picture is painted on, and the local coordinate frames of its parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, cos, floor, hypot, sin

import numpy as np

__all__ = ["Canvas", "Frame", "Window"]

Window = tuple[slice, slice]
"""Rows and columns of the picture."""


@dataclass(frozen=True)
class Frame:
    """Local coordinates: `pixel = origin + axes @ local`, with the same scale in all directions."""

    size: int
    origin: tuple[float, float]
    axes: tuple[float, float, float, float]
    """Row-major 2x2."""

    @staticmethod
    def page(size: int) -> Frame:
        """The frame of the whole picture: the unit square."""
        return Frame(size, (0.0, 0.0), (float(size), 0.0, 0.0, float(size)))

    @property
    def pixel(self) -> float:
        """Local units per pixel."""
        return 1 / hypot(self.axes[0], self.axes[2])

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A local point, in pixels."""
        a, b, c, d = self.axes
        return self.origin[0] + a * x + b * y, self.origin[1] + c * x + d * y

    def child(self, x: float, y: float, turn: float, scale: float = 1.0, flip: bool = False) -> Frame:
        """A frame at a local point, turned by `turn` radians; `flip` first mirrors it left to right."""
        a, b, c, d = self.axes
        p, q = scale * cos(turn), scale * sin(turn)
        m = -1 if flip else 1
        return Frame(
            self.size,
            self.place(x, y),
            (a * m * p + b * q, -a * m * q + b * p, c * m * p + d * q, -c * m * q + d * p),
        )

    def window(self, circles: Iterable[tuple[float, float, float]]) -> Window:
        """The part of the picture that contains local circles `(x, y, radius)`, with a margin of one pixel."""
        per_unit = 1 / self.pixel
        boxes = [(*self.place(x, y), r * per_unit + 1) for x, y, r in circles]
        n = self.size
        left = min(max(floor(min(x - r for x, _, r in boxes)), 0), n)
        right = max(min(ceil(max(x + r for x, _, r in boxes)), n), left)
        top = min(max(floor(min(y - r for _, y, r in boxes)), 0), n)
        bottom = max(min(ceil(max(y + r for _, y, r in boxes)), n), top)
        return slice(top, bottom), slice(left, right)

    def at(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Local coordinates of the centres of the window's pixels, two `(h, w)` arrays."""
        a, b, c, d = self.axes
        det = a * d - b * c
        rows, columns = window
        x = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - self.origin[0])
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - self.origin[1]))[:, None]
        u = x * np.float32(d / det) - y * np.float32(b / det)
        v = y * np.float32(a / det) - x * np.float32(c / det)
        return u, v


class Canvas:
    """`rgb` `(3, H, W)` float32 in [0, 1], and `parts` `(H, W)` uint8, the number of the visible part."""

    def __init__(self, rgb: np.ndarray) -> None:
        self.rgb = rgb
        self.parts: np.ndarray = np.zeros(rgb.shape[1:], np.uint8)

    def lay(
        self,
        window: Window,
        cover: np.ndarray,
        colour: np.ndarray,
        shade: np.ndarray | float = 1.0,
        part: int = 0,
    ) -> None:
        """Blend `colour` (`(3,)` or `(3, h, w)`) times `shade` into the window with opacity `cover` (0 to 1).

        A pixel is assigned to `part` if the cover is at least a quarter. If `part` is 0 (not the bird), a pixel is
        assigned to it only if the cover is at least three quarters.
        """
        tinted = (colour[:, None, None] if colour.ndim == 1 else colour) * shade
        region = self.rgb[:, window[0], window[1]]
        tinted = tinted - region
        tinted *= cover
        region += tinted
        np.copyto(self.parts[window], np.uint8(part), where=cover >= (0.25 if part else 0.75))
