"""Paints a scene with a species in it: backdrop, perch, bird, leaves in front, light and noise."""

from __future__ import annotations

from math import cos, sin
from typing import NamedTuple

import numpy as np

from .bird import paint_bird
from .canvas import Canvas, Frame
from .scene import Growth, Scene
from .shapes import capsule, ellipse, enlarge, soft
from .species import SPECIES, Species

__all__ = ["Picture", "paint", "paint_species"]


class Picture(NamedTuple):
    """`image` `(H, W, 3)` uint8; `parts` `(H, W)` uint8: one plus the index in `PARTS` of the visible part, or 0."""

    image: np.ndarray
    parts: np.ndarray


def paint(scene: Scene, size: int, label: int | None = None) -> Picture:
    """Paint the scene at `size` by `size` pixels with the species `label` (by default the scene's species).

    Two species in one scene have the same pose, surroundings, light and noise. Pixels that do not belong to a part
    in which they differ are equal to the last bit.
    """
    return paint_species(scene, size, SPECIES[scene.label if label is None else label])


def paint_species(scene: Scene, size: int, species: Species | None) -> Picture:
    """Paint the scene with any species, which need not be in `SPECIES`, or without a bird (None)."""
    canvas = Canvas(np.stack([enlarge(plane, size, size) for plane in scene.backdrop]))
    page = Frame.page(size)
    for growth in scene.behind:
        _paint_growth(canvas, page, growth)
    _paint_perch(canvas, page, scene)
    if species is not None:
        paint_bird(canvas, scene, species)
    for growth in scene.before:
        _paint_growth(canvas, page, growth)
    return Picture(_develop(canvas.rgb, scene), canvas.parts)


def _paint_growth(canvas: Canvas, page: Frame, growth: Growth) -> None:
    (x0, y0, r0), (x1, y1, r1) = growth.start, growth.end
    blur = max(growth.blur, page.pixel)
    window = page.window([(x0, y0, r0 + blur), (x1, y1, r1 + blur)])
    x, y = page.at(window)
    if growth.kind == "leaf":
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        ax, ay = (x1 - x0) / length, (y1 - y0) / length
        t = ((x - x0) * ax + (y - y0) * ay) * (1 / length)
        n = (x - x0) * ay - (y - y0) * ax
        distance = np.abs(n) - (4 * r0) * t * (1 - t) * (1.3 - 0.6 * t)
        distance = np.maximum(distance, (np.abs(t - 0.5) - 0.5) * length)
        vein = np.minimum(np.abs(n) * (1 / r0), 1)
        shade = 1.12 - 0.16 * vein + 0.10 * np.sign(n) + 0.05 * np.sin(38 * t - 9 * vein)
    elif growth.kind == "berry":
        distance = np.hypot(x - x0, y - y0) - r0
        shade = 0.82 + 0.5 * soft(np.hypot(x - x0 + 0.35 * r0, y - y0 + 0.35 * r0) - 0.3 * r0, 0.7 * r0)
    else:
        distance = capsule(x, y, growth.start, growth.end)
        shade = 1.0
    canvas.lay(window, soft(distance, blur), growth.colour, shade)


def _paint_perch(canvas: Canvas, page: Frame, scene: Scene) -> None:
    x, y = scene.feet
    width = scene.perch_width
    if scene.perch == "stone":
        radii = (0.42, 0.30)
        centre = (x, y + radii[1] - 0.01)
        window = page.window([(centre[0], centre[1], radii[0])])
        u, v = page.at(window)
        distance = ellipse(u, v, centre, radii, 0.3 * scene.perch_turn)
        shade = 1.12 - 0.9 * np.clip(v - y + 0.02, 0, 0.3)
        shade += 0.035 * (np.sin(53 * u + 29 * v) + np.sin(31 * u - 71 * v + 4 * np.sin(23 * u)))
    else:
        dx, dy = 1.5 * cos(scene.perch_turn), 1.5 * sin(scene.perch_turn)
        width = width if scene.perch == "branch" else 0.6 * width
        # The feet stand on top of a branch but hold a stem at its centre.
        cx, cy = (x, y + 0.8 * width) if scene.perch == "branch" else (x, y)
        start, end = (cx - dx, cy - dy, width * 1.5), (cx + dx, cy + dy, width * 0.5)
        window = page.window([start, end])
        u, v = page.at(window)
        distance = capsule(u, v, start, end)
        across = (u - cx) * (-dy / 1.5) + (v - cy) * (dx / 1.5)
        along = (u - cx) * (dx / 1.5) + (v - cy) * (dy / 1.5)
        shade = 1.05 - (0.30 / width) * across
        if scene.perch == "branch":
            shade += 0.10 * np.sin(23 * along + 190 * across + 2 * np.sin(31 * along))
        else:
            shade += 0.06 * np.sin(300 * across)
    canvas.lay(window, soft(distance, page.pixel), scene.perch_colour, shade)


def _develop(rgb: np.ndarray, scene: Scene) -> np.ndarray:
    """Apply light and sensor noise to linear colours `(3, H, W)`; returns uint8 `(H, W, 3)`."""
    size = rgb.shape[-1]
    rgb *= enlarge(scene.dapple, size, size)
    rgb *= scene.light[:, None, None] * 255
    noise = np.random.default_rng(scene.noise_seed)
    grain = noise.standard_normal(rgb.shape, np.float32)
    grain *= scene.noise * 255
    rgb += grain
    rgb += 0.5
    np.clip(rgb, 0, 255, out=rgb)
    return np.ascontiguousarray(rgb.astype(np.uint8).transpose(1, 2, 0))
