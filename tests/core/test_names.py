"""From what a person writes to class ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finercam import FinerCAMError
from finercam.names import class_id, in_order, label

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


@pytest.mark.parametrize(
    "given", ["indigo finch", "Indigo Bunting", "indigo bunting, indigo finch, Passerina cyanea"]
)
def test_each_synonym_of_a_class_names_it(given):
    names = ["junco, snowbird", "indigo bunting, indigo finch, Passerina cyanea", "finch, snowbird"]
    assert class_id(given, names, 3) == 1
    with pytest.raises(FinerCAMError, match=r"names 2 classes \(\[0, 2\]\)"):
        class_id("snowbird", names, 3)


def test_a_name_needs_names():
    with pytest.raises(FinerCAMError, match="class names are not known; pass class_names"):
        class_id("Blue Jay", None, 5)


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
