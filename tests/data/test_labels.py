"""Labels as numbers or names, and a dataset's classes among those of a model."""

import pytest

from finercam.data.labels import is_number, label_ids, match_classes


@pytest.mark.parametrize("text", ["--5", "-", "", "²", "1.0", "0x1", "٣", "1234567", "+1", "1_0"])
def test_what_is_no_number(text):
    assert not is_number(text)


def test_numbers_and_names(refused):
    assert label_ids(["3", None, "-2", "0"], [], "x.csv") == ([3, None, None, 0], [])
    assert label_ids(["3", "wren"], [], "x.csv") == ([0, 1], ["3", "wren"])
    assert label_ids([None, "wren"], ["robin", "wren"], "x.csv") == ([None, 1], ["robin", "wren"])
    with refused("x.csv", "'wrne'", "Did you mean 'wren'"):
        label_ids(["wrne"], ["robin", "wren"], "x.csv")


def test_classes_are_matched_by_name_whatever_their_order():
    assert match_classes(["a", "b", "c"], ["c", "a", "b"]) == [1, 2, 0]
    assert match_classes(["a", "b"], ["a", "b"]) == [0, 1]
    names = ["Euphagus cyanocephalus (Brewer's Blackbird)", "Xanthocephalus (Yellow-headed Blackbird)", "background"]
    assert match_classes(["Yellow headed Blackbird", "Brewer Blackbird"], names) == [1, 0]
    assert match_classes(["BACKGROUND", "Dodo"], names) == [2, None]


def test_what_does_not_match_is_named(refused):
    with refused("'grackle'", "3 classes of the model", "2 of 2"):
        match_classes(["grackle", "dodo"], ["a", "b", "c"])
    with refused("'wrne'", "1 of 2 do not match", "Did you mean 'wren'"):
        match_classes(["robin", "wrne"], ["wren", "robin"], needed=[0, 1])
    assert match_classes(["robin", "wrne"], ["wren", "robin"], needed=[0]) == [1, None]
    with refused("'Wren'", "'wren'", "both match"):
        match_classes(["Wren", "wren"], ["WREN", "robin"])
    with refused("(none)"):
        match_classes([], ["a"])
