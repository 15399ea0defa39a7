"""The question: what a caller may write, and what is refused before the model runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from finercam import FinerCAM, FinerCAMError
from finercam.question import BoundQuestion, Question

BIRDS = (
    "Passerina caerulea (Blue Grosbeak)",
    "Passerina cyanea (Indigo Bunting)",
    "Cyanocitta cristata (Blue Jay)",
    "Junco hyemalis (Junco)",
    "Junco phaeonotus (Junco)",
)


def bound(**given) -> BoundQuestion:
    return Question.make(**given).bind(2, 5, BIRDS)


@pytest.mark.parametrize(
    "given", [2, "Blue Jay", torch.tensor(2), np.array(2), torch.tensor([2, 2]), (2, "Blue Jay")]
)
def test_targets_one_for_all_or_one_each(given):
    assert bound(target=given).target.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([1], "1 targets for 2 images"),
        ([1, 2, 3], "3 targets for 2 images"),
        ([], "0 targets for 2 images"),
        ({1: 2}, "target={1: 2}: expected"),
        ([True, False], "target True"),
        (torch.tensor([True, False]), "target True"),
        (torch.tensor([0.0, 1.0]), "target 0.0"),
        ([[1], [2]], "target [1]"),
        (1.5, "target=1.5"),
    ],
)
def test_targets_that_do_not_fit(given, says):
    with pytest.raises(FinerCAMError) as caught:
        bound(target=given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1, [[1], [1]]),
        ("Blue Jay", [[2], [2]]),
        ([0, "Indigo Bunting"], [[0, 1], [0, 1]]),
        ([[0], [1, "Blue Jay"]], [[0], [1, 2]]),
        (([0], (1,)), [[0], [1]]),
        (torch.tensor([0, 1]), [[0, 1], [0, 1]]),
        (np.array([[0, 1], [2, 3]]), [[0, 1], [2, 3]]),
        (torch.tensor([[0, 1], [2, -1]]), [[0, 1], [2]]),
        ([torch.tensor(0), torch.tensor(1)], [[0, 1], [0, 1]]),
        ([torch.tensor([0, 1]), [2]], [[0, 1], [2]]),
    ],
)
def test_references_shared_or_one_list_each(given, expected):
    against = bound(target=4, against=given).against
    assert [[d for d in row if d != -1] for row in against.tolist()] == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([[0], 1], "mixes lists and single classes"),
        ([[0], [1], [2]], "3 lists of references for 2 images"),
        ([0, 7], "reference 7: expected a class id in 0…4"),
        ([0, -1], "reference -1"),
        ({"a": 1}, "against={'a': 1}"),
        ("Blue Joy", "Did you mean 'blue jay'"),
        ([True], "reference True"),
        ([[[0]], [[1]]], "reference [0]"),
        ([], "no reference given"),
        (2.5, "against=2.5"),
    ],
)
def test_references_that_do_not_fit(given, says):
    with pytest.raises(FinerCAMError) as caught:
        bound(target=4, against=given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


class Counted(nn.Module):
    """Counts its runs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.runs = inner, 0

    def forward(self, x):
        self.runs += 1
        return self.inner(x)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "gradcan"}, "method 'gradcan'"),
        ({"method": "layer4"}, "layer=… names a layer"),
        ({"weights": "x"}, "weights='x'"),
        ({"gamma": -1}, "gamma=-1"),
        ({"gamma": True}, "gamma=True"),
        ({"gamma": [True, False]}, "gamma=[True, False]"),
        ({"target": "Blue Joy"}, "Did you mean"),
        ({"target": [0] * 39}, "39 targets for 40 images"),
        ({"target": 0, "against": [[1]] * 39 + [[0]]}, "sample 39: target class 0 is among its own references"),
        ({"target": 0, "against": [[1]] * 39 + [[9]]}, "reference 9"),
        ({"against": [[1]] * 39 + [[1, 1]]}, "sample 39: references [1, 1] name a class twice"),
        ({"against": "similar"}, "a strategy is chosen by references='similar'"),
    ],
    ids=str,
)
def test_a_wrong_question_is_found_before_the_model_runs(toys, pictures, given, says):
    model = Counted(toys.gap())
    explain = FinerCAM(model, layer="inner.features", class_names=BIRDS)
    with pytest.raises(FinerCAMError) as caught:
        explain(pictures(40), **given)
    assert says in str(caught.value)
    assert model.runs == 0


def test_a_wrong_id_is_found_by_the_first_batch_where_the_number_of_classes_is_not_known(toys, pictures):
    model = Counted(toys.gap())
    explain = FinerCAM(model, layer="inner.features")
    for _ in range(2):
        with pytest.raises(FinerCAMError, match="reference 9: expected a class id in 0…4"):
            explain(pictures(40), 0, [[1]] * 39 + [[9]])
        assert model.runs == 1


@pytest.mark.parametrize("target", [None, [3, 1, 4], torch.tensor([3, 1, 4])])
@pytest.mark.parametrize("against", [[0, 1, 2], (0, 2, 2), torch.tensor([0, 0, 0]), np.array([2, 0, 1])])
def test_as_many_rivals_as_images_could_mean_two_things(toys, pictures, target, against):
    """One rival an image, or every image against all of them: the user says which."""
    explain = FinerCAM(toys.gap(), layer="features")
    with pytest.raises(FinerCAMError, match=r"y\[:, None\].*\[\[class, class, …\]\] \* 3"):
        explain(pictures(3), target, against)


@pytest.mark.parametrize("wrong", [10**19, 10**5000, -(10**400)], ids=["19", "5000", "-400"])
def test_ids_that_no_model_can_have(toys, pictures, wrong):
    with pytest.raises(FinerCAMError, match=r"a number of [0-9]+ bits: expected a class id"):
        FinerCAM(toys.gap(), layer="features")(pictures(1), target=wrong)


def test_why_the_prediction_and_not_the_true_class(toys, pictures):
    images, model = pictures(3), toys.gap()
    explain = FinerCAM(model, layer="features")
    labels = (model(images).argmax(1) + torch.tensor([1, 2, 3])) % 5
    answer = explain(images, against=labels[:, None])
    assert answer.references.tolist() == labels[:, None].tolist()
    alone = [explain(images[n : n + 1], against=int(labels[n])).signed for n in range(3)]
    torch.testing.assert_close(answer.signed, torch.cat(alone))
    shared = explain(images, 0, against=[1, 2, 3])  # with one target, a flat list is for all images
    assert shared.references.tolist() == [[1, 2, 3]] * 3


def test_a_layer_in_the_place_of_the_method(toys):
    model = toys.gap()
    for layer in ("features", [model.features]):
        with pytest.raises(FinerCAMError, match="layer="):
            FinerCAM(model, layer)
    with pytest.raises(TypeError):
        FinerCAM(model, "gradcam", 0.6)  # type: ignore[misc]


def test_changed_leaves_the_question_as_it_was():
    question = Question.make(gamma=0.6, weights="probability")
    other = question.changed(gamma=0.9, target=3, against=None)
    assert question.gamma.tolist() == [0.6] and question.target is None
    assert other.gamma.tolist() == [0.9] and other.target == 3 and other.weights == "probability"
