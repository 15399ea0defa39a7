"""The pictures at the head of the README: `python -m benchmarks.hero` writes docs/images/hero.png.

Where the bird classifier is at hand (see benchmarks/birds.py), it also writes docs/images/photograph.png.
"""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.birds import FOLDER, network, preprocess
from matplotlib.figure import Figure

from finercam import FinerCAM, load_model
from finercam.data.fieldguide import Fieldguide
from finercam.images import read_image
from finercam.view.plot import overlay, panel

SEED, INDICES = 4242, (1, 5)
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    model, prepare, names = load_model("fieldguide/cnn")
    birds = Fieldguide(max(INDICES) + 1, seed=SEED, size=256)
    photos = [birds[index].open() for index in INDICES]
    labels = [birds.label(index) for index in INDICES]
    images = torch.stack([prepare(photo) for photo in photos])
    explain = FinerCAM(model, class_names=names)
    logits = explain(images).logits
    rivals = [[max(birds.siblings(c), key=lambda d, y=y: float(y[d]))] for c, y in zip(labels, logits, strict=True)]
    answer = explain(images, target=labels, against=rivals, gamma=1.0)
    IMAGES.mkdir(parents=True, exist_ok=True)
    panel(answer, photos, preprocess=prepare).savefig(IMAGES / "hero.png", dpi=80)
    if FOLDER.exists():
        photograph()


def photograph() -> None:
    """A photograph, the plain map of the last layer, and the default contrast with a sibling species."""
    names = (FOLDER / "labels.txt").read_text(encoding="utf-8").splitlines()
    photo, model = read_image(FOLDER / "images" / "blue_grosbeak.jpg"), network()
    images = preprocess(224)(photo)[None]
    plain = FinerCAM(model, preset="fast", gamma=0.0, class_names=names)(images, "Blue Grosbeak")
    finer = FinerCAM(model, class_names=names)(images, "Blue Grosbeak", against="Indigo Bunting")
    shown = photo.resize((448, 448))
    columns = (
        ("Photo: Blue Grosbeak", shown),
        ("Grad-CAM: why Blue Grosbeak?", overlay(shown, plain.maps[0], mute=0.85)),
        ("finercam: why not Indigo Bunting?", overlay(shown, finer.maps[0], mute=0.85)),
    )
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, len(columns)), columns, strict=True):
        axis.imshow(picture)
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    figure.savefig(IMAGES / "photograph.png", dpi=80)


if __name__ == "__main__":
    main()
