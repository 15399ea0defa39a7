"""Logits: before a final softmax or sigmoid, through scores=, with the data of each image."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from finercam import FinerCAM, FinerCAMError


class Ending(nn.Module):
    """A classifier that returns what `last` makes of its logits."""

    def __init__(self, inner: nn.Module, last) -> None:
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x):
        return self.last(self.inner(x))


@pytest.mark.parametrize(
    ("last", "link"),
    [
        (nn.Softmax(dim=1), "softmax"),
        (lambda y: y.softmax(1), "softmax"),
        (lambda y: torch.nn.functional.log_softmax(y, 1), "softmax"),
        (nn.Sigmoid(), "sigmoid"),
        (torch.sigmoid, "sigmoid"),
    ],
)
def test_a_final_softmax_or_sigmoid_is_taken_off_and_said(toys, pictures, last, link):
    inner, images = toys.cnn(), pictures(2)
    explain = FinerCAM(Ending(inner, last), layer="inner.stage2")
    with pytest.warns(UserWarning, match="the model ends in a .*; its classes are explained by the logits before it"):
        answer = explain(images, 1, against=3)
    expected = FinerCAM(inner, layer="stage2", link=link)(images, 1, against=3)
    torch.testing.assert_close(answer.logits, expected.logits)
    torch.testing.assert_close(answer.signed, expected.signed)
    torch.testing.assert_close(answer.probabilities, expected.probabilities)
    assert answer.link == link
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        torch.testing.assert_close(explain(images, 1, against=3).signed, expected.signed)
    scored = FinerCAM(Ending(inner, last), "scorecam", layer="inner.stage2")
    with pytest.warns(UserWarning, match="explained by the logits"):
        theirs = scored(images, 1, against=3).signed
    torch.testing.assert_close(
        theirs, FinerCAM(inner, "scorecam", layer="stage2")(images, 1, against=3).signed, rtol=1e-3, atol=1e-4
    )


def test_attention_inside_is_no_ending(toys, pictures):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FinerCAM(toys.vit())(pictures(1))


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "none"])
def test_the_link_makes_the_probabilities(toys, pictures, link):
    answer = FinerCAM(toys.gap(), layer="features", link=link)(pictures(2), 1)
    logits = answer.logits
    expected = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "none": logits}[link]
    torch.testing.assert_close(answer.probabilities, expected)
    assert answer[1].link == answer.ask(gamma=0.1).link == link
    with pytest.raises(FinerCAMError, match="link='probit': expected one of softmax, sigmoid, none"):
        FinerCAM(toys.gap(), link="probit")


class Dense(nn.Module):
    """A segmentation network: logits at every place."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.features, self.head = inner.features, nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return {"out": self.head(self.features(x)), "aux": x}


@pytest.fixture
def dense(toys):
    return toys.seeded(Dense(toys.gap()))


MASKS = torch.zeros(3, 1, 8, 8)
MASKS[0, :, :3], MASKS[1, :, 4:, 5:], MASKS[2, :, :, 2:4] = 1, 1, 1


def held(output):
    return (output["out"] * MASKS[: len(output["out"])]).sum((2, 3))


def by_sample(output, samples, view):
    masks = MASKS[samples]
    return (output["out"] * (masks.flip(-1) if view.flip else masks)).sum((2, 3))


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "gscorecam"])
@pytest.mark.parametrize("smooth", [None, "flip"])
def test_scores_with_data_of_each_image_get_the_samples_and_the_view(dense, pictures, method, smooth):
    images = pictures(3)
    explain = FinerCAM(dense, method, layer="features", scores=by_sample, smooth=smooth, batch_size=2)
    answer = explain(images, [0, 1, 2], against=[[1], [2], [3]])
    for n in range(3):  # one image at a time, its mask in the closure

        def own(output, samples, view, n=n):
            mask = MASKS[n].flip(-1) if view.flip else MASKS[n]
            return (output["out"] * mask).sum((2, 3))

        alone = FinerCAM(dense, method, layer="features", scores=own, smooth=smooth)
        expected = alone(images[n : n + 1], n, against=n + 1)
        torch.testing.assert_close(answer.signed[n : n + 1], expected.signed, rtol=1e-3, atol=1e-4)
    # A part of the answer asks the model again about its own samples.
    again, fresh = answer[2:].ask(target=4, against=0), explain(images, 4, against=[[0]] * 3)
    torch.testing.assert_close(again.signed, fresh.signed[2:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "gscorecam"])
def test_data_of_each_image_that_cannot_reach_variants_of_one_is_refused(dense, pictures, method):
    explain = FinerCAM(dense, method, layer="features", scores=held)
    with pytest.raises(FinerCAMError, match=r"let it take the samples, as scores=lambda output, samples, view"):
        explain(pictures(3), 0, against=1)
    one = FinerCAM(dense, method, layer="features", scores=lambda o: (o["out"] * MASKS[:1]).sum((2, 3)))
    assert one(pictures(1), 0, against=1).maps.isfinite().all()
    assert FinerCAM(dense, layer="features", scores=held)(pictures(3), 0, against=1).maps.shape == (3, 16, 16)


def test_a_mask_that_is_not_mirrored_with_the_image_is_refused(dense, pictures):
    aside = FinerCAM(dense, layer="features", scores=lambda o: (o["out"] * MASKS[1:2]).sum((2, 3)), smooth="flip")
    with pytest.raises(FinerCAMError, match="let it take the view"):
        aside(pictures(1), 0, against=1)
    mean = FinerCAM(dense, layer="features", scores=lambda o: o["out"].mean((2, 3)), smooth="flip")
    assert mean(pictures(1), 0, against=1).maps.isfinite().all()


@pytest.mark.parametrize("wrong", [3, "logits", [len]])
def test_scores_that_cannot_be_called(toys, wrong):
    with pytest.raises(FinerCAMError, match="expected a function of the model's output"):
        FinerCAM(toys.gap(), scores=wrong)


@pytest.mark.parametrize("error", [RuntimeError("size\nmismatch"), IndexError("size"), KeyError("size")])
def test_an_error_of_scores_is_called_one(toys, pictures, error):
    def scores(output):
        raise error

    with pytest.raises(
        FinerCAMError, match=r"scores= failed on the model's output, a tensor of shape .2, 5.: .*size"
    ):
        FinerCAM(toys.gap(), layer="features", scores=scores)(pictures(2))
