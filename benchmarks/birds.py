"""Two photographs with what a bird guide names boxed by hand, and the classifier of ../shared/data/inat-birds.

The photographs are shown at 448 px (maps of 14×14; at the model's own 224 px they are 7×7, and a cell is as large as the
beak). Boxes are `(left, top, right, bottom)` as shares of width and height.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from finercam import FinerCAM
from finercam.images import Preprocess, read_image

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "inat-birds"
SIZE = 448

BEAK = (0.13, 0.06, 0.39, 0.22)
HEAD = (0.13, 0.04, 0.62, 0.27)
WING_BARS = (0.62, 0.27, 0.92, 0.58)
FOLDED_WING = (0.58, 0.25, 0.92, 0.60)
CHICKADEE_WING = (0.21, 0.40, 0.68, 0.62)
CHICKADEE_HEAD = (0.07, 0.22, 0.33, 0.45)
CHICKADEE_TAIL = (0.62, 0.52, 0.95, 0.66)

QUESTIONS = {
    ("blue_grosbeak", "Indigo Bunting"): {"beak": BEAK, "wing bars": WING_BARS},
    ("black-capped_chickadee", "Carolina Chickadee"): {"folded wing": CHICKADEE_WING, "head": CHICKADEE_HEAD},
}
ASKED = ("plain", "paper", "pair, 0.6", "pair, 1", "pair, 1.5", "brightest: plain", "pair, 1 ")


def network(classes: int = 965) -> torch.nn.Module:
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", num_classes=classes, pad_type="same")
    model.load_state_dict(load_file(FOLDER / "mobilenetv2_100.safetensors"))
    return model.eval()


def preprocess(size: int = SIZE) -> Preprocess:
    grey = (128 / 255,) * 3
    return Preprocess((size, size), mode="squash", interpolation="bilinear", mean=grey, std=grey)


def rows() -> list[list[str]]:
    """For each question and box, the share of the map's positive mass in the box, and whether its maximum is there."""
    names = (FOLDER / "labels.txt").read_text(encoding="utf-8").splitlines()
    explain = FinerCAM(network(), class_names=names, keep=12, preset="paper")
    found = []
    for (photo, rival), boxes in QUESTIONS.items():
        answer = explain(preprocess()(read_image(FOLDER / "images" / f"{photo}.jpg"))[None])
        pair = answer.ask(against=[rival], gamma=1.0)
        answers = [answer.plain, answer, pair.ask(gamma=0.6), pair, pair.ask(gamma=1.5)]
        maps = [each.maps[0].numpy().astype(float) for each in answers]
        for part, box in boxes.items():
            region = inside(box, maps[0].shape)
            cells = [f"{one[region].sum() / one.sum():.3f}" for one in maps]
            hits = ["yes" if region.flat[maps[k].argmax()] else "no" for k in (0, 3)]
            found.append([photo.replace("_", " "), rival, part, f"{region.mean():.3f}", *cells, *hits])
    return found


def inside(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels `(H, W)` whose centres lie in a box."""
    left, top, right, bottom = box
    y, x = ((np.arange(side) + 0.5) / side for side in shape)
    return ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]
