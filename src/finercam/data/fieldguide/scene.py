"""Everything about a picture except the species: pose, light, habitat, perch, leaves in front, noise.

A scene depends on `(seed, index)` only and is given in units of the frame. It can therefore be painted at any size,
and again with another species in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, hypot, pi, sin

import numpy as np

from .shapes import enlarge, spline
from .species import COLOURS, SPECIES, Genus, discriminative_parts, siblings

__all__ = ["BACKDROP", "Growth", "Scene", "anchors", "draw_scene", "label_of"]

BACKDROP = 32
"""Rows and columns of the out-of-focus backdrop; painting enlarges it smoothly."""

Pose = tuple[tuple[float, float], float, float, bool]
"""Feet in units of the frame, scale, angle in radians, and whether the bird is mirrored."""

EXTENT = (-1.30, 1.02, -1.80, 0.08)
"""The box `(x0, x1, y0, y1)` in body units that contains every bird and must fit into the frame."""


@dataclass(frozen=True)
class Growth:
    """A leaf, a twig (or blade of grass) or a berry, from `start` to `end`, each `(x, y, radius)` in frame units."""

    kind: str
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    colour: np.ndarray
    blur: float = 0.0
    """Width of the edge in frame units; plants close to the camera are out of focus."""


@dataclass(frozen=True)
class Scene:
    label: int
    """The species of the picture; other species can be painted in its place."""
    feet: tuple[float, float]
    scale: float
    """Frame units per body unit."""
    angle: float
    flip: bool
    nod: float
    """Turn of the head about its centre in radians."""
    swing: float
    """Turn of the tail about its base in radians."""
    backdrop: np.ndarray
    """`(3, 32, 32)` out-of-focus surroundings."""
    perch: str
    perch_turn: float
    perch_width: float
    perch_colour: np.ndarray
    behind: tuple[Growth, ...]
    before: tuple[Growth, ...]
    light: np.ndarray
    """`(3,)` gain of the light's colour."""
    dapple: np.ndarray
    """`(4, 4)` knots of the unevenness of the light."""
    sun: tuple[float, float]
    """Direction of the light in the frame; it shades the bird."""
    noise: float
    """Standard deviation of the sensor noise; full brightness is 1."""
    noise_seed: int


# Each habitat: colours from top to bottom, knots (down, across) of its texture, its contrast, perches, leaf colours.
HABITATS: dict[str, tuple[list[tuple[int, int, int]], tuple[int, int], float, tuple[str, ...], str]] = {
    "foliage": ([(150, 178, 96), (92, 132, 70), (58, 92, 56)], (9, 9), 0.13, ("branch",), "green"),
    "deep wood": ([(70, 92, 74), (54, 70, 58), (44, 52, 44)], (7, 9), 0.10, ("branch",), "green"),
    "sky": ([(134, 180, 226), (176, 206, 234), (218, 228, 234)], (4, 3), 0.07, ("branch", "stem"), "green"),
    "dusk": ([(120, 126, 168), (206, 164, 158), (240, 200, 150)], (5, 3), 0.06, ("branch", "stem"), "brown"),
    "water": ([(132, 168, 172), (112, 152, 166), (86, 124, 146)], (16, 3), 0.09, ("stem", "stone"), "reed"),
    "meadow": ([(206, 210, 168), (178, 184, 104), (136, 152, 76)], (5, 12), 0.10, ("stem", "stone"), "reed"),
    "autumn": ([(216, 170, 96), (188, 122, 66), (122, 84, 56)], (8, 8), 0.13, ("branch",), "brown"),
    "winter": ([(224, 228, 234), (206, 214, 224), (186, 196, 208)], (5, 5), 0.06, ("branch", "stone"), "none"),
}
LEAVES: dict[str, list[tuple[int, int, int]]] = {
    "green": [(84, 140, 58), (120, 166, 72), (56, 104, 52)],
    "brown": [(178, 112, 52), (204, 150, 66), (140, 84, 50)],
    "reed": [(150, 158, 84), (116, 138, 66), (190, 180, 110)],
    "none": [(112, 98, 86), (138, 120, 100), (90, 80, 74)],
}
BERRIES = ("red", "orange", "yellow", "violet", "white", "pink", "black", "rufous")


