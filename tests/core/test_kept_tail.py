"""Asking again about tokens: the layers after the target layer run, and the others do not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from finercam import FinerCAM

TARGET, AGAINST = [0, 3, 2], [[1], [4], [0]]


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.runs = inner, []

    def forward(self, x):
        self.runs.append(len(x))
        return self.inner(x)


@pytest.fixture
def model(toys) -> Counted:
    return Counted(toys.vit())


def same(found, expected) -> None:
    size = float(expected.signed.abs().max())
    torch.testing.assert_close(found.signed, expected.signed, rtol=1e-4, atol=2e-6 * size)
    assert torch.equal(found.target, expected.target) and torch.equal(found.references, expected.references)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_another_question_runs_the_tail_only(model, pictures, method, batch_size):
    images = pictures(3)
    explain = FinerCAM(model, method, layer="inner.blocks.1.norm1", batch_size=batch_size)
    answer = explain(images, TARGET, AGAINST)
    runs = len(model.runs)
    asked = [
        answer.ask(gamma=0.9),
        answer.ask(against=[[4], [1], [3, 4]]),
        answer.ask(target=4, against=[1]),
        answer.ask(weights="orthogonal"),
        answer.reverse(),
        answer[1:].ask(gamma=0.3),
        answer[0].plain,
    ]
    plain = answer.plain
    swept = answer.sweep([0.0, 0.7])
    assert len(model.runs) == runs
    fresh = FinerCAM(model, method, layer="inner.blocks.1.norm1", batch_size=batch_size)
    same(asked[0], fresh(images, TARGET, AGAINST, gamma=0.9))
    same(asked[1], fresh(images, TARGET, [[4], [1], [3, 4]]))
    same(asked[2], fresh(images, 4, [1]))
    same(asked[3], fresh(images, TARGET, AGAINST, weights="orthogonal"))
    same(asked[4], fresh(images, [1, 4, 0], [[0], [3], [2]]))
    same(asked[5], fresh(images, TARGET, AGAINST, gamma=0.3)[1:])
    same(asked[6], fresh(images, TARGET, AGAINST, gamma=0.0)[0])
    assert torch.equal(plain.signed, fresh(images, TARGET, AGAINST, gamma=0.0).signed)  # to the last bit
    torch.testing.assert_close(swept[1], answer.ask(gamma=0.7).maps, rtol=1e-3, atol=1e-4)


def test_more_strengths_of_a_contrast_run_nothing(model, pictures, monkeypatch):
    answer = FinerCAM(model, layer="inner.blocks.1.norm1")(pictures(3), TARGET, AGAINST)
    answer.ask(gamma=0.9)
    monkeypatch.setattr(type(answer.tail), "_gradients", None)
    answer.ask(gamma=0.2), answer.plain, answer.reverse()
    assert answer.seen[0][1].directions.shape[1] == 1  # the answer itself stays as it was


@pytest.mark.parametrize("change", ["weights", "data", "setting", "hook"])
def test_a_model_that_has_changed_runs_as_a_whole(model, pictures, change):
    images = pictures(2)
    explain = FinerCAM(model, layer="inner.blocks.1.norm1")
    answer = explain(images, 0, 1)
    block = model.inner.blocks[1]
    if change == "weights":
        with torch.no_grad():
            block.norm1.weight.mul_(2)
    elif change == "data":
        model.inner.head.weight.data = 2 * model.inner.head.weight.data
    elif change == "setting":
        block.norm2.eps = 0.3
    else:
        block.mlp.register_forward_hook(lambda _m, _i, output: 2 * output)
    runs = len(model.runs)
    asked = answer.ask(gamma=0.9)
    assert len(model.runs) > runs
    same(asked, FinerCAM(model, layer="inner.blocks.1.norm1")(images, 0, 1, gamma=0.9))


def test_a_copy_of_an_answer_has_no_tail_and_runs_the_model(toys, pictures):
    images = pictures(2)
    answer = FinerCAM(toys.vit())(images, 0, 1)
    expected = answer.ask(gamma=0.3)
    for other in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert other.tail is None
        same(other.ask(gamma=0.3), expected)


def test_a_kept_tail_holds_one_tensor_of_tokens_an_image(model, pictures):
    answer = FinerCAM(model, layer="inner.blocks.1.norm1")(pictures(3))
    (batch,) = answer.tail._batches
    assert batch.activation is None and batch.given.shape == (3, 17, 8) and batch.given.grad_fn is None
