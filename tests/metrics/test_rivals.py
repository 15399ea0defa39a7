import pytest
import torch

from finercam import metrics
from finercam.errors import FinerCAMError


def test_against_sorting_by_hand():
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    target = logits.argsort(1, descending=True)[:, 2]  # wrong predictions: the rival is then the prediction
    assert torch.equal(metrics.strongest_rival(logits, target), logits.argmax(1))
    used = torch.stack((logits.argmax(1), torch.full((20,), -1)), 1)
    for i, rival in enumerate(metrics.held_out_rival(logits, target, used).tolist()):
        free = [k for k in logits[i].argsort(descending=True).tolist() if k not in (target[i], used[i, 0])]
        assert rival == free[0]


def test_none_left():
    assert metrics.strongest_rival(torch.zeros(2, 1), 0).tolist() == [-1, -1]
    two = torch.tensor([[1.0, 2.0]])
    assert metrics.held_out_rival(two, 0, torch.tensor([[1]])).tolist() == [-1]


def test_ids_are_checked():
    with pytest.raises(FinerCAMError, match="below K"):
        metrics.held_out_rival(torch.zeros(1, 3), 0, torch.tensor([[7]]))
