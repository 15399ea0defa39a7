"""A backbone without a zoo, and a folder of pictures whose class is their colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finercam.images import Preprocess
from finercam.models.backbone import Backbone
from finercam.models.builtin import PatchCNN
from finercam.models.towers import tower_of

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 40, 50)}


@pytest.fixture
def backbone(toys: Any) -> Backbone:
    """24 features of a small convolutional network with random weights."""
    options = {"num_classes": 2, "widths": (8, 8, 16, 24)}
    tower = tower_of(toys.seeded(PatchCNN(**options)))
    architecture = {"library": "builtin", "name": "cnn", "kwargs": options, "pool": "avg"}
    return Backbone(tower.eval(), 24, Preprocess((32, 32)), "toy", architecture, {"backbone": "toy", "pool": "avg"})


@pytest.fixture
def pictures_of() -> Callable[..., Path]:
    """`pictures_of(folder, count, seed)` writes `count` noisy pictures of each colour into class folders."""

    def write(folder: Path, count: int, seed: int = 0, colours: tuple[str, ...] = tuple(COLOURS)) -> Path:
        random = np.random.default_rng(seed)
        for name in colours:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                noise = random.normal(0, 40, (40, 48, 3))
                pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
        return folder

    return write
