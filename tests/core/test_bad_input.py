"""Bad input: one line that names what was given, or the right answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from finercam import FinerCAM, FinerCAMError

NAMES = ["Blue Grosbeak", "Indigo Bunting", "Lazuli Bunting", "Blue Jay", "Junco"]


def refused(call, says: str) -> None:
    with pytest.raises(FinerCAMError) as caught:
        call()
    text = str(caught.value)
    assert says in text, text
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(3, 16, 16), "(3, 16, 16); expected (N, C, H, W) with at least one image; add a batch dimension"),
        (torch.zeros(1, 1, 3, 16, 16), "(1, 1, 3, 16, 16)"),
        (torch.zeros(16), "(16,)"),
        (torch.zeros(0, 3, 16, 16), "(0, 3, 16, 16); expected (N, C, H, W) with at least one image"),
        (torch.zeros(2, 3, 0, 16), "(2, 3, 0, 16)"),
        (torch.zeros(2, 1, 16, 16), "1, 16, 16): Given groups=1"),
        (torch.zeros(2, 4, 16, 16), "4, 16, 16): Given groups=1"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "images are torch.uint8; expected a float tensor"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.long), "images are torch.int64"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.complex64), "images are torch.complex64"),
        (np.zeros((2, 3, 16, 16)), "images are ndarray"),
        ([torch.zeros(3, 16, 16)], "images are list"),
        (None, "images are NoneType"),
    ],
)
@pytest.mark.parametrize("layer", [None, "features"])
def test_images_of_the_wrong_kind(toys, images, says, layer):
    refused(lambda: FinerCAM(toys.gap(), layer=layer)(images), says)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite(toys, pictures, bad):
    images = pictures(4)
    images[1, 0, 2, 3] = bad
    images[3, 2, 0, 0] = bad
    refused(lambda: FinerCAM(toys.gap())(images), "images [1, 3] hold NaN or infinite pixels")


def test_pixels_that_half_precision_cannot_hold(toys, pictures):
    images = pictures(2)
    images[1] *= 1e30
    refused(
        lambda: FinerCAM(toys.gap().half(), layer="features")(images),
        "images [1] hold NaN or infinite pixels as torch.float16",
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(toys, pictures, bad):
    model = toys.gap()
    model.head.bias.data[2] = bad
    refused(lambda: FinerCAM(model, layer="features")(pictures(2)), "logits that are not finite for samples [0, 1]")


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"target": 5}, "target 5: expected a class id in 0…4"),
        ({"target": -1}, "target -1"),
        ({"target": True}, "target True"),
        ({"target": "Blue Grosbeck"}, "'Blue Grosbeck' is not among the 5 class names. Did you mean 'Blue Grosbeak'"),
        ({"target": [0]}, "1 targets for 2 images"),
        ({"target": [0, 1, 2]}, "3 targets for 2 images"),
        ({"target": torch.tensor([0.0, 1.0])}, "target 0.0"),
        ({"target": len}, "target=<built-in function len>"),
        ({"against": 9}, "reference 9: expected a class id in 0…4"),
        ({"against": "Lazuli Buntin"}, "Did you mean 'Lazuli Bunting'"),
        ({"target": 0, "against": [1, 0]}, "sample 0: target class 0 is among its own references"),
        ({"target": [1, 0], "against": [[2], [0]]}, "sample 1: target class 0 is among its own references"),
        ({"target": 0, "against": "Blue Grosbeak"}, "target class 0 is among its own references"),
        ({"target": 0, "against": []}, "no reference given"),
        ({"target": 0, "against": [[1], []]}, "sample 1: no reference given"),
        ({"target": 0, "against": [[1], 2]}, "mixes lists and single classes"),
        ({"target": 0, "against": [[1], [2], [3]]}, "3 lists of references for 2 images"),
        ({"target": 0, "against": [1, 2, 1]}, "name a class twice"),
        ({"target": 0, "against": [1, "Indigo Bunting"]}, "name a class twice"),
        ({"gamma": -0.1}, "gamma=-0.1"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"gamma": float("inf")}, "gamma=inf"),
        ({"gamma": [0.1, 0.2, 0.3]}, "3 values of gamma for 2 images"),
        ({"gamma": [0.1, -0.2]}, "gamma=[0.1, -0.2]"),
        ({"gamma": "strong"}, "gamma='strong'"),
        ({"weights": "means"}, "weights='means': expected one of mean, probability, orthogonal, released."),
        ({"method": "gradcan"}, "method 'gradcan'"),
    ],
    ids=str,
)
def test_questions_that_cannot_be_asked(toys, pictures, question, says):
    explain = FinerCAM(toys.gap(), layer="features", class_names=NAMES)
    refused(lambda: explain(pictures(2), **question), says)
    answer = explain(pictures(2), 4)
    before = answer.signed.clone()
    if says.startswith("sample 0: target") or "target" not in question:
        question = {"target": 4, **question}
    refused(lambda: answer.ask(**question), says)  # asked again, the same line, and the answer is not lost
    assert torch.equal(answer.signed, before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"references": "simlar"}, "references='simlar': expected one of similar, predicted, nearest, all, confused"),
        ({"references": ["Blue Jay"]}, "name classes in the call, as against="),
        ({"references": 3}, "references=3"),
        ({"references": "confused"}, "needs confusion="),
        ({"num_references": 0}, "num_references=0: expected at least 1"),
        ({"num_references": 2.5}, "num_references=2.5"),
        ({"num_references": True}, "num_references=True"),
        ({"gamma": "x"}, "gamma='x'"),
        ({"gamma": -1}, "gamma=-1"),
        ({"gamma": [0.1, 0.2]}, "2 values of gamma"),
        ({"weights": "x"}, "weights='x'"),
        ({"fusion": "max"}, "fusion='max': expected one of mean, product"),
        ({"smooth": True}, "smooth=True"),
        ({"keep": "all"}, "keep='all'"),
        ({"keep": -2}, "keep=-2"),
        ({"method": 3}, "method 3"),
        ({"class_names": "Blue Jay"}, "class_names"),
    ],
    ids=str,
)
def test_explainers_that_cannot_be_built(toys, arguments, says):
    refused(lambda: FinerCAM(toys.gap(), **arguments), says)


def test_things_that_show_only_when_the_model_runs(toys, pictures):
    images = pictures(2)
    refused(lambda: FinerCAM(toys.gap(), class_names=["a", "b"])(images), "2 class names for a model with 5 classes")
    refused(lambda: FinerCAM(toys.gap(), keep=[7])(images), "keep=[7]: expected class ids in 0…4")
    explain = FinerCAM(toys.gap(), references="confused", confusion=torch.zeros(4, 4))
    refused(lambda: explain(images), "confusion has shape (4, 4); expected (5, 5)")
    refused(lambda: FinerCAM(toys.gap(), layer="feature")(images), "'features'")
    refused(lambda: FinerCAM(toys.gap(), layer=["features", "features"])(images), "name a layer twice")
    refused(lambda: FinerCAM(toys.gap(), layer="head")(images), "(2, 5)")


def test_a_model_that_is_none():
    refused(lambda: FinerCAM(lambda x: x), "model is a function; expected a torch.nn.Module")


def test_one_class(toys, pictures):
    model, images = toys.gap(classes=1), pictures(2)
    refused(lambda: FinerCAM(model, layer="features")(images), "one class, so it has no rival class")
    plain = FinerCAM(model, layer="features", gamma=0)(images)
    expected = torch.einsum("c,nchw->nhw", model.head.weight[0].detach(), model.features(images).detach()) / 64
    torch.testing.assert_close(plain.signed, expected)
    for weights in ("mean", "probability", "orthogonal"):
        answer = FinerCAM(model, layer="features", gamma=0, weights=weights)(images)
        torch.testing.assert_close(answer.signed, expected)
    refused(lambda: FinerCAM(model, layer="features", gamma=0)(images).ask(gamma=0.5), "one class")


def test_two_classes_with_three_references_asked_for(toys, pictures):
    model, images = toys.gap(classes=2), pictures(2)
    answer = FinerCAM(model, layer="features", num_references=3)(images, 0)
    w = model.head.weight.detach()
    expected = torch.einsum("c,nchw->nhw", w[0] - 0.6 * w[1], model.features(images).detach()) / 64
    torch.testing.assert_close(answer.signed, expected)
    assert answer.references.tolist() == [[1], [1]]


def test_no_linear_head_to_compare(toys, pictures):
    class Euclid(nn.Module):
        """Logits are distances: there are no rows to compare."""

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 6, 3)
            self.centres = nn.ParameterList([nn.Parameter(torch.randn(6)) for _ in range(4)])

        def forward(self, x):
            pooled = self.features(x).mean(dim=(2, 3))
            return torch.stack([-(pooled - c).square().sum(dim=1) for c in self.centres], dim=1)

    model, images = Euclid(), pictures(2)
    refused(
        lambda: FinerCAM(model, layer="features", references="similar")(images),
        "none with 4 rows was found; use references='predicted'",
    )
    answer = FinerCAM(model, layer="features")(images)
    assert answer.similarity.isnan().all()
    assert answer.maps.isfinite().all()


def test_a_layer_that_runs_twice_never_or_beside_the_logits(toys, pictures):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.spare = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(3, 4, 3)
            self.beside, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            self.beside(x)
            return self.head(self.act(self.act(self.conv(x))).mean(dim=(2, 3)))

    model, images = Odd(), pictures(2)
    refused(lambda: FinerCAM(model, layer="act")(images), "layer 'act' runs more than once")
    refused(lambda: FinerCAM(model, layer="spare")(images), "layer 'spare' did not run")
    refused(lambda: FinerCAM(model, layer="beside")(images), "layer 'beside': the logits do not depend on it")
    refused(
        lambda: FinerCAM(model, layer=["conv", "beside"])(images), "layer 'beside': the logits do not depend on it"
    )


def test_logits_of_the_wrong_number(toys, pictures):
    class Windows(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).mean(dim=0, keepdim=True)

    explain = FinerCAM(Windows(toys.gap()), layer="inner.features")
    refused(lambda: explain(pictures(3)), "logits of shape (1, 5) for 3 images; expected one row each")


def test_one_image_of_a_batch_is_bad_and_the_others_can_still_be_asked(toys, pictures):
    images = pictures(3)
    images[1, 0, 0, 0] = float("nan")
    explain = FinerCAM(toys.gap(), layer="features")
    refused(lambda: explain(images), "images [1]")
    assert explain(images[[0, 2]]).maps.isfinite().all()
