"""Paints one bird, part by part, from the tail up to the crest."""

from __future__ import annotations

from math import atan2, hypot, pi

import numpy as np

from .canvas import Canvas, Frame, Window
from .scene import Scene, rgb
from .shapes import capsule, ellipse, fan, scallops, smooth_union, soft
from .species import PARTS, SPECIES, Mark, Plan, Species

__all__ = ["paint_bird"]

NUMBER = {part: number for number, part in enumerate(PARTS, 1)}

# Length and depth at the base of each beak in units of the head's radius, and its bend.
BEAKS = {
    "cone": (0.55, 0.34, 0.0),
    "heavy": (0.95, 0.80, 0.04),
    "straight": (2.10, 0.32, 0.0),
    "curved": (2.0, 0.36, 0.60),
    "needle": (1.55, 0.16, 0.03),
    "chisel": (1.05, 0.30, 0.0),
}


def paint_bird(canvas: Canvas, scene: Scene, species: Species) -> None:
    """Paint a species in the scene's pose on the canvas, and record which pixels show which part."""
    _Painter(canvas, scene, species).paint()


class _Painter:
    def __init__(self, canvas: Canvas, scene: Scene, species: Species) -> None:
        self.canvas, self.scene = canvas, scene
        self.plan: Plan = species.genus.plan
        self.marks = species.marks
        self.coat = {name: rgb(colour) for name, colour in species.genus.coat.items()}
        size = canvas.parts.shape[0]
        self.bird = Frame.page(size).child(*scene.feet, scene.angle, scene.scale, scene.flip)
        self.pixel = self.bird.pixel
        hx, hy, self.r = self.plan.head
        # Unit of the head's frame: the head's radius.
        self.head = self.bird.child(hx, hy, scene.nod, self.r)
        self.body_cover = np.zeros((size, size), np.float32)
        self.shade = np.ones((size, size), np.float32)

    def paint(self) -> None:
        self.tail()
        self.legs()
        self.beak()
        self.body()
        for part in ("breast", "throat", "cheek", "crown", "rump"):
            if part in self.marks:
                getattr(self, part)(self.marks[part])
        self.wing()
        self.eye()
        if "crest" in self.marks:
            self.crest(self.marks["crest"])

    def relief(
        self, window: Window, distance: np.ndarray, depth: float, radius: float, x: float, y: float
    ) -> np.ndarray:
        """Shading of a rounded shape with centre `(x, y)`: dark towards its edge, lighter on the side of the sun."""
        inward = np.clip(distance * (-1 / depth), 0, 1)
        inward *= 2 - inward
        cx, cy = self.bird.place(x, y)
        rows, columns = window
        sx, sy = (s * self.pixel / radius * 0.17 for s in self.scene.sun)
        across = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - cx)) * np.float32(sx)
        down = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - cy)) * np.float32(sy)
        inward *= 0.32
        inward += 0.74
        inward += np.clip(across + down[:, None], -0.2, 0.2)
        return inward

    # -- the bird without marks -----------------------------------------------------------------------------------

    def body(self) -> None:
        plan, coat = self.plan, self.coat
        (bx, by, br), (vx, vy, _), (hx, hy, r) = plan.breast, plan.vent, plan.head
        window = self.bird.window([plan.breast, plan.vent, plan.head])
        x, y = self.bird.at(window)
        head = np.hypot(x - hx, y - hy) - r
        distance = smooth_union(capsule(x, y, plan.breast, plan.vent), head, plan.neck)
        length = hypot(vx - bx, vy - by)
        ax, ay = (vx - bx) / length, (vy - by) / length
        along = (x - bx) * ax + (y - by) * ay
        across = (x - bx) * -ay + (y - by) * ax  # > 0 towards the back
        if (plan.head[0] - bx) * -ay + (plan.head[1] - by) * ax < 0:
            across = -across
        shade = self.relief(window, distance, 0.26, br, 0.5 * (bx + vx), by - 0.1)
        shade += 0.09 * (0.5 - scallops(along, across, 0.105))
        colour = (
            coat["back"][:, None, None] + soft(across + 0.06, 0.16) * (coat["belly"] - coat["back"])[:, None, None]
        )
        colour += soft(head - 0.03, 0.10) * (coat["head"][:, None, None] - colour)
        cover = soft(distance, self.pixel)
        self.body_cover[window] = cover
        self.shade[window] = shade
        self.canvas.lay(window, cover, colour, shade, NUMBER["body"])

    def legs(self) -> None:
        x, y = self.plan.hips
        for lean, dim in ((0.13, 0.75), (0.0, 1.0)):
            foot = (lean - 0.03, 0.0)
            hip = (x + lean, y)
            parts = [((*hip, 0.035), (*foot, 0.024))]
            parts += [((*foot, 0.026), (foot[0] + toe, 0.035, 0.018)) for toe in (0.13, -0.09)]
            window = self.bird.window([circle for part in parts for circle in part])
            u, v = self.bird.at(window)
            distance = np.minimum.reduce([capsule(u, v, *part) for part in parts])
            self.canvas.lay(window, soft(distance, self.pixel), self.coat["legs"], dim, NUMBER["legs"])

    def wing(self) -> None:
        plan = self.plan
        (sx, sy, sr), (tx, ty, _) = plan.shoulder, plan.wing_tip
        length = hypot(tx - sx, ty - sy)
        # The wing's frame: from the shoulder along the wing, across upwards.
        frame = self.bird.child(sx, sy, atan2(ty - sy, tx - sx))
        window = frame.window([(0, 0, sr + 0.06), (length, 0, 0.08)])
        t, n = frame.at(window)
        # The wing is fuller below than above, so that it droops when folded.
        distance = capsule(t, n + 0.05 * np.sin(pi / length * t), (0, 0, sr), (length, 0, 0.03))
        shadow = 0.34 * np.clip(1 - distance * (1 / 0.07), 0, 1) * self.body_cover[window]
        self.canvas.rgb[:, window[0], window[1]] *= 1 - shadow
        cover = soft(distance, self.pixel)
        shade = self.relief(window, distance, 0.14, sr, 0.5 * (sx + tx), 0.5 * (sy + ty))
        flight = soft(0.44 * length - t + 0.5 * n * n, 0.03)
        coverts = scallops(t, n, 0.10)
        feathers = (n + 0.02 * t) * (1 / 0.062)
        feathers -= np.floor(feathers)
        shade += (1 - flight) * 0.16 * (0.5 - coverts) + flight * 0.26 * (0.4 - feathers)
        colour = (
            self.coat["wing"][:, None, None]
            + flight * (0.92 * self.coat["flight"] - self.coat["wing"])[:, None, None]
        )
        self.canvas.lay(window, cover, colour, shade, NUMBER["wing"])
        if "wing_bar" in self.marks:
            bent = t + 0.9 * n * n
            bars = np.abs(bent - 0.44 * length) - 0.055
            if self.marks["wing_bar"].style == "two":
                bars = np.minimum(bars, np.abs(bent - 0.20 * length) - 0.055)
            self.mark(window, bars, "wing_bar", cover, shade, frame.pixel)
        if "epaulet" in self.marks:
            patch = ellipse(t, n, (-0.03, 0.0), (0.15, 0.20))
            self.mark(window, patch, "epaulet", cover, shade, frame.pixel)

    def eye(self) -> None:
        window = self.head.window([(0.36, -0.12, 0.55)])
        u, v = self.head.at(window)
        distance = np.hypot(u - 0.36, v + 0.12)
        pixel = self.head.pixel
        if "eye_ring" in self.marks:
            self.mark(window, distance - 0.48, "eye_ring", self.body_cover[window], 1.0, pixel)
        lid = 0.6 * self.coat["head"] + 0.25
        self.canvas.lay(window, soft(distance - 0.31, pixel), lid, 1.0, NUMBER["eye"])
        self.canvas.lay(window, soft(distance - 0.24, pixel), rgb((24, 20, 22)), 1.0, NUMBER["eye"])
        glint = np.hypot(u - 0.42, v + 0.20) - 0.08
        self.canvas.lay(window, soft(glint, pixel), rgb((255, 255, 255)), 1.0, NUMBER["eye"])

    # -- marks -----------------------------------------------------------------------------------------------------

    def mark(
        self,
        window: Window,
        distance: np.ndarray,
        part: str,
        within: np.ndarray | None,
        shade: np.ndarray | float,
        pixel: float,
        colour: np.ndarray | None = None,
    ) -> None:
        cover = soft(distance, pixel)
        if within is not None:
            cover *= within
        self.canvas.lay(
            window, cover, rgb(self.marks[part].colour) if colour is None else colour, shade, NUMBER[part]
        )

    def patch(
        self, part: str, frame: Frame, centre: tuple[float, float], radii: tuple[float, float], turn: float
    ) -> None:
        """Paint an ellipse on the plumage."""
        window = frame.window([(*centre, max(radii))])
        u, v = frame.at(window)
        distance = ellipse(u, v, centre, radii, turn)
        self.mark(window, distance, part, self.body_cover[window], self.shade[window], frame.pixel)

    def throat(self, mark: Mark) -> None:
        self.patch("throat", self.head, (0.48, 0.86), (0.66, 0.46), 0.85)

    def cheek(self, mark: Mark) -> None:
        self.patch("cheek", self.head, (-0.02, 0.42), (0.46, 0.34), 0.15)

    def crown(self, mark: Mark) -> None:
        window = self.head.window([(-0.1, -0.5, 1.05)])
        u, v = self.head.at(window)
        cap = np.maximum(v + 0.34 + 0.25 * u, np.hypot(u, v) - 1.1)
        self.mark(window, cap, "crown", self.body_cover[window], self.shade[window], self.head.pixel)

    def rump(self, mark: Mark) -> None:
        plan = self.plan
        (bx, by, br), (vx, vy, vr) = plan.breast, plan.vent
        turn = atan2(vy - vr - by + br, vx - bx)
        self.patch("rump", self.bird, (vx + 0.10, vy - 0.75 * vr), (0.24, 0.15), turn)

    def breast(self, mark: Mark) -> None:
        bx, by, br = self.plan.breast
        hx, hy, _ = self.plan.head
        if mark.style == "spot":
            self.patch("breast", self.bird, (bx + 0.66 * br, by + 0.05), (0.16, 0.19), 0.2)
            return
        # The frame follows the bird's front from the neck down.
        frame = self.bird.child(bx, by, atan2(hy - by, hx - bx) + pi / 2)
        window = frame.window([(0.3 * br, 0, br)])
        u, v = frame.at(window)
        if mark.style == "band":
            distance = np.abs(v + 0.42 * br - 0.5 * u * u) - 0.085
        else:
            row = v * (1 / 0.22) + 0.35
            nearest = np.floor(row + 0.5)
            shifted = u * (1 / 0.18) + 0.5 * nearest
            dash = np.abs(shifted - np.floor(shifted + 0.5)) * 0.18 - 0.034
            row = np.abs(row - nearest) * 0.22 - 0.075
            area = ellipse(u, v, (0.58 * br, 0.10), (0.50 * br, 0.80 * br))
            distance = np.maximum(np.maximum(dash, row), area)
        self.mark(window, distance, "breast", self.body_cover[window], self.shade[window], frame.pixel)

    def crest(self, mark: Mark) -> None:
        window = self.head.window([(-0.35, -0.95, 0.95)])
        u, v = self.head.at(window)
        if mark.style == "spike":
            plumes = [((-0.02, -0.78, 0.36), (-0.78, -1.62, 0.04)), ((-0.10, -0.72, 0.32), (-1.06, -1.22, 0.04))]
        else:
            plumes = [((0.02, -0.80, 0.28), (-0.60, -0.98, 0.26))]
        distance = np.minimum.reduce([capsule(u, v, *plume) for plume in plumes])
        shade = 1.02 + 0.9 * np.clip(distance, -0.2, 0) + 0.16 * np.sin(19 * (u - 0.6 * v))
        self.mark(window, distance, "crest", None, shade.astype(np.float32), self.head.pixel)

    def beak(self) -> None:
        mark = self.marks["beak"]
        if mark.style == "hook":
            window = self.head.window([(0.9, 0.25, 0.75)])
            u, v = self.head.at(window)
            tip = capsule(u, v, (1.08, 0.16, 0.30), (1.12, 0.78, 0.03))
            distance = np.minimum(ellipse(u, v, (0.90, 0.12), (0.50, 0.44)), tip)
            gape = np.abs(v - 0.36 - 0.3 * (u - 0.8)) - 0.03 + 0.2 * np.clip(u - 1.0, 0, None)
            shade = 1.10 - 0.30 * soft(0.1 - v, 0.5)
        else:
            length, depth, bend = BEAKS[mark.style]
            window = self.head.window([(0.8, 0.1, depth), (1.0 + length, 0.1, 0.1), (1 + length, 0.1 + bend, 0.1)])
            u, v = self.head.at(window)
            t = u - 0.80
            n = v - 0.10 - bend * np.square(np.clip(t, 0, None)) * ((1 + length) / (0.2 + length) ** 2)
            distance = capsule(t, n, (0, 0, depth), (0.15 + length, 0, 0.05))
            gape = np.abs(n) - 0.05
            shade = 1.10 - 0.30 * soft(-n - 0.04 * depth, 0.10 * depth)
        shade -= 0.35 * soft(gape, self.head.pixel)
        if mark.style == "heavy":  # grooves as on the beak of a puffin
            shade -= 0.38 * soft(np.abs(np.abs(u - 1.24 + 0.2 * v * v) - 0.13) - 0.035, self.head.pixel)
        self.mark(window, distance, "beak", None, shade, self.head.pixel)

    def tail(self) -> None:
        plan, mark = self.plan, self.marks["tail"]
        x, y, length = plan.tail
        frame = self.bird.child(x, y, pi - plan.tail_turn + self.scene.swing)
        window = frame.window([(0, 0, plan.tail_widths[0]), (length, 0, plan.tail_widths[1] + abs(plan.fork))])
        t, n = frame.at(window)
        t = t + 0.08  # the root lies under the body
        distance = fan(t, n, length + 0.08, plan.tail_widths, plan.fork)
        cover = soft(distance, self.pixel)
        feathers = np.abs(n) * (1 / 0.07)
        feathers -= np.floor(feathers)
        shade = 0.98 + 0.22 * (0.4 - feathers) + 0.4 * np.clip(distance, -0.1, 0) + 0.08
        colour: np.ndarray = rgb(mark.colour if mark.style == "plain" else TAILS[self.plan])
        if mark.style != "plain":
            if mark.style == "tipped":
                marked = soft(0.70 * length - t, self.pixel)
            else:
                bands = np.abs(t - 0.62 * length), np.abs(t - 0.90 * length)
                marked = soft(np.minimum(*bands) - 0.065, self.pixel)
            colour = colour[:, None, None] + marked * (rgb(mark.colour) - colour)[:, None, None]
        self.canvas.lay(window, cover, colour, shade, NUMBER["tail"])


TAILS = {species.genus.plan: species.genus.common["tail"].colour for species in SPECIES}
"""The colour of each tail below its tip or bands."""
