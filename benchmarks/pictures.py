"""The pictures of docs/concepts.md and docs/architecture.md: `python -m benchmarks.pictures` writes docs/images/.

Painted birds, the built-in CNN, one seed: the same pictures each time. A name or several draws only those.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image
from torch import Tensor, nn

from finercam import FinerCAM, load_model, metrics, plot
from finercam.data.fieldguide import Fieldguide
from finercam.view.sheet import Cell, Line, sheet

SEED, BIRD, LACKING = 4242, 6, 33
"""A Grand Grossling, whose rival has another beak, and a Barred Pippin, which lacks the crest of its rival."""

DOCS = Path(__file__).parents[1] / "docs"
LIMIT = 150_000
"""Largest size of a picture in bytes, so that pages with several pictures open quickly."""


class Scene(NamedTuple):
    model: nn.Module
    names: list[str]
    photo: Image.Image
    image: Tensor
    species: int
    rival: int
    discriminative: np.ndarray


@cache
def _model() -> tuple:
    return tuple(load_model("fieldguide/cnn"))


@cache
def scene(index: int) -> Scene:
    """A picture, its species, the most probable sibling, and the pixels in which the two differ."""
    model, prepare, names = _model()
    birds = Fieldguide(index + 1, seed=SEED, size=256)
    photo, c = birds[index].open(), birds.label(index)
    image = prepare(photo)[None]
    logits = FinerCAM(model)(image).logits[0]
    rival = max(birds.siblings(c), key=lambda d: float(logits[d]))
    return Scene(model, names, photo, image, c, rival, birds.contrast_mask(index, rival))


def heat(photo: Image.Image, evidence: Tensor, title: str, *notes: str) -> Cell:
    picture = np.asarray(plot.overlay(photo, evidence, mute=0.85))
    return Cell(picture, title, tuple(Line(note) for note in notes), bar=("no evidence", "its peak"))


def contrast() -> Figure:
    """The plain map, the finer map, and the pixels in which the two species really differ."""
    s = scene(BIRD)
    answer = FinerCAM(s.model, class_names=s.names)(s.image, s.species, s.rival, gamma=1.0)
    truth = np.asarray(plot.overlay(s.photo, s.discriminative.astype(float), mute=0.85))
    c, d = s.names[s.species], s.names[s.rival]
    cells = [
        Cell(np.asarray(s.photo), "Photo", (Line(c),)),
        heat(s.photo, answer.plain.maps[0], "γ = 0", f"what speaks for {c}"),
        heat(s.photo, answer.maps[0], "γ = 1", f"rather than {d}"),
        Cell(truth, "What differs", (Line("known, since the scene can be painted again with the other bird"),)),
    ]
    return sheet([cells])


def gamma() -> Figure:
    s = scene(BIRD)
    answer = FinerCAM(s.model, class_names=s.names)(s.image, s.species, s.rival)
    return plot.gamma_strip(answer, (0.0, 0.3, 0.6, 1.0), s.photo)


def references() -> Figure:
    s = scene(BIRD)
    explain = FinerCAM(s.model, class_names=s.names, references="predicted", num_references=3, gamma=1.0)
    return plot.reference_grid(explain(s.image, s.species), s.photo)


def pair() -> Figure:
    s = scene(BIRD)
    answer = FinerCAM(s.model, class_names=s.names)(s.image, s.species, s.rival)
    return plot.pair(answer, image=s.photo)


def absence() -> Figure:
    """A part that the target lacks: the map of the target and that of the reverse question may both miss it."""
    s = scene(LACKING)
    answer = FinerCAM(s.model, class_names=s.names)(s.image, s.species, s.rival, gamma=1.0)
    truth = np.asarray(plot.overlay(s.photo, s.discriminative.astype(float), mute=0.85))
    c, d = s.names[s.species], s.names[s.rival]
    cells = [
        Cell(np.asarray(s.photo), "Photo", (Line(c),)),
        Cell(truth, "What differs", (Line(f"where {d} wears a crest"),)),
        heat(s.photo, answer.maps[0], f"For {c}", f"rather than {d}"),
        heat(s.photo, answer.reverse().maps[0], f"For {d}", f"rather than {c}"),
    ]
    return sheet([cells])


def rival() -> Figure:
    """The rival's photo beside, for a bird that lacks its rival's crest."""
    model, prepare, names = load_model("fieldguide/cnn")
    birds = Fieldguide(200, seed=4242)
    labels = birds.labels(range(200)).tolist()
    photo = birds.image(labels.index(names.index("Barred Pippin")))
    photos = [birds.image(i) for i, label in enumerate(labels) if names[label] == "Royal Pippin"]
    answer = FinerCAM(model, class_names=names)(prepare(photo)[None], "Barred Pippin", ["Royal Pippin"])
    return answer.beside(photos, prepare)[0].plot(photo, preprocess=prepare)


def layers() -> Figure:
    """The maps of layers with ever coarser grids, and their product."""
    s = scene(BIRD)
    model = load_model("fieldguide/resnet").model
    cells = [Cell(np.asarray(s.photo), "Photo", (Line(s.names[s.species]),))]
    for layers in (["layer4"], ["layer3"], ["layer2"], ["layer2", "layer3", "layer4"]):
        answer = FinerCAM(model, layer=layers, fusion="product")(s.image, s.species, s.rival, gamma=1.0)
        height, width = answer.signed.shape[1:]
        cells.append(heat(s.photo, answer.maps[0], " × ".join(layers), f"{height}×{width} places"))
    return sheet([cells])


def methods() -> Figure:
    s = scene(BIRD)
    cells = [Cell(np.asarray(s.photo), "Photo", (Line(s.names[s.species]),))]
    for method in ("gradcam", "layercam", "eigengradcam", "ablationcam"):
        answer = FinerCAM(s.model, method)(s.image, s.species, s.rival, gamma=1.0)
        cells.append(heat(s.photo, answer.maps[0], method))
    return sheet([cells])


def curves() -> Figure:
    s = scene(BIRD)
    answer = FinerCAM(s.model, class_names=s.names)(s.image, s.species, s.rival, gamma=1.0)
    gone = metrics.deletion(s.model, s.image, answer.signed_maps, answer.target, answer.references)
    names = (s.names[s.species], s.names[s.rival])
    return plot.curves(gone.shares, gone.target[0], gone.rivals[0, 0], names=names)


# --- diagrams

INK, PAPER, WARM = "#263238", "#eceff1", "#ffccbc"

EVIDENCE_BOXES = {
    "images": (0.0, 0.0), "trunk": (1.5, 0.0), "activations A": (3.2, 0.0), "tail": (4.9, 0.0), "logits y": (6.5, 0.0),
    "question v": (6.5, -1.2), "∂(v·y)/∂A": (4.9, -1.2), "evidence": (3.2, -1.2), "map": (1.5, -1.2),
}  # fmt: skip
EVIDENCE_ARROWS = [
    ("images", "trunk", "no graph"), ("trunk", "activations A", ""), ("activations A", "tail", "graph"),
    ("tail", "logits y", ""), ("logits y", "question v", ""), ("question v", "∂(v·y)/∂A", ""),
    ("∂(v·y)/∂A", "evidence", ""), ("activations A", "evidence", ""), ("evidence", "map", "any γ"),
]  # fmt: skip

PLACES = {
    "images": (0, 0), "layers": (0, -1), "question": (0, -2), "capture": (1.7, -0.5), "contrast": (1.7, -2),
    "evidence": (3.4, -1.2), "methods": (5.1, -1.2), "maps": (6.6, -1.2), "explanation": (8.2, -1.2),
    "view & report & export & app": (10.4, -0.4), "evaluation": (10.8, -1.3), "run": (10.8, -2.2), "metrics": (8.2, -2.3),
    "data": (8.2, -3.0),
}  # fmt: skip
"""The positions of the boxes of the mermaid diagram in docs/architecture.md."""


def evidence() -> Figure:
    """The diagram of one run of the model and what is stored of it."""
    return diagram(EVIDENCE_BOXES, EVIDENCE_ARROWS, warm=("evidence", "activations A", "∂(v·y)/∂A"))


def architecture() -> Figure:
    source = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return diagram(PLACES, mermaid_arrows(source), warm=("evidence",))


def mermaid_arrows(source: str) -> list[tuple[str, str, str]]:
    """(from, to, label) of a mermaid flowchart's `a -- "label" --> b`, `a --> b --> c`."""
    block = re.search(r"```mermaid\n(.*?)```", source, re.DOTALL)
    found = []
    for line in block[1].splitlines()[1:] if block else ():
        boxes = re.split(r'\s*(?:-- ".*?" )?-->\s*', line.strip())
        labels = [label or "" for label in re.findall(r'(?:-- "(.*?)" )?-->', line)]
        found += list(zip(boxes, boxes[1:], labels, strict=False))
    return found


