"""The stand-in gives the model's logits and leaves the model alone; where it could not, there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finercam import FinerCAM
from finercam.methods.fold import folded


def folded_of(model, images):
    with torch.no_grad():
        return folded(model, images, model(images))


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_the_stand_in_gives_the_same_logits_without_the_norms(toys, pictures):
    model, images = toys.cnn(), pictures(3)
    before = {name: (id(module), dict(vars(module))) for name, module in model.named_modules()}
    faster = folded_of(model, images[:1])
    assert norms(model) == 2 and norms(faster) == 0
    torch.testing.assert_close(faster(images), model(images), rtol=1e-5, atol=1e-6)
    assert {name: (id(module), dict(vars(module))) for name, module in model.named_modules()} == before
    assert faster.get_submodule("head").weight is model.head.weight  # shared, not copied


class Shared(nn.Module):
    """What the convolution gives is used beside the norm too, and a second norm stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.alone = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(3)
        self.seen = None

    def forward(self, x):
        maps = self.conv(self.alone(x))
        self.seen = maps
        return (self.norm(maps) + maps).mean((2, 3))


class Branching(nn.Module):
    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if x.sum() > -1e9 else self.inner(-x)


def test_a_convolution_that_is_used_elsewhere_is_not_folded(toys, pictures):
    model = toys.seeded(Shared())
    assert folded_of(model, pictures(1)) is None
    assert isinstance(model.seen, torch.Tensor) and not isinstance(model.seen, torch.fx.Proxy)


@pytest.mark.parametrize("spoil", ["hook", "branch", "none", "other"])
def test_what_cannot_be_folded_has_no_stand_in(toys, pictures, spoil):
    model, images = toys.cnn(), pictures(1)
    logits = model(images)
    if spoil == "hook":
        model.head.register_forward_hook(lambda *_: None)
    if spoil == "branch":
        model = Branching(model)
    if spoil == "none":
        model = toys.gap()
        logits = model(images)
    if spoil == "other":
        logits = logits + 0.1
    assert folded(model, images, logits) is None


@pytest.mark.parametrize("method", ["scorecam", "gscorecam"])
def test_score_maps_are_the_same_with_it_and_without(toys, pictures, method):
    plain, hooked = toys.cnn(), toys.cnn()
    hooked.head.register_forward_hook(lambda *_: None)  # keeps it from being folded
    with_it, without = (FinerCAM(m, method, layer="stage1")(pictures(2)) for m in (plain, hooked))
    torch.testing.assert_close(
        with_it.signed, without.signed, rtol=1e-3, atol=1e-5 * float(without.signed.abs().max())
    )
