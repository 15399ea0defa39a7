"""Draws the plates of the Fieldguide: a page per genus with its species side by side and their differences named.

`python -m training.plates OUT` writes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finercam.data.fieldguide.render import paint
from finercam.data.fieldguide.scene import BACKDROP, Scene, anchors, draw_scene, rgb, to_frame
from finercam.data.fieldguide.species import GENERA, PARTS, SPECIES, Genus, discriminative_parts, phrase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["overview", "plate", "write_plates"]

PAPER = (233, 232, 219)
INK, MARKED, FAINT = "#3b342b", "#b3261e", "#8a8175"
LACKING = {"crest": "no crest", "eye_ring": "no eye-ring", "wing_bar": "no wing bar", "epaulet": "no shoulder patch"}


def write_plates(out_dir: str | Path, size: int = 384) -> list[Path]:
    """Write `overview.png` and one `plate-<genus>.png` per genus to `out_dir`; `size` is the side of one bird in pixels."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    pages = {"overview": overview(size)} | {f"plate-{genus.name.lower()}": plate(genus, size) for genus in GENERA}
    paths = []
    for name, figure in pages.items():
        path = out / f"{name}.png"
        figure.savefig(path, facecolor=tuple(rgb(PAPER)))
        paths.append(path)
    return paths


def plate(genus: Genus, size: int = 384) -> Figure:
    """Draw one genus: every species, with a line from each discriminative part, present or missing, to its name."""
    from matplotlib.figure import Figure

    labels = [label for label, species in enumerate(SPECIES) if species.genus is genus]
    varied = {part for c in labels for d in labels for part in discriminative_parts(c, d)}
    parts = sorted(varied, key=PARTS.index)
    columns = 3
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(10.2, 0.75 + 3.65 * rows), dpi=110)
    figure.suptitle(genus.name, x=0.03, y=0.985, ha="left", va="top", size=19, family="serif", color=INK)
    about = f"{genus.latin} · {genus.look} · told apart by {' and '.join(part.replace('_', ' ') for part in parts)}"
    figure.text(0.97, 0.975, about, ha="right", va="top", size=10.5, style="italic", family="serif", color=FAINT)
    top = 1 - 0.7 / figure.get_figheight()
    for place, label in enumerate(labels):
        row, column = divmod(place, columns)
        height = top / rows
        axes = figure.add_axes((0.02 + column * 0.327, top - (row + 1) * height, 0.306, height * 0.97))
        _bird(axes, label, size)
        for part in parts:
            _point_out(axes, label, part, size)
    return figure


def overview(size: int = 256) -> Figure:
    """Draw all species on one page, one row per genus."""
    from matplotlib.figure import Figure

    columns = max(len(genus.wears) for genus in GENERA)
    figure = Figure(figsize=(1.7 * columns + 0.2, 1.86 * len(GENERA) + 0.7), dpi=110)
    title = f"The Fieldguide: {len(SPECIES)} species in {len(GENERA)} genera"
    figure.suptitle(title, x=0.03, y=0.993, ha="left", va="top", size=17, family="serif", color=INK)
    top = 1 - 0.5 / figure.get_figheight()
    for label, species in enumerate(SPECIES):
        row = GENERA.index(species.genus)
        column = list(species.genus.wears).index(species.name)
        height, width = top / len(GENERA), 1 / columns
        _bird(figure.add_axes((column * width, top - (row + 1) * height, width, height * 0.97)), label, size, 8.0)
    return figure


def studio(label: int) -> Scene:
    """A scene with a bird on a bare branch in front of plain paper: no pose, no noise, even light."""
    return replace(
        draw_scene(0, 0),
        label=label,
        feet=(0.54, 0.86),
        scale=0.42,
        angle=0.0,
        flip=False,
        nod=0.0,
        swing=0.0,
        backdrop=np.broadcast_to(rgb(PAPER)[:, None, None], (3, BACKDROP, BACKDROP)),
        perch="branch",
        perch_turn=-0.06,
        perch_width=0.022,
        perch_colour=rgb((150, 128, 104)),
        behind=(),
        before=(),
        light=np.ones(3, np.float32),
        dapple=np.ones((4, 4), np.float32),
        sun=(-0.5, -0.87),
        noise=0.0,
    )


def _bird(axes: Axes, label: int, size: int, text: float = 12.0) -> None:
    axes.imshow(paint(studio(label), size).image, extent=(0, 1, 1, 0), interpolation="lanczos")
    axes.set(xlim=(0, 1), ylim=(1.06, 0.0))
    axes.set_axis_off()
    axes.text(0.5, 0.03, SPECIES[label].name, ha="center", va="center", size=text, family="serif", color=INK)


def _point_out(axes: Axes, label: int, part: str, size: int) -> None:
    """Draw a line from the part to its name: red for a mark that the species has, grey for one that it lacks."""
    scene, species = studio(label), SPECIES[label]
    pose = (scene.feet, scene.scale, scene.angle, scene.flip)
    x, y = to_frame(pose, *anchors(species.genus)[part])
    mark = species.marks.get(part)
    if mark is not None:
        rows, columns = np.nonzero(paint(scene, size).parts == PARTS.index(part) + 1)
        # The line ends at the pixel nearest to the centre, because the centre of a ring or of streaks is empty.
        nearest = np.argmin((columns - columns.mean()) ** 2 + (rows - rows.mean()) ** 2)
        x, y = (columns[nearest] + 0.5) / size, (rows[nearest] + 0.5) / size
    words = phrase(part, mark) if mark else LACKING.get(part, f"plain {part}")
    upper = part in ("crest", "crown", "eye_ring", "beak", "cheek", "throat")
    text_x = 0.02 if part in ("crest", "crown", "rump", "tail") else 0.98
    text_y = 0.12 if upper else 1.02
    if part in ("rump", "tail"):
        text_x, text_y = 0.02, 0.34
    elif part in ("cheek", "throat", "breast"):
        text_y = 1.02
    elif part in ("wing_bar", "epaulet"):
        text_x, text_y = 0.02, 1.02
    colour = MARKED if mark else FAINT
    axes.annotate(
        words,
        (x, y),
        (text_x, text_y),
        ha="left" if text_x < 0.5 else "right",
        va="center",
        size=10.5,
        style="italic",
        family="serif",
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.0, "shrinkA": 2, "shrinkB": 0},
    )
    axes.plot([x], [y], "o", color=colour, markersize=3.5, markeredgecolor="white", markeredgewidth=0.7)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.plates", description=write_plates.__doc__)
    parser.add_argument("out", type=Path, help="folder for the pages")
    parser.add_argument("--size", type=int, default=384, help="side of one bird in pixels")
    options = parser.parse_args(arguments)
    print(f"{len(write_plates(options.out, options.size))} plates: {options.out}")


if __name__ == "__main__":
    main()
