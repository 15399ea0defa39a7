"""Presets, the product of stages, fusions and the larger view."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finercam import FinerCAM
from finercam.core.evidence import NotKept
from finercam.core.fuse import FUSIONS, fuse
from finercam.errors import FinerCAMError


class Pyramid(nn.Module):
    """Four stages of halving size, the third with a skip connection; grids of at most 16 are not smoothed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.expand = nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU())
        self.inside = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 10, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(self.expand(self.stem(x)))
        return self.head(self.last(x + self.inside(x)).mean(dim=(2, 3)))


@pytest.fixture
def model(toys) -> nn.Module:
    return toys.seeded(Pyramid())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_stages_take_the_most_channels_and_no_way_round(model, images):
    answer = FinerCAM(model, layer="stages:4")(images)
    assert answer.layers == ("stem", "expand", "last")
    assert FinerCAM(model, layer=["stages:2"])(images).layers == ("expand", "last")
    for wrong in ("stages:0", "stages:x", "stages:-1"):
        with pytest.raises(FinerCAMError, match="stages"):
            FinerCAM(model, layer=wrong)(images)


def test_nothing_said_is_fine_and_any_word_about_the_maps_is_measured(model, images):
    answer = FinerCAM(model)(images)
    assert (answer.method, answer.question.fusion, float(answer.gamma[0])) == ("finecam", "product", 1.0)
    assert answer.layers == ("stem", "expand", "last")
    assert "the product of stem, expand, last" in repr(answer)
    for said in ({"method": "gradcam"}, {"layer": "last"}, {"fusion": "mean"}, {"smooth": "flip"}):
        other = FinerCAM(model, **said)(images)
        assert (other.method, other.layers, float(other.gamma[0])) == ("gradcam", ("last",), 0.6)
    with pytest.raises(FinerCAMError, match=r"Did you mean 'fine' or 'finest'|Did you mean 'finest' or 'fine'"):
        FinerCAM(model, preset="finee")


def test_what_is_given_overrides_the_preset(model, images):
    answer = FinerCAM(model, "layercam", preset="fine", gamma=0.5, layer="stages:2")(images)
    assert (answer.method, answer.layers, answer.question.fusion) == ("layercam", ("expand", "last"), "product")
    assert answer.gamma.tolist() == [0.5] * 3


def test_fine_is_the_product_of_hirescam(model, images):
    fine = FinerCAM(model)(images, target=1, against=[2])
    layers = list(fine.layers)
    slow = FinerCAM(model, "hirescam", layer=layers, fusion="product", gamma=1.0)(images, target=1, against=[2])
    torch.testing.assert_close(fine.signed, slow.signed)


@pytest.mark.parametrize("preset", ["fine", "finest"])
def test_questions_asked_again_are_what_a_fresh_answer_says(model, images, preset):
    explain = FinerCAM(model, preset=preset)
    first = explain(images, target=1, against=[2, 3])
    for asked, fresh in (
        ({"gamma": 0.0}, {"target": 1, "against": [2, 3], "gamma": 0.0}),
        ({"against": [4]}, {"target": 1, "against": [4]}),
        ({"target": 0, "against": [2]}, {"target": 0, "against": [2]}),
    ):
        torch.testing.assert_close(first.ask(**asked).signed, explain(images, **fresh).signed)
    order = [2, 0, 1]
    torch.testing.assert_close(explain(images[order], target=1, against=[2, 3]).signed, first.signed[order])
    swept = first.sweep([0.0, 0.7])
    torch.testing.assert_close(swept[1], first.ask(gamma=0.7).maps)


def test_one_direction_is_kept_unless_more_are_wanted(model, images):
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    answer = FinerCAM(model, keep_images=False)(images, target=1, against=[2])
    assert answer.seen[0][1].directions.shape[1] == 1
    assert [a.shape[1] for a in answer.seen[0][1].activations] == [1, 1, 1]
    with pytest.raises(NotKept):
        answer.ask(gamma=0.3)
    kept = FinerCAM(model, keep="references", keep_images=False)(images, target=1, against=[2])
    before = len(runs)
    kept.ask(gamma=0.3), kept.plain, kept.reverse(), kept.sweep([0.0, 1.0])
    assert len(runs) == before
    with pytest.raises(FinerCAMError, match="orthogonal"):
        kept.ask(weights="orthogonal")


def test_finest_looks_at_a_larger_view_and_keeps_the_question(model, images):
    answer = FinerCAM(model, preset="finest")(images)
    usual = FinerCAM(model, preset="fast")(images)
    assert [view.scale for view, _ in answer.seen] == [1.0, 1.5]
    assert answer.signed.shape == (3, 24, 24) and answer.maps.shape == (3, 32, 32)
    assert torch.equal(answer.logits, usual.logits)
    assert torch.equal(answer.references, usual.references)


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


def test_a_model_of_one_size_has_no_larger_view(toys, images):
    model = toys.seeded(OneSize())
    with pytest.warns(UserWarning, match="the preset's larger view is left out: the model could not run"):
        assert len(FinerCAM(model, preset="finest")(images).seen) == 1
    with pytest.raises(FinerCAMError, match="could not run"):
        FinerCAM(model, preset="finest", smooth="larger")(images)


def test_tokens_of_one_grid_have_their_own_recipe(toys, images):
    answer = FinerCAM(toys.vit())(images[:, :, :16, :16])
    assert (answer.method, answer.question.fusion) == ("relevance", "product")
    assert answer.layers[:2] == ("input", "embed")
    answer = FinerCAM(toys.vit(), preset="fast")(images[:, :, :16, :16])
    assert (answer.method, len(answer.layers), answer.question.fusion) == ("hirescam", 1, "mean")


class Rounded(torch.autograd.Function):
    """Pixels in whole steps; what it has no backward for."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("rounding has no gradient")


class RoundedStem(nn.Module):
    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vit(Rounded.apply(x))


def test_where_relevance_is_impossible_the_last_layer_is_used_and_said(toys, images):
    model, images = RoundedStem(toys.vit()), images[:, :, :16, :16]
    with pytest.warns(UserWarning, match=r"relevance is replaced by HiResCAM of the last layer: .*no gradient"):
        answer = FinerCAM(model)(images, target=1, against=[2])
    expected = FinerCAM(model, "hirescam", gamma=1.0)(images, target=1, against=[2])
    assert (answer.method, answer.layers) == ("hirescam", expected.layers)
    torch.testing.assert_close(answer.signed, expected.signed)


def test_a_fusion_of_one_layer_is_refused(model, images):
    with pytest.raises(FinerCAMError, match="several layers"):
        FinerCAM(model, "hirescam", layer="last", fusion="product")(images)
    with pytest.raises(FinerCAMError, match="several layers"):
        FinerCAM(model, "hirescam")(images).ask(fusion="geometric")


def test_fusions_agree_on_signs_and_order():
    random = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, side, side, generator=random) for side in (4, 8, 8)]
    product, geometric, weighted = (fuse(maps, name) for name in ("product", "geometric", "weighted"))
    assert torch.equal(
        product.flatten(1).argsort(dim=1, stable=True), geometric.flatten(1).argsort(dim=1, stable=True)
    )
    assert float(geometric.abs().mean()) > float(product.abs().mean())
    assert float(weighted.abs().max()) == 1
    for name in FUSIONS:
        torch.testing.assert_close(fuse([-one for one in maps], name), -fuse(maps, name))
