"""The linear head: its optimum, its sweep, its splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from finercam.errors import FinerCAMError
from finercam.probe.linear import accuracy, fit, stratified, sweep


def blobs(count: int, classes: int = 4, dim: int = 6, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping clouds, far from the origin and of unequal variance."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    labels = torch.arange(count) % classes
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64) * spread
    return (centres[labels] + noise) * torch.logspace(-1, 1, dim, dtype=torch.float64) + 5, labels


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_optimum_is_that_of_scikit_learn(decay: float) -> None:
    """mean cross-entropy + decay/2 ‖W‖² on features over one scale is logistic regression with C = 1/(N·decay)."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(120)
    centred = x - x.mean(0)
    scale = centred.square().mean().sqrt()
    peer = linear_model.LogisticRegression(C=1 / (len(x) * decay), tol=1e-10, max_iter=10_000)
    peer.fit((centred / scale).numpy(), y.numpy())
    head = fit(x, y, 4, decay, max_iterations=5000)
    np.testing.assert_allclose((head.weight * scale).numpy(), peer.coef_, atol=2e-5)
    wanted = peer.predict_log_proba((centred / scale).numpy())
    np.testing.assert_allclose(F.log_softmax(head(x), 1).numpy(), wanted, atol=1e-4)


def test_gradient_vanishes_at_the_optimum_and_a_start_does_not_move_it() -> None:
    x, y = blobs(80)
    cold = fit(x, y, 4, 1e-2, max_iterations=5000)
    warm = fit(x, y, 4, 1e-2, start=fit(x, y, 4, 1.0), max_iterations=5000)
    torch.testing.assert_close(cold.weight, warm.weight, rtol=0, atol=1e-6)
    scale = (x - x.mean(0)).square().mean().sqrt()
    weight, bias = cold.weight.clone().requires_grad_(), cold.bias.clone().requires_grad_()
    (F.cross_entropy(x @ weight.T + bias, y) + 1e-2 / 2 * (weight * scale).square().sum()).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6
    assert float(bias.grad.abs().max()) < 1e-6


@given(st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=5, deadline=None)
def test_scale_and_place_of_the_features_do_not_matter(scale: float, shift: float) -> None:
    x, y = blobs(60)
    plain, moved = fit(x, y, 4, 1e-2), fit(x * scale + shift, y, 4, 1e-2)
    torch.testing.assert_close(plain(x), moved(x * scale + shift), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["lbfgs", "adamw"])
def test_seeded_and_silent(method: str) -> None:
    """Twice the same to the last bit; the global random state stays as it was; separable data are separated."""
    x, y = blobs(90, spread=0.1)
    before = torch.random.get_rng_state()
    one, two = (fit(x.float(), y, 4, 1e-3, method=method, seed=3) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert accuracy(one(x.float()), y)["top1"] == 1
    if method == "adamw":
        assert not torch.equal(one.weight, fit(x.float(), y, 4, 1e-3, method=method, seed=4).weight)


def test_sweep_takes_what_does_best_on_validation() -> None:
    """Few samples in many dimensions: no decay at all overfits, a huge one says nothing."""
    train, val = blobs(24, dim=40, spread=2.5), blobs(400, dim=40, spread=2.5, seed=1)
    found = sweep(train, val, 4, (1e2, 1e-1, 1e-8))
    tops = {decay: top for decay, top, _ in found.tried}
    assert [decay for decay, *_ in found.tried] == [1e2, 1e-1, 1e-8]
    losses = {decay: loss for decay, _, loss in found.tried}
    assert losses[found.weight_decay] == min(losses.values())
    assert accuracy(found.head(val[0]), val[1])["top1"] == pytest.approx(tops[found.weight_decay])
    assert losses[1e-1] < min(losses[1e2], losses[1e-8])


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [1, 1, 1, 1, 1, 1]])
    assert accuracy(logits, torch.tensor([0, 4, 5, 2])) == {"top1": 0.25, "top5": 0.5}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_stratified(labels: list[int], share: float, seed: int) -> None:
    y = torch.tensor(labels)
    rest, held = stratified(y, share, seed)
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(len(y)))
    for label in y.unique():
        total, out = int((y == label).sum()), int((y[held] == label).sum())
        assert out < total
        assert abs(out - share * total) <= 1
        assert out >= 1 or total == 1
    again = stratified(y, share, seed)
    assert torch.equal(rest, again[0]) and torch.equal(held, again[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.clone().index_fill_(0, torch.tensor([2]), torch.nan), y), "not finite"),
        (lambda x, y: (x, y + 1), "do not fit 4 classes"),
        (lambda x, y: (x[:3], y), "expected \\(N, D\\) and \\(N,\\)"),
    ],
)
def test_bad_features_are_told(change, message: str) -> None:
    with pytest.raises(FinerCAMError, match=message):
        fit(*change(*blobs(20)), 4, 1e-2)
    with pytest.raises(FinerCAMError, match="not one of lbfgs, adamw"):
        fit(*blobs(20), 4, 1e-2, method="sgd")


def test_features_that_do_not_vary_give_the_frequencies() -> None:
    head = fit(torch.ones(8, 3), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), 2, 1e-3)
    torch.testing.assert_close(head(torch.ones(1, 3)).softmax(1), torch.tensor([[0.75, 0.25]]), atol=1e-3, rtol=0)


def test_the_decay_is_chosen_by_loss_not_by_the_top_1_of_few_pictures() -> None:
    """A hardly restrained head may win by one picture while its loss is many times that of another decay."""
    train, val = (blobs(count, dim=30, spread=2.0, seed=seed) for count, seed in ((32, 24), (16, 1024)))
    found = sweep(train, val, 4)
    tried = {decay: (top1, loss) for decay, top1, loss in found.tried}
    by_top1 = max(tried, key=lambda decay: tried[decay][0])
    assert (
        tried[by_top1][0] == found.validation[0] + 1 / 16
    )  # the choice by top-1 took this one, for one picture more
    assert tried[by_top1][1] > 2 * found.validation[1] and found.validation[1] == min(
        loss for _, loss in tried.values()
    )
    fresh, labels = blobs(4000, dim=30, spread=2.0, seed=2024)
    losses = [float(F.cross_entropy(head(fresh), labels)) for head in (found.head, fit(*train, 4, by_top1))]
    assert losses[1] > 1.5 * losses[0]
