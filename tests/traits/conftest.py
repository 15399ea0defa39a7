"""A tiny model whose classes have hostile names, and noisy photos of them in a list."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finercam.images import Preprocess
from finercam.models.builtin import PatchCNN
from finercam.models.directory import save_directory
from finercam.models.loaded import LoadedModel

HOSTILE = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "two\nlines \x1b[31mred",
    "=HYPERLINK(1)",
    "long " * 120,
    "זרזיר \u202eabc",
]


def tiny() -> PatchCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return PatchCNN(len(HOSTILE), (4, 6, 8, 8)).eval()


@pytest.fixture(scope="session")
def hostile() -> LoadedModel:
    return LoadedModel(tiny(), Preprocess((32, 32)), list(HOSTILE), "tiny <b>model</b>")


@pytest.fixture(scope="session")
def photo_list() -> Callable[..., Path]:
    """A list of `count` photos for each of `classes`, by id; class c is noise with a bright square of its own."""

    def make(folder: Path, count: int = 4, classes: int = len(HOSTILE)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for label in range(classes):
            for at in range(count):
                pixels = np.random.default_rng(100 * label + at).integers(0, 120, (32, 32, 3), np.uint8)
                pixels[4 * label : 4 * label + 8, 4:12, label % 3] = 250
                name = f"{label}-{at} <i>.png"
                Image.fromarray(pixels).save(folder / name)
                rows.append((name, label))
        with (folder / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *rows])
        return folder / "list.csv"

    return make


@pytest.fixture(scope="session")
def saved_tiny(tmp_path_factory) -> Path:
    """The tiny model as a folder, for what loads it by a string."""
    widths = [4, 6, 8, 8]
    return save_directory(
        tmp_path_factory.mktemp("model") / "tiny",
        tiny(),
        architecture={"library": "builtin", "name": "cnn", "kwargs": {"num_classes": len(HOSTILE), "widths": widths}},
        class_names=list(HOSTILE),
        preprocess=Preprocess((32, 32)),
    )
