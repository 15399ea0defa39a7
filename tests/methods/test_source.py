"""An averaging head needs no run backwards: its rows are the gradients, where the model says so itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from finercam import FinerCAM


class Pooled(nn.Module):
    """`times` scales the gradient and leaves the value: what only the model's own gradients can tell."""

    def __init__(self, inner, times=1.0) -> None:
        super().__init__()
        self.features, self.head, self.times = inner.features, inner.head, times

    def forward(self, x):
        maps = self.features(x)
        if self.times != 1:
            maps = maps * self.times + (maps * (1 - self.times)).detach()
        return self.head(maps.mean(dim=(2, 3)))


def sources(model, images, **options):
    explain = FinerCAM(model, layer="features", **options)
    source = explain.capture(images)
    return source, replace(source, averaged=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_rows_are_the_gradients(toys, pictures, dtype, channels_last):
    model, images = toys.gap().to(dtype), pictures(3).to(dtype)
    if channels_last:
        model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    quick, slow = sources(model, images)
    assert quick.averaged is not None
    directions = torch.randn(3, 4, 5, dtype=torch.float64)
    (mine,), (own,) = quick.gradients(directions), slow.gradients(directions)
    assert mine.shape == own.shape and mine.dtype == own.dtype
    torch.testing.assert_close(mine, own, rtol=1e-5, atol=1e-7)
    assert mine.stride()[-2:] == (0, 0)


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_where_only_the_value_is_an_average_the_model_is_asked(toys, pictures, times):
    source, _ = sources(Pooled(toys.gap(), times), pictures(2))
    assert source.averaged is None
    plain = FinerCAM(Pooled(toys.gap()), layer="features")(pictures(2))
    scaled = FinerCAM(Pooled(toys.gap(), times), layer="features")(pictures(2))
    torch.testing.assert_close(scaled.signed, times * plain.signed)


@pytest.mark.parametrize("spoil", ["layers", "tail", "half", "hook"])
def test_other_models_go_backwards(toys, pictures, spoil):
    model, images, layer = toys.gap(), pictures(2), "features"
    if spoil == "layers":
        layer = ["features.0", "features"]
    if spoil == "tail":
        model, layer = toys.cnn(), "stage1"
    if spoil == "half":
        model, images = model.bfloat16(), images.bfloat16()
    if spoil == "hook":  # it changes the logits after the head
        model.head.register_forward_hook(lambda _m, _i, output: output * 2)
    source = FinerCAM(model, layer=layer).capture(images)
    assert source.averaged is None


def test_the_head_is_read_anew_each_time(toys, pictures):
    model = toys.gap()
    explain = FinerCAM(model, layer="features")
    before = explain(pictures(2), 0, 1).signed
    with torch.no_grad():
        model.head.weight.mul_(-3)
    torch.testing.assert_close(explain(pictures(2), 0, 1).signed, -3 * before)


def test_no_run_backwards_happens(toys, pictures, monkeypatch):
    explain = FinerCAM(toys.gap(), layer="features")
    explain(pictures(2))
    monkeypatch.setattr(torch.autograd, "grad", None)
    explain(pictures(2))
