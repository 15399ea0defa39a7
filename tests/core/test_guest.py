"""The caller's model is a guest in more ways: threads, random numbers, normalised weights, odd models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from finercam import FinerCAM, FinerCAMError


@pytest.mark.parametrize("training", [False, True])
def test_eight_threads_get_the_answers_of_one(toys, pictures, training):
    """Two explainers of one model; in train mode a race would also move the running statistics."""
    model = toys.cnn().train(training)
    explainers = [FinerCAM(model, layer="stage1"), FinerCAM(model, "layercam", layer="stage2")]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    images = [pictures(2, seed=seed) for seed in range(6)]
    expected = [explainers[i % 2](x, 0, against=1).signed for i, x in enumerate(images)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i, pool.submit(explainers[i % 2], images[i], 0, 1)) for _ in range(20) for i in range(6)]
        for i, job in jobs:
            assert torch.equal(job.result().signed, expected[i])
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert all(module.training is training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_global_random_numbers_are_put_back(toys, pictures):
    class Noisy(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(nn.functional.dropout(x, 0.1) + 0.01 * torch.randn_like(x))

    images, model = pictures(2), Noisy(toys.gap())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    answer = FinerCAM(model)(images)
    assert torch.equal(torch.get_rng_state(), before)
    answer.ask(target=1, against=[[0], [2]], method="scorecam")
    assert torch.equal(torch.get_rng_state(), before)


def test_spectral_norm_in_train_mode_keeps_its_buffers(toys, pictures):
    model = toys.gap()
    nn.utils.parametrizations.spectral_norm(model.head)
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert before
    FinerCAM(model, references="similar")(pictures(2))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_model_built_in_inference_mode_is_refused_and_left_as_it_was(toys, pictures):
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(FinerCAMError, match=r"built under torch\.inference_mode"):
        FinerCAM(model)(pictures(2))
    assert all(parameter.requires_grad for parameter in model.parameters())


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if isinstance(ctx.value, Exception):
            raise ctx.value
        out = grad.clone()
        out[1] = ctx.value
        return out, None


class Odd(nn.Module):
    def __init__(self, inner, value) -> None:
        super().__init__()
        self.stage1, self.inner, self.value = inner.stage1, inner, value

    def forward(self, x):
        maps = self.inner.stage2(self.inner.relu(BadBackward.apply(self.stage1(x), self.value)))
        return self.inner.head(maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_refused_by_sample(toys, pictures, value):
    explain = FinerCAM(Odd(toys.cnn(), value), layer="stage1", batch_size=5)
    with pytest.raises(FinerCAMError, match=r"gradients at layer stage1 are not finite for samples \[1\]"):
        explain(pictures(5), 0, against=1)


def test_a_backward_that_raises_is_one_line(toys, pictures):
    with pytest.raises(FinerCAMError, match="what follows layer 'stage1' cannot be differentiated: mine") as caught:
        FinerCAM(Odd(toys.cnn(), ZeroDivisionError("mine")), layer="stage1")(pictures(2), 0, against=1)
    assert "\n" not in str(caught.value)


def test_a_layer_that_does_not_reach_the_logits_is_refused(toys, pictures):
    """After the last attention of a model that reads its CLS token, patches say nothing: a blank map is no answer."""

    class ReadsCls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 5)
            self.cls_token = nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            first = self.cls_token + tokens.mean(1, keepdim=True)
            return self.head(self.norm(torch.cat([first, tokens], 1))[:, 0])

    model = toys.seeded(ReadsCls())
    with pytest.raises(FinerCAMError, match="layer 'norm': its patches do not reach the logits"):
        FinerCAM(model, layer="norm")(pictures(2))
    with pytest.raises(FinerCAMError, match="layer 'norm': its patches do not reach the logits"):
        FinerCAM(model, "reciprocam", layer="norm")(pictures(2))  # gave enlarged rounding errors
    assert FinerCAM(model, layer="embed")(pictures(2)).maps.any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer": 3}, "layer=3: expected a module"),
        ({"layer": {"a": 1}}, "expected a module"),
        ({"layout": 3}, "layout=3: expected"),
        ({"scores": 3}, "scores=3: expected a function"),
        ({"references": "confused", "confusion": "x"}, "confusion: expected a (K, K) matrix"),
        ({"references": "confused", "confusion": torch.zeros(3)}, "confusion has shape (3,)"),
        ({"layer": "features", "fusion": "product"}, "joins the maps of several layers, and there is one"),
        ({"keep_images": np.array([])}, "keep_images=array([], dtype=float64): expected True or False"),
        ({"gamma": torch.tensor([1.0, 2.0]).to_sparse()}, "2 values of gamma"),
    ],
    ids=str,
)
def test_options_of_the_wrong_kind(toys, pictures, options, says):
    with pytest.raises(FinerCAMError) as caught:
        FinerCAM(toys.gap(), **options)(pictures(1))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(2, 3, 16, 16).to_sparse(), "images are a sparse tensor"),
        (torch.zeros(2, 3, 16, 16, device="meta"), "images are a tensor without values"),
        (torch.nested.nested_tensor([torch.zeros(3, 16, 16), torch.zeros(3, 8, 8)]), "images are a nested tensor"),
    ],
    ids=["sparse", "meta", "nested"],
)
def test_tensors_of_odd_kinds(toys, images, says):
    with pytest.raises(FinerCAMError, match=says):
        FinerCAM(toys.gap(), layer="features")(images)


@pytest.mark.parametrize("kind", ["script", "meta", "lazy", "complex", "empty", "sparse", "nested"])
def test_models_of_odd_kinds(toys, pictures, kind):
    model = toys.gap()
    if kind == "script":
        model = torch.jit.trace(model, pictures(1))
    elif kind == "meta":
        model = model.to("meta")
    elif kind == "lazy":
        model = nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    elif kind in ("complex", "sparse", "nested"):
        made = {
            "complex": lambda x: x + 1j,
            "sparse": torch.Tensor.to_sparse,
            "nested": lambda x: torch.nested.nested_tensor([x[0]]),
        }
        model = nn.Sequential(model, type("Ends", (nn.Module,), {"forward": lambda self, x: made[kind](x)})())
    else:
        model.head = nn.Linear(6, 0)
    with pytest.raises(FinerCAMError) as caught:
        FinerCAM(model)(pictures(1))
    assert "\n" not in str(caught.value)


def test_an_answer_is_an_array_of_its_maps(toys, pictures):
    answer = FinerCAM(toys.gap(), layer="features")(pictures(2))
    assert np.array_equal(np.asarray(answer), answer.maps.numpy())
    assert np.asarray(answer, dtype=np.float64).dtype == np.float64


def test_an_unknown_layer_lists_modules_at_every_depth(toys, pictures):
    with pytest.raises(FinerCAMError, match=r"It has: stage1, stage1\.0, stage1\.1"):
        FinerCAM(toys.cnn(), layer="zzzzzz")(pictures(1))
    with pytest.raises(FinerCAMError, match=r"stage2 has: stage2\.0, stage2\.1, stage2\.2"):
        FinerCAM(toys.cnn(), layer="stage2.xxxxxxxxxxxxxx")(pictures(1))