@lru_cache(maxsize=64)
def _shuffled(seed: int, block: int) -> np.ndarray:
    return np.random.default_rng((seed, block, 1)).permutation(len(SPECIES))


def label_of(seed: int, index: int) -> int:
    """The species of a picture: each block of `len(SPECIES)` indices contains every species once, in shuffled order."""
    block, place = divmod(index, len(SPECIES))
    return int(_shuffled(seed, block)[place])


def rgb(colour: tuple[int, int, int] | str) -> np.ndarray:
    values = COLOURS[colour] if isinstance(colour, str) else colour
    return np.array(values, np.float32) / 255


def anchors(genus: Genus) -> dict[str, tuple[float, float]]:
    """The position of each part of a bird of the genus in body units, before any pose."""
    plan = genus.plan
    (hx, hy, r), (bx, by, br) = plan.head, plan.breast
    (sx, sy, _), (wx, wy, _) = plan.shoulder, plan.wing_tip
    tx, ty, length = plan.tail
    return {
        "crest": (hx - 0.2 * r, hy - 1.1 * r),
        "crown": (hx - 0.1 * r, hy - 0.7 * r),
        "beak": (hx + 1.4 * r, hy + 0.2 * r),
        "eye_ring": (hx + 0.3 * r, hy - 0.1 * r),
        "cheek": (hx, hy + 0.35 * r),
        "throat": (hx + 0.5 * r, hy + 0.9 * r),
        "breast": (bx + 0.6 * br, by),
        "epaulet": (sx + 0.1, sy),
        "wing_bar": (0.6 * sx + 0.4 * wx, 0.6 * sy + 0.4 * wy),
        "rump": (0.75 * plan.vent[0] - 0.05, plan.vent[1] - plan.vent[2]),
        "tail": (tx - 0.75 * length * cos(plan.tail_turn), ty + 0.75 * length * sin(plan.tail_turn)),
    }


def _pose(rng: np.random.Generator) -> Pose:
    """A random pose that keeps `EXTENT` within the frame."""
    flip = bool(rng.random() < 0.5)
    angle = float(np.clip(rng.normal(0, 0.14), -0.3, 0.3))
    x0, x1, y0, y1 = EXTENT
    sign = -1 if flip else 1
    corners = [
        (sign * (x * cos(angle) - y * sin(angle)), x * sin(angle) + y * cos(angle))
        for x in (x0, x1)
        for y in (y0, y1)
    ]
    left, right = min(x for x, _ in corners), max(x for x, _ in corners)
    top, bottom = min(y for _, y in corners), max(y for _, y in corners)
    # The corners of the box are empty, so a turned bird may be slightly larger than its box.
    scale = min(float(rng.uniform(0.30, 0.39)), 1.02 / (right - left), 1.02 / (bottom - top))
    x = -left * scale + float(rng.random()) * (1 - (right - left) * scale)
    y = -top * scale + float(rng.random()) * (1 - (bottom - top) * scale)
    return (x, y), scale, angle, flip


def to_frame(pose: Pose, x: float, y: float) -> tuple[float, float]:
    """Convert a point from body units to units of the frame."""
    (fx, fy), scale, angle, flip = pose
    u, v = x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)
    return fx + (-u if flip else u) * scale, fy + v * scale


