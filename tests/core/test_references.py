"""Strategies that pick the references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam import FinerCAMError, references


def test_similar_ranks_by_cosine_and_not_by_length():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 4)) * rng.uniform(0.1, 10, size=(7, 1))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    target = torch.tensor([3, 0])
    expected = [[d for d in np.argsort(-cosine[c], kind="stable") if d != c][:3] for c in (3, 0)]
    assert references.similar(torch.from_numpy(rows), target, 3).tolist() == expected
    torch.testing.assert_close(
        references.similarity(torch.from_numpy(rows), target).double(),
        torch.from_numpy(cosine[[3, 0]]),
        atol=1e-6,
        rtol=0,
    )


def test_predicted_and_nearest_differ_where_the_target_is_not_on_top():
    logits = torch.tensor([[5.0, 4.0, 3.2, 0.0]])
    target = torch.tensor([2])
    assert references.predicted(logits, target, 2).tolist() == [[0, 1]]
    assert references.nearest(logits, target, 2).tolist() == [[1, 0]]  # both lie above the target


def test_confused_counts_both_directions_and_not_the_diagonal():
    matrix = torch.tensor([[99, 0, 4, 3], [0, 99, 0, 0], [0, 0, 99, 0], [3, 0, 0, 99]])
    assert references.confused(matrix, torch.tensor([0]), 2).tolist() == [[3, 2]]


def test_everything_is_every_class_but_the_target():
    assert references.all_other_classes(4, torch.tensor([0, 3, 1])).tolist() == [[1, 2, 3], [0, 1, 2], [0, 2, 3]]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), classes=st.integers(2, 7), count=st.integers(1, 9), batch=st.integers(1, 4))
def test_no_class_is_its_own_reference_even_where_all_logits_tie(data, classes, count, batch):
    values = st.sampled_from([0.0, 1.0])  # only two values, so that ties are the rule
    logits = torch.tensor(data.draw(st.lists(values, min_size=batch * classes, max_size=batch * classes)))
    logits = logits.view(batch, classes)
    target = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)))
    rows = torch.ones(classes, 3)  # all rows point the same way
    for ids in (
        references.predicted(logits, target, count),
        references.nearest(logits, target, count),
        references.similar(rows, target, count),
        references.confused(torch.ones(classes, classes), target, count),
        references.all_other_classes(classes, target),
    ):
        for own, row in zip(target.tolist(), ids.tolist(), strict=True):
            assert own not in row
            assert len(set(row)) == len(row)
            assert all(0 <= d < classes for d in row)
    assert references.predicted(logits, target, count).shape[1] == min(count, classes - 1)


def test_ties_go_to_the_lower_id():
    assert references.predicted(torch.zeros(1, 5), torch.tensor([1]), 3).tolist() == [[0, 2, 3]]


def test_explicit_pads_ragged_rows():
    ids = references.explicit([[4, 1], [0]], torch.tensor([0, 3]), 5)
    assert ids.tolist() == [[4, 1], [0, -1]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([[5]], "reference class 5 of sample 0: expected an id in 0…4"),
        ([[-1]], "reference class -1 of sample 0"),
        ([[1, 0]], "target class 0 is among its own references"),
        ([[2, 2]], "name a class twice"),
        ([[]], "no reference given"),
    ],
)
def test_explicit_refuses_with_one_line(asked, says):
    with pytest.raises(FinerCAMError) as caught:
        references.explicit(asked, torch.tensor([0]), 5)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_count_below_one_is_refused():
    with pytest.raises(FinerCAMError, match="num_references=0"):
        references.predicted(torch.zeros(1, 3), torch.tensor([0]), 0)
