"""How often a map's peak lies on the bird, by the strength of the map; the basis of `finercam.view.strength.WEAK`.

    python -m benchmarks.strength

Every second photograph of ../shared/data/cub-dev, explained by the MobileNetV2 of ../shared/data/inat-birds at 224 px:
its prediction against the strongest other class, at nine strengths of the contrast.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from benchmarks.birds import network, preprocess

from finercam import FinerCAM
from finercam.data.cub import CUB
from finercam.view.drawn import strength_of

DATA = Path(__file__).parents[2] / "shared" / "data" / "cub-dev" / "CUB_200_2011"
GAMMAS = (0.3, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
EDGES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.01)


def readings() -> np.ndarray:
    """A row for each photograph and gamma: strength, whether the peak is in the box, and the box's share of the area."""
    data, explain, prepare = CUB(DATA), FinerCAM(network(), "gradcam", layer="bn2"), preprocess(224)
    rows = []
    for sample in list(data)[::2]:
        photo = sample.open()
        left, top, right, bottom = (round(side) for side in sample.annotation.box)
        box = np.zeros((photo.height, photo.width), bool)
        box[top:bottom, left:right] = True
        inside = prepare.mask(box, photo.size)
        answer = explain(prepare(photo)[None])
        for gamma in GAMMAS:
            one = answer.ask(gamma=gamma)
            at = int(one.maps[0].argmax())
            rows.append((strength_of(one).value, bool(inside.flat[at]), inside.mean()))
    return np.array(rows, dtype=float)


def main() -> None:
    found = readings()
    print("strength      maps  peak in the box  box's area")
    for low, high in pairwise(EDGES):
        part = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        print(f"{low:.2f} to {high:.2f}  {len(part):4d}  {part[:, 1].mean():15.0%}  {part[:, 2].mean():10.0%}")


if __name__ == "__main__":
    main()
