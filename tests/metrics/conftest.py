"""A small classifier, pictures and maps: enough for the formulas, small enough for a brute-force answer."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors here are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth_noise(*shape: int, seed: int) -> torch.Tensor:
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(noise, 5, 1, 2)
    return smooth / smooth.std()


@pytest.fixture(scope="session")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 5),
        )
        for parameter in net.parameters():
            parameter.data.mul_(2.5)
    return net.eval()


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return smooth_noise(4, 3, 20, 24, seed=0)


@pytest.fixture(scope="session")
def maps() -> torch.Tensor:
    """Signed and without ties."""
    return smooth_noise(4, 1, 20, 24, seed=1)[:, 0]


@pytest.fixture(scope="session")
def target() -> torch.Tensor:
    return torch.tensor([0, 3, 2, 4])


@pytest.fixture(scope="session")
def masks() -> torch.Tensor:
    grid = torch.zeros(4, 20, 24, dtype=torch.bool)
    for i in range(4):
        grid[i, 3 + i : 9 + i, 2 * i : 2 * i + 7] = True
    return grid


class FixedMap:
    """The interface of an extractor that torch-cam's metric needs, with given maps."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, class_idx, scores):
        return [self.maps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return contextlib.nullcontext()


@pytest.fixture(scope="session")
def fixed_map():
    return FixedMap
