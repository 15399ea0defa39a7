"""Signed distances (negative inside) and smooth noise: the primitives of all pictures."""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["capsule", "ellipse", "enlarge", "fan", "scallops", "smooth_union", "soft", "spline"]

Array = np.ndarray


def capsule(x: Array, y: Array, start: tuple[float, float, float], end: tuple[float, float, float]) -> Array:
    """Distance to a tapered capsule from `start` to `end`, each `(x, y, radius)`.

    >>> float(capsule(np.zeros(1), np.zeros(1), (-1, 0, 0.5), (1, 0, 0.5))[0])
    -0.5
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = px * (dx / (dx * dx + dy * dy))
    along += py * (dy / (dx * dx + dy * dy))
    np.clip(along, 0, 1, out=along)
    px -= along * dx
    py -= along * dy
    px *= px
    py *= py
    px += py
    np.sqrt(px, out=px)
    along *= end[2] - start[2]
    along += start[2]
    px -= along
    return px


def ellipse(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Array:
    """First-order distance to an ellipse turned by `turn` radians; it is exact on the edge."""
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    px, py = x - centre[0], y - centre[1]
    u = (px * cos + py * sin) / radii[0]
    v = (py * cos - px * sin) / radii[1]
    level = np.sqrt(u * u + v * v)
    u /= radii[0]
    v /= radii[1]
    slope = np.sqrt(u * u + v * v)
    slope += 1e-6
    return level * (level - 1) / slope


def fan(t: Array, n: Array, length: float, widths: tuple[float, float], fork: float) -> Array:
    """Distance to a tail along `t` and across `n`, with half-width `widths[0]` at `t = 0` and `widths[1]` at its end.

    `fork` > 0 cuts the middle out of the end, as in a swallow's tail; `fork` < 0 makes the middle longest (a wedge).
    """
    across = np.abs(n)
    side = across - (widths[0] + (widths[1] - widths[0]) / length * t)
    end = t - length + fork * (1 - across / widths[1])
    return np.maximum(np.maximum(side, end), -t)


def smooth_union(a: Array, b: Array, k: float) -> Array:
    """Polynomial smooth minimum: the two shapes blend over a width of about `k`."""
    h = np.maximum(k - np.abs(a - b), 0)
    h *= h
    h *= 0.25 / k
    return np.minimum(a, b) - h


def soft(distance: Array, width: float) -> Array:
    """Coverage in [0, 1] of an edge that is `width` wide; a `width` of one pixel is anti-aliasing."""
    return np.clip(0.5 - distance * (1 / width), 0, 1)


def scallops(along: Array, across: Array, pitch: float) -> Array:
    """Rows of overlapping feathers, in [0, 1): 0 at the base of each feather, rising to its rounded tip."""
    x = across * (1 / pitch)
    x -= np.floor(x) + 0.5
    x *= x
    row = along * (1 / pitch)
    row += 1.6 * x
    row -= np.floor(row)
    return row


def enlarge(knots: Array, height: int, width: int) -> Array:
    """Smooth noise `(height, width)` from a few knots `(n, m)` by a uniform cubic B-spline, float32.

    The product is computed in strips of rows. They are so small that the linear algebra library uses one thread,
    because starting more threads costs more than the work itself.
    """
    rows, columns = spline(height, knots.shape[0]), spline(width, knots.shape[1]).T
    narrow = np.concatenate([strip @ knots for strip in _strips(rows, knots.shape[1])])
    return np.concatenate([strip @ columns for strip in _strips(narrow, width)])


def _strips(matrix: Array, width: int) -> list[Array]:
    step = max(1, 2**17 // (matrix.shape[1] * width))
    return [matrix[top : top + step] for top in range(0, len(matrix), step)]


@cache
def spline(size: int, knots: int) -> Array:
    """Weights `(size, knots)` of a uniform cubic B-spline."""
    at = (np.arange(size) + 0.5) / size * knots - 0.5
    reach = np.abs(at[:, None] - np.arange(-1, knots + 1)[None])
    near, far = reach < 1, (reach >= 1) & (reach < 2)
    weights = np.where(near, 2 / 3 - reach**2 + reach**3 / 2, 0) + np.where(far, (2 - reach) ** 3 / 6, 0)
    # The knots beyond either end repeat the last knot, so that the borders do not fade.
    weights[:, 1] += weights[:, 0]
    weights[:, -2] += weights[:, -1]
    inner = weights[:, 1:-1]
    return (inner / inner.sum(1, keepdims=True)).astype(np.float32)
