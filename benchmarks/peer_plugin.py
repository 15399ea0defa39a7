"""A pytest plugin for the tests of other libraries: what they would download, made here with a fixed seed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    import torchvision

    draw_photo(Path(config.rootpath) / "examples" / "both.png")
    for name in ("resnet18", "vgg11"):
        setattr(torchvision.models, name, random_weights(getattr(torchvision.models, name)))


def draw_photo(path: Path) -> None:
    """A photo that is no noise and has no symmetry: a bird of the Fieldguide."""
    from PIL import Image

    from finercam.data.fieldguide import Fieldguide

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(Fieldguide(1, size=256).picture(0).image).save(path)


def random_weights(build: Callable[..., Any]) -> Callable[..., Any]:
    """The same network with random weights in the place of trained ones, drawn once for all tests."""

    @functools.cache
    def made() -> Any:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build(weights=None)

    @functools.wraps(build)
    def built(**_: Any) -> Any:
        return copy.deepcopy(made())  # some tests change it

    return built
