"""The picture at the head of the README: `python -m benchmarks.hero` writes docs/images/hero.png."""

from __future__ import annotations

from pathlib import Path

import torch

from finercam import FinerCAM, load_model
from finercam.data.fieldguide import Fieldguide
from finercam.view.plot import panel

SEED, INDICES = 4242, (1, 5)


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
    out = Path(__file__).parents[1] / "docs" / "images" / "hero.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    panel(answer, photos, preprocess=prepare).savefig(out, dpi=80)


if __name__ == "__main__":
    main()