def _backdrop(rng: np.random.Generator, habitat: str) -> np.ndarray:
    colours, (down, across), contrast, _, _ = HABITATS[habitat]
    n = BACKDROP
    stops = np.stack([rgb(colour) for colour in colours], 1)
    stops += rng.normal(0, 0.03, (3, 3)).astype(np.float32)
    field = (stops @ spline(n, 3).T)[:, :, None]
    knots = rng.normal(0, contrast, (down, across)).astype(np.float32)
    coarse = rng.normal(0, contrast * 0.7, (3, 3)).astype(np.float32)
    texture = enlarge(knots, n, n) + enlarge(coarse, n, n)
    tint = np.array([1.0, 1.0, 0.75], np.float32) + rng.normal(0, 0.15, 3).astype(np.float32)
    field = field + tint[:, None, None] * texture
    at = (np.arange(n, dtype=np.float32) + 0.5) / n
    if habitat in ("foliage", "autumn", "dusk", "deep wood"):  # discs of light between the leaves
        for _ in range(int(rng.integers(2, 7))):
            cx, cy, r, gain = rng.uniform((0, 0, 0.03, 0.05), (1, 0.8, 0.09, 0.22)).astype(np.float32)
            disc = np.clip((r - np.hypot(at[None] - cx, at[:, None] - cy)) * 24 + 0.5, 0, 1)
            field += gain * disc * np.array([1.0, 0.95, 0.7], np.float32)[:, None, None]
    if habitat not in ("sky", "water"):  # stems and trunks, far behind
        for _ in range(int(rng.integers(0, 4))):
            x, lean, r, gain = rng.uniform((0, -0.35, 0.01, 0.25), (1, 0.35, 0.05, 0.6)).astype(np.float32)
            stem = np.clip((r - np.abs(at[None] - x - lean * (at[:, None] - 0.5))) * 20 + 0.5, 0, 1)
            field -= gain * stem * (field - rgb((74, 66, 56))[:, None, None])
    return field


def _border(rng: np.random.Generator) -> tuple[float, float, float]:
    """A point on the frame's border, and a direction from there inwards."""
    side, at, lean = int(rng.integers(4)), float(rng.random()), float(rng.normal(0, 0.5))
    x, y = ((at, -0.02), (1.02, at), (at, 1.02), (-0.02, at))[side]
    return x, y, lean + pi / 2 * (side + 1)


def _sprig(
    rng: np.random.Generator, x: float, y: float, turn: float, leafage: str, blur: float = 0.0
) -> list[Growth]:
    """A twig from a point, with leaves on both sides and sometimes berries in colours of birds."""
    colours = [rgb(colour) for colour in LEAVES[leafage]]
    length = float(rng.uniform(0.12, 0.34))
    dx, dy = length * cos(turn), length * sin(turn)
    twig = Growth("twig", (x, y, 0.006), (x + dx, y + dy, 0.003), rgb((96, 82, 58)) * 0.9, blur)
    sprig = [twig]
    nodes = int(rng.integers(2, 5))
    bare = 0.75 if leafage == "none" else 0.1
    for node in range(nodes):
        at = (node + 1) / nodes
        lean = 0.0 if node == nodes - 1 else (0.9 if node % 2 else -0.9) + float(rng.normal(0, 0.2))
        reach = float(rng.uniform(0.06, 0.13))
        px, py = x + at * dx, y + at * dy
        if rng.random() > bare:
            end = (px + reach * cos(turn + lean), py + reach * sin(turn + lean), 0.0)
            shade = colours[int(rng.integers(3))] * float(rng.uniform(0.8, 1.2))
            sprig.append(Growth("leaf", (px, py, float(rng.uniform(0.20, 0.30)) * reach), end, shade, blur))
    if rng.random() < 0.35:
        colour = rgb(BERRIES[int(rng.integers(len(BERRIES)))])
        for _ in range(int(rng.integers(1, 4))):
            at, r = float(rng.uniform(0.3, 1)), float(rng.uniform(0.012, 0.026))
            px, py = x + at * dx + float(rng.normal(0, 0.02)), y + at * dy + r
            sprig.append(Growth("berry", (px, py, r), (px + 0.001, py, r), colour, blur))
    return sprig


def _clear(leaf: Growth, points: list[tuple[float, float]], radius: float) -> bool:
    """Whether a growth stays away from all points, so that discriminative parts remain visible."""
    (x0, y0, r0), (x1, y1, r1) = leaf.start, leaf.end
    dx, dy = x1 - x0, y1 - y0
    reach = radius + max(r0, r1)
    for x, y in points:
        t = min(max(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0), 1)
        if hypot(x - x0 - t * dx, y - y0 - t * dy) < reach:
            return False
    return True


