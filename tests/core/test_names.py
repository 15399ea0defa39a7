"""From what a person writes to class ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finercam import FinerCAMError
from finercam.names import class_id, in_order, label, per_sample, shared_or_per_sample

BIRDS = (
    "Passerina caerulea (Blue Grosbeak)",
    "Passerina cyanea (Indigo Bunting)",
    "Cyanocitta cristata (Blue Jay)",
    "Junco hyemalis (Junco)",
    "Junco phaeonotus (Junco)",
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Blue Jay", 2),
        ("  indigo bunting ", 1),
        ("PASSERINA CAERULEA", 0),
        ("Passerina cyanea (Indigo Bunting)", 1),
        (3, 3),
        (np.int64(4), 4),
        (torch.tensor(2), 2),
        (np.str_("Blue Jay"), 2),
    ],
)
def test_ids_and_names(asked, expected):
    assert class_id(asked, BIRDS, 5) == expected


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("Blue Grosbeck", "Did you mean 'blue grosbeak'"),
        ("Blue", "'Blue' is not among the 5 class names"),
        ("Junco", "names 2 classes ([3, 4])"),
        (5, "class 5: expected a class id in 0…4"),
        (-1, "class -1"),
        (True, "class True: expected a class id (int)"),
        (1.0, "class 1.0"),
        (None, "class None"),
        (torch.tensor(1.5), "expected a class id (int)"),
    ],
)
def test_anything_else_is_refused_in_one_line(asked, says):
    with pytest.raises(FinerCAMError) as caught:
        class_id(asked, BIRDS, 5)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_needs_names():
    with pytest.raises(FinerCAMError, match="class names are not known; pass class_names"):
        class_id("Blue Jay", None, 5)


@pytest.mark.parametrize(
    "asked", [2, "Blue Jay", torch.tensor(2), np.array(2), torch.tensor([2, 2]), (2, "Blue Jay")]
)
def test_targets_one_for_all_or_one_each(asked):
    assert per_sample(asked, 2, BIRDS, 5) == [2, 2]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([1], "1 targets for 2 images"),
        ([1, 2, 3], "3 targets for 2 images"),
        ([], "0 targets for 2 images"),
        ({1, 2}, "target={1, 2}: expected"),
        ([True, False], "target True"),
        (torch.tensor([True, False]), "target True"),
        (torch.tensor([0.0, 1.0]), "target 0.0"),
        ([[1], [2]], "target [1]"),
        (1.5, "target=1.5"),
    ],
)
def test_targets_that_do_not_fit(asked, says):
    with pytest.raises(FinerCAMError) as caught:
        per_sample(asked, 2, BIRDS, 5)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "expected"),
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
        ([], [[], []]),
    ],
)
def test_references_shared_or_one_list_each(asked, expected):
    assert shared_or_per_sample(asked, 2, BIRDS, 5) == expected


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([[0], 1], "mixes lists and single classes"),
        ([[0], [1], [2]], "3 lists of references for 2 images"),
        ([0, 7], "reference 7: expected a class id in 0…4"),
        ([0, -1], "reference -1"),
        ({"a": 1}, "against={'a': 1}"),
        ("Blue Joy", "Did you mean 'blue jay'"),
        ([True], "reference True"),
        ([[[0]], [[1]]], "reference [0]"),
        (2.5, "against=2.5"),
    ],
)
def test_references_that_do_not_fit(asked, says):
    with pytest.raises(FinerCAMError) as caught:
        shared_or_per_sample(asked, 2, BIRDS, 5)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_in_the_order_of_the_logits():
    assert in_order({2: "c", 0: "a", 1: "b"}) == in_order(["a", "b", "c"]) == ("a", "b", "c")
    assert in_order({"1": "b", "0": "a"}) == ("a", "b")  # a JSON file's keys are strings
    assert in_order(None) is None
    assert label(1, ("a", "b")) == "b"
    assert label(7, None) == "class 7"


@pytest.mark.parametrize("wrong", ["abc", [1, 2], {0: "a", 5: "b"}, {"cat": "x"}, {"cat": 0, "dog": 1}, 7])
def test_names_that_are_no_names_are_refused(wrong):
    with pytest.raises(FinerCAMError, match="class_names"):
        in_order(wrong)