def diagram(
    places: dict[str, tuple[float, float]], arrows: list[tuple[str, str, str]], warm: tuple[str, ...] = ()
) -> Figure:
    xs, ys = zip(*places.values(), strict=True)
    figure = Figure(figsize=(1.05 * (max(xs) - min(xs) + 1.9), 1.05 * (max(ys) - min(ys) + 0.9)), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(min(xs) - 0.95, max(xs) + 0.95)
    axes.set_ylim(min(ys) - 0.45, max(ys) + 0.45)
    boxes = {}
    for name, (x, y) in places.items():
        colour = WARM if name in warm else PAPER
        style = {"boxstyle": "round,pad=0.45", "facecolor": colour, "edgecolor": INK, "linewidth": 1}
        boxes[name] = axes.text(x, y, name, ha="center", va="center", fontsize=11, color=INK, bbox=style, zorder=3)
    for start, end, label in arrows:
        (x0, y0), (x1, y1) = places[start], places[end]
        bend = 0.35 if x0 > x1 + 3 else 0.0  # a way back goes over the top
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0), (x1, y1), patchA=boxes[start].get_bbox_patch(), patchB=boxes[end].get_bbox_patch(),
                arrowstyle="-|>", mutation_scale=13, color=INK, linewidth=1, shrinkA=1, shrinkB=1,
                connectionstyle=f"arc3,rad={bend}", zorder=4,  # after the boxes, whose size is known once drawn
            )
        )  # fmt: skip
        if label:
            level, lift = abs(y0 - y1) < 0.1, 0.5 * bend * abs(x0 - x1)
            axes.text(
                (x0 + x1) / 2, (y0 + y1) / 2 + lift + (0.12 if level else 0), label, ha="center",
                va="bottom" if level else "center", fontsize=8.5, color=INK, style="italic", zorder=5,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
    return figure


DRAWN: dict[str, Callable[[], Figure]] = {
    **{f"concept-{f.__name__}": f for f in (contrast, gamma, references, pair, absence, layers, methods, curves)},
    "concept-evidence": evidence,
    "beside": rival,
    "architecture": architecture,
}


def save(figure: Figure, path: Path) -> None:
    """Save as a PNG with 256 colours; a file that is too large is dithered and made smaller."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, facecolor="white")
    whole = Image.open(stream).convert("RGB")
    for percent in range(75, 20, -5):
        # Figures are drawn large and shrunk, because text at a low resolution is wider than measured.
        size = (whole.width * percent // 100, whole.height * percent // 100)
        image = whole.resize(size, Image.Resampling.LANCZOS)
        for one in (image, _few_colours(image)):
            small = io.BytesIO()
            one.save(small, "PNG", optimize=True)
            if small.tell() < LIMIT:
                path.write_bytes(small.getvalue())
                return


def _few_colours(image: Image.Image) -> Image.Image:
    palette = image.quantize(256, Image.Quantize.MAXCOVERAGE)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[colours.sum(1).argmax()] = 255  # the paper is white
    palette.putpalette(colours.flatten().tolist())
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    torch.manual_seed(0)
    for name in sys.argv[1:] or DRAWN:
        save(DRAWN[name](), DOCS / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