def _growths_behind(
    rng: np.random.Generator, feet: tuple[float, float], perch: str, perch_turn: float, leafage: str
) -> tuple[Growth, ...]:
    """Up to three sprigs behind the bird. They grow out of a branch, or mostly reach in from the border."""
    behind: list[Growth] = []
    for _ in range(int(rng.integers(0, 4))):
        x, y, turn = (float(value) for value in rng.uniform((-0.1, -0.1, 0), (1.1, 1.1, 2 * pi)))
        if perch == "branch":
            along = float(rng.uniform(-0.7, 0.7))
            x, y = feet[0] + along * cos(perch_turn), feet[1] + 0.02 + along * sin(perch_turn)
        elif rng.random() < 0.7:
            x, y, turn = _border(rng)
        behind += _sprig(rng, x, y, turn, leafage)
    return tuple(behind)


def _growths_before(rng: np.random.Generator, pose: Pose, label: int, leafage: str) -> tuple[Growth, ...]:
    """Up to three sprigs or blades in front of the bird that do not hide a discriminative part of its genus."""
    scale, genus = pose[1], SPECIES[label].genus
    discriminative = {part for d in siblings(label) for part in discriminative_parts(label, d)}
    places = anchors(genus)
    keep = [to_frame(pose, *places[part]) for part in sorted(discriminative)]
    before: list[Growth] = []
    for _ in range(int(rng.integers(0, 4))):
        blur = float(rng.uniform(0, 0.035))
        if leafage in ("reed", "none"):  # blades rise from below
            x, lean, height, r = (float(v) for v in rng.uniform((0, -0.3, 0.2, 0.007), (1, 0.3, 0.7, 0.016)))
            shade = rgb(LEAVES[leafage][int(rng.integers(3))]) * float(rng.uniform(0.8, 1.2))
            sprig = [Growth("twig", (x, 1.02, r), (x + lean * height, 1.02 - height, 0.003), shade, blur)]
        else:
            sprig = _sprig(rng, *_border(rng), leafage, blur)
        if _clear(sprig[0], keep, 0.16 * scale):
            before += [growth for growth in sprig if _clear(growth, keep, 0.2 * scale + 0.5 * blur)]
    return tuple(before)


def draw_scene(seed: int, index: int) -> Scene:
    """The scene of picture `index`; it depends on `seed` and `index` only.

    >>> draw_scene(0, 5).feet == draw_scene(0, 5).feet
    True
    """
    label = label_of(seed, index)
    rng = np.random.default_rng((seed, index))
    feet, scale, angle, flip = pose = _pose(rng)
    habitat = list(HABITATS)[int(rng.integers(len(HABITATS)))]
    _, _, _, perches, leafage = HABITATS[habitat]
    perch = perches[int(rng.integers(len(perches)))]
    perch_turn = float(rng.normal(0, 0.22)) if perch != "stem" else float(rng.choice((-1, 1)) * rng.uniform(0.8, 1.3))
    bark = rgb({"branch": (112, 90, 70), "stem": LEAVES[leafage][2], "stone": (138, 134, 128)}[perch])

    behind = _growths_behind(rng, feet, perch, perch_turn, leafage)
    before = _growths_before(rng, pose, label, leafage)
    warmth = float(rng.normal(0, 0.05))
    gain = float(rng.uniform(0.82, 1.12))
    sun = float(rng.uniform(-2.6, -0.5))
    return Scene(
        label=label,
        feet=feet,
        scale=scale,
        angle=angle,
        flip=flip,
        nod=float(np.clip(rng.normal(0, 0.13), -0.25, 0.25)),
        swing=float(np.clip(rng.normal(0, 0.10), -0.2, 0.2)),
        backdrop=_backdrop(rng, habitat),
        perch=perch,
        perch_turn=perch_turn,
        perch_width=float(rng.uniform(0.022, 0.038)),
        perch_colour=bark * float(rng.uniform(0.75, 1.2)),
        behind=behind,
        before=before,
        light=np.array([1 + warmth, 1, 1 - warmth], np.float32) * gain,
        dapple=rng.normal(1, 0.10, (4, 4)).astype(np.float32),
        sun=(cos(sun), sin(sun)),
        noise=float(rng.uniform(0.006, 0.030)),
        noise_seed=int(rng.integers(2**31)),
    )
