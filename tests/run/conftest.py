"""Small pictures on disk, and models that explain them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from finercam.images import Preprocess
from finercam.models.loaded import LoadedModel

NAMES = ["wren", "robin", "finch", "heron", "swift"]


def painted(path: Path, seed: int, size: tuple[int, int] = (20, 20)) -> Path:
    """A PNG of noise that depends on the seed alone."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def paint() -> Callable[..., Path]:
    return painted


@pytest.fixture
def pictures_in() -> Callable[..., Path]:
    """`pictures_in(folder, 10)`: ten pictures in the class folders `wren` and `robin`."""

    def make(folder: Path, count: int) -> Path:
        for seed in range(count):
            painted(folder / NAMES[seed % 2] / f"{seed:03d}.png", seed)
        return folder

    return make


@pytest.fixture(scope="session")
def toy(toys) -> Callable[..., LoadedModel]:
    """A loaded model of five classes at 16 px."""

    def make(
        model: nn.Module | None = None, seed: int = 0, names: list[str] | None = NAMES, **prepare
    ) -> LoadedModel:
        prepare = prepare or {"size": (16, 16)}
        return LoadedModel(model or toys.cnn(seed=seed), Preprocess(**prepare), names, "toy")

    return make


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory) -> Path:
    """A model folder, for what loads its model by a string."""
    from finercam.models.builtin import PatchCNN
    from finercam.models.directory import save_directory

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = PatchCNN(len(NAMES), (4, 6, 8, 8))
    return save_directory(
        tmp_path_factory.mktemp("model") / "tiny",
        model,
        architecture={"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 5, "widths": [4, 6, 8, 8]}},
        class_names=NAMES,
        preprocess=Preprocess((16, 16)),
    )
