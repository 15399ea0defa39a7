"""A small classifier with a tail that tells the methods apart, and pictures that are not square."""

import pytest
import torch
from torch import nn

from finercam import FinerCAM

SIZE = (60, 84)


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 5, stride=6), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 14)).eval()


@pytest.fixture(scope="session")
def images():
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def class_names():
    return [f"bird {k}" for k in range(14)]


@pytest.fixture(scope="session")
def explain(model, class_names):
    """Explainer with other settings, the layer fixed."""

    def make(**more):
        names = more.pop("class_names", class_names)
        settings = {"layer": "1", "references": "similar", "num_references": 3} | more
        return FinerCAM(model, class_names=names, **settings)

    return make
