"""The contrast: objective, its direction in logit space, and the weights of the references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam import Contrast, FinerCAMError
from finercam.core.contrast import WEIGHTS, contrast_objective, contrast_terms, one_hot, reference_weights
from finercam.core.references import all_other_classes

LOGITS = torch.tensor([[2.0, 1.0, -0.5, 0.3], [0.1, 0.2, 3.0, 2.5]], dtype=torch.float64)
TARGET = torch.tensor([0, 2])
RAGGED = torch.tensor([[1, 3], [3, -1]])


def test_mean_is_equation_5_to_8_with_ragged_references():
    z = contrast_objective(LOGITS, TARGET, RAGGED, torch.tensor([0.6, 0.2], dtype=torch.float64))
    by_hand = torch.tensor([2.0 - 0.6 * (1.0 + 0.3) / 2, 3.0 - 0.2 * 2.5], dtype=torch.float64)
    torch.testing.assert_close(z, by_hand)


def test_probability_weights_are_softmax_over_the_references_alone():
    w = reference_weights(LOGITS, RAGGED, "probability")
    e = LOGITS.exp()
    by_hand = torch.tensor([[e[0, 1] / (e[0, 1] + e[0, 3]), e[0, 3] / (e[0, 1] + e[0, 3])], [1.0, 0.0]])
    torch.testing.assert_close(w, by_hand.to(w))


def test_probability_weights_survive_references_that_softmax_rounds_to_zero():
    w = reference_weights(torch.tensor([[500.0, -400.0, -401.0]]), torch.tensor([[1, 2]]), "probability")
    torch.testing.assert_close(w, torch.tensor([[-400.0, -401.0]]).softmax(1))


def test_probability_is_detached():
    y = LOGITS.clone().requires_grad_()
    contrast_objective(y, TARGET, RAGGED, 1.0, "probability").sum().backward()
    w = reference_weights(LOGITS, RAGGED, "probability")
    expected = one_hot(TARGET, LOGITS)
    expected[0, 1], expected[0, 3], expected[1, 3] = -w[0, 0], -w[0, 1], -w[1, 0]
    torch.testing.assert_close(y.grad, expected)


@pytest.mark.parametrize("weights", ["mean", "probability", "released"])
@settings(max_examples=20, deadline=None)
@given(
    logits=st.lists(st.floats(-8, 8, allow_nan=False), min_size=8, max_size=8),
    gamma=st.tuples(st.floats(0, 2), st.floats(0, 2)),
)
def test_terms_are_the_gradient_of_the_objective(weights, logits, gamma):
    y = torch.tensor(logits, dtype=torch.float64).view(2, 4).requires_grad_()
    strength = torch.tensor(gamma, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(contrast_objective(y, TARGET, RAGGED, strength, weights).sum(), y)
    speaks_for, against = contrast_terms(y.detach(), Contrast(TARGET, RAGGED, strength, weights))
    torch.testing.assert_close(speaks_for - strength[:, None] * against, gradient, rtol=1e-9, atol=1e-9)


def test_released_is_the_authors_formula_with_p_in_the_graph():
    y = LOGITS.clone().requires_grad_()
    p = y.softmax(1)
    z = (p[0, 1] * (y[0, 0] - 0.7 * y[0, 1]) + p[0, 3] * (y[0, 0] - 0.7 * y[0, 3])) / (p[0, 1] + p[0, 3] + 1e-9)
    (gradient,) = torch.autograd.grad(z, y)
    contrast = Contrast(TARGET[:1], RAGGED[:1], torch.tensor([0.7], dtype=torch.float64), "released")
    speaks_for, against = contrast_terms(LOGITS[:1], contrast)
    torch.testing.assert_close(speaks_for - 0.7 * against, gradient[:1])
    torch.testing.assert_close(contrast_objective(LOGITS, TARGET, RAGGED, 0.7, "released")[0], z)


@pytest.mark.parametrize("gap", [20.0, 25.0, 40.0])
def test_released_flips_its_sign_at_a_large_gap_and_the_default_does_not(gap):
    """The denominator's 1e-9 outweighs the references' probability, and raising y_c then lowers the objective."""
    logits = torch.tensor([[gap, 0.0, 0.0]], dtype=torch.float64)
    target, references, gamma = torch.tensor([0]), torch.tensor([[1, 2]]), torch.tensor([0.6])

    def towards_the_target(weights: str) -> float:
        speaks_for, against = contrast_terms(logits, Contrast(target, references, gamma, weights))
        return float((speaks_for - 0.6 * against)[0, 0])

    assert towards_the_target("released") < 0
    assert towards_the_target("mean") == 1
    assert towards_the_target("probability") == 1


def test_all_references_by_probability_give_the_gradient_of_the_log_odds():
    y = LOGITS.clone().requires_grad_()
    p = y.softmax(1).gather(1, TARGET[:, None]).squeeze(1)
    (gradient,) = torch.autograd.grad((p / (1 - p)).log().sum(), y)
    contrast = Contrast(TARGET, all_other_classes(4, TARGET), torch.ones(2), "probability")
    speaks_for, against = contrast_terms(LOGITS, contrast)
    torch.testing.assert_close(speaks_for - against, gradient)


def test_fewer_than_four_classes():
    logits = torch.tensor([[1.0, 3.0]])
    speaks_for, against = contrast_terms(
        logits, Contrast(torch.tensor([1]), torch.tensor([[0]]), torch.tensor([0.6]))
    )
    assert speaks_for.tolist() == [[0.0, 1.0]]
    assert against.tolist() == [[1.0, 0.0]]


def test_no_references_leave_the_target_alone():
    none = torch.empty(1, 0, dtype=torch.long)
    for weights in ("mean", "probability"):
        _, against = contrast_terms(torch.zeros(1, 1), Contrast(torch.tensor([0]), none, torch.zeros(1), weights))
        assert against.tolist() == [[0.0]]


@pytest.mark.parametrize("wrong", ["means", None, 3])
def test_unknown_weights_are_refused_in_one_line(wrong):
    with pytest.raises(FinerCAMError) as caught:
        Contrast(TARGET, RAGGED, torch.ones(2), wrong)
    assert repr(wrong) in str(caught.value)
    assert all(name in str(caught.value) for name in WEIGHTS)
    assert "\n" not in str(caught.value)


def test_orthogonal_has_no_weights_in_logit_space():
    with pytest.raises(FinerCAMError, match="orthogonal"):
        contrast_terms(LOGITS, Contrast(TARGET, RAGGED, torch.ones(2), "orthogonal"))
