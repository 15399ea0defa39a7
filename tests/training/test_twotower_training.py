"""The training data of the two-tower model: truth of texts at places, drawn places, and crops of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.hybrids import paint_hybrid, seen_parts
from training.twotower import ANY, BARE, CROP, EMPTY, NOWHERE, SIZE, Text, drawn_places, paint, place_truth, train

from finercam.data.fieldguide.species import NAMED, PARTS
from finercam.models.twotower import load_twotower

CREST, BEAK = NAMED.index("crest"), NAMED.index("beak")
TEXTS = [
    Text("bird"),
    Text("an empty perch", of=EMPTY),
    Text("red crest", ((CREST, ANY, 2),)),
    Text("a bird with a red crest and a short black beak", ((CREST, ANY, 2), (BEAK, 0, 0))),
    Text("a brown thrush with a red crest", ((CREST, ANY, 2),), look=3),
]


def test_a_text_is_true_where_its_part_is_and_the_general_one_wherever_there_is_a_bird() -> None:
    part = np.array([CREST, BEAK, BARE, NOWHERE])
    true = torch.tensor([[True, False, True, True, True]]).expand(4, 5)
    told, said = place_truth(TEXTS, part, true, torch.ones_like(true))
    assert told.T.tolist() == [
        [True, True, True, False],
        [False] * 4,
        [True, False, False, False],
        *[[False] * 4] * 2,
    ]
    assert said.T.tolist() == [[True] * 4, [False] * 4, [True] * 4, *[[False] * 4] * 2]


def test_what_cannot_be_said_of_a_picture_can_be_denied_of_its_other_places() -> None:
    part = np.array([CREST, BEAK, NOWHERE])
    known = torch.tensor([[True, True, False, True, True]]).expand(3, 5)
    told, said = place_truth(TEXTS, part, torch.zeros_like(known), known)
    assert not told[:, 2].any()
    assert said[:, 2].tolist() == [False, True, True]


def test_places_are_drawn_of_every_kind_and_none_twice() -> None:
    parts = np.full((2, 8, 8), NOWHERE)
    parts[0, :3], parts[0, 3:5], parts[1, 0, :2] = BEAK, BARE, CREST
    drawn = drawn_places(parts, np.random.default_rng(0), named=10, others=7)
    kinds = parts.ravel()[drawn]
    assert len(set(drawn.tolist())) == len(drawn)
    first = drawn < 64
    assert [int((kinds[first] == kind).sum()) for kind in (BEAK, BARE, NOWHERE)] == [10, 7, 7]
    assert [int((kinds[~first] == kind).sum()) for kind in (CREST, BARE, NOWHERE)] == [2, 0, 7]


def test_pictures_are_cut_with_their_parts_and_twins_alike() -> None:
    pixels, parts, seen = paint(5, 6, workers=1)
    assert pixels.shape == (6, CROP, CROP, 3)
    corners = []
    for index in range(6):
        whole = paint_hybrid(5, index)
        found = [
            (row, column)
            for row in range(SIZE - CROP + 1)
            for column in range(SIZE - CROP + 1)
            if (whole.image[row, column] == pixels[index, 0, 0]).all()
            and (whole.image[row : row + CROP, column : column + CROP] == pixels[index]).all()
        ]
        ((row, column),) = found
        corners.append((row, column))
        number = whole.parts[row : row + CROP, column : column + CROP]
        assert seen[index].tolist() == seen_parts(number).tolist()
        at_places = number[2::4, 2::4]
        for place, part in enumerate(NAMED):
            assert ((parts[index] == place) == (at_places == PARTS.index(part) + 1)).all()
        assert ((parts[index] == NOWHERE) == (at_places == 0)).all()
    assert corners[::2] == corners[1::2]
    assert len(set(corners)) == 3


@pytest.mark.slow
def test_training_is_seeded_and_writes_a_model_that_can_be_read(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    short = {"images": 32, "steps": 2, "batch": 16, "fresh": 54, "workers": 1, "log": lambda line: None}
    record = train(tmp_path / "a", 1, **short)  # type: ignore[arg-type]
    train(tmp_path / "b", 1, **short)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert (
        0 <= record["zero_shot_interval"][0] <= record["zero_shot_accuracy"] <= record["zero_shot_interval"][1] <= 1
    )
    one, other = (load_twotower(tmp_path / name)[0].state_dict() for name in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert load_twotower(tmp_path / "a")[1].training["seed"] == 1
