"""The recorded tail: equal to the model's own, without rows that nobody reads, and used only where that is certain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam import FinerCAM
from finercam.core.rows import Rows

DIRECTIONS = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Attention(nn.Module):
    """Fused or plain attention with one projection for queries, keys and values, or three."""

    def __init__(self, width: int, fused: bool, split: bool) -> None:
        super().__init__()
        self.fused, self.split = fused, split
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3)) if split else nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        if self.split:
            q, k, v = (one(x).view(count, length, 2, -1).transpose(1, 2) for one in self.qkv)
        else:
            q, k, v = self.qkv(x).reshape(count, length, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-2, -1) / 2).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(count, length, width))


class Vit(nn.Module):
    """One block after the patches, and a head that reads what `pool` says."""

    def __init__(self, pool: str = "token", fused: bool = True, split: bool = False) -> None:
        super().__init__()
        self.pool = pool
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.attn = Attention(8, fused, split)
        self.scale = nn.Parameter(torch.ones(8))
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + self.scale * self.attn(self.norm1(tokens))
        tokens = self.norm(tokens + self.mlp(self.norm2(tokens)))
        if self.pool == "token":
            return self.head(tokens[:, 0])
        if self.pool == "mean":
            return self.head(tokens[:, 1:].mean(1))
        return self.head(tokens[:, 0] + 0.1 * tokens[:, -1])  # a second reader


def both(model: nn.Module, images: Tensor, **options: Any) -> tuple[Any, Any]:
    """A source by the recorded tail, and one without it."""
    mine, own = FinerCAM(model, "hirescam", **options), FinerCAM(model, "hirescam", **options)
    own.classifier._tails._maps = True
    return mine.capture(images), own.capture(images)


def assert_equal(mine: Any, own: Any) -> None:
    torch.testing.assert_close(mine.logits, own.logits, rtol=1e-5, atol=1e-6)
    (found,), (expected,) = mine.gradients(DIRECTIONS), own.gradients(DIRECTIONS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()) + 1e-7)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_only_the_row_of_the_cls_token_is_computed(toys, pictures, fused, split):
    mine, own = both(toys.seeded(Vit(fused=fused, split=split)), pictures(2))
    assert mine.tail.pruned and own.tail is None
    assert_equal(mine, own)
    rows = [node for node in mine.tail.function.graph.nodes if node.target is torch.ops.aten.gelu.default]
    assert rows[0].args[0].args[1] == (2, 1, 16)  # of 17 tokens


def test_attention_modules_with_tokens_first_inside(toys, pictures):
    mine, own = both(toys.vit(), pictures(2))
    assert mine.tail.pruned
    assert_equal(mine, own)


@pytest.mark.parametrize("pool", ["mean", "two"])
def test_rows_that_a_head_reads_are_kept(toys, pictures, pool):
    mine, own = both(toys.seeded(Vit(pool)), pictures(2))
    assert mine.tail is not None and not mine.tail.pruned
    assert_equal(mine, own)
    again = mine.tail.capture(mine.model, mine.run.activations[0], mine.run.given, "norm1")
    torch.testing.assert_close(again.logits, own.run.logits)


def test_the_first_answer_is_like_all_others(toys, pictures):
    explain, images = FinerCAM(toys.vit()), pictures(3)
    first, second = explain(images), explain(images)
    assert torch.equal(first.signed, second.signed) and torch.equal(first.logits, second.logits)


def test_a_tail_follows_the_model_weights_hooks_and_settings(toys, pictures):
    model, images = toys.seeded(Vit()), pictures(2)
    explain = FinerCAM(model, layer="norm1", keep="contrast")
    explain(images)
    with torch.no_grad():
        model.head.weight.mul_(2)
    torch.testing.assert_close(explain(images).logits, model(images).detach(), rtol=1e-5, atol=1e-6)
    model.mlp[0] = toys.seeded(nn.Linear(8, 16), seed=3)
    torch.testing.assert_close(explain(images).logits, model(images).detach(), rtol=1e-5, atol=1e-6)
    model.norm2.eps = 0.3
    torch.testing.assert_close(explain(images).logits, model(images).detach(), rtol=1e-5, atol=1e-6)
    model.pool = "mean"
    torch.testing.assert_close(explain(images).logits, model(images).detach(), rtol=1e-5, atol=1e-6)
    seen = []
    handle = model.mlp.register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    explain(images)
    assert seen == [(2, 17, 8)]  # the caller's hook sees every token
    handle.remove()


class Wild(Vit):
    """A Vit with something between its tokens and its head that a recording cannot hold."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "number":
            scale = float(x.mean())
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1)
        side = tokens.mean(1) if self.kind == "side" else 0
        tokens = tokens + self.attn(self.norm1(tokens))
        if self.kind == "in place":
            tokens += 1
        if self.kind == "random":
            tokens = F.dropout(tokens, 0.1)
        logits = self.head(tokens[:, 0] + side)
        if self.kind == "custom":
            logits = Double.apply(logits)
        return logits * scale if self.kind == "number" else logits


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.mark.parametrize("kind", ["number", "side", "in place", "random", "custom"])
def test_what_cannot_be_recorded_runs_as_before(toys, pictures, kind):
    model, images = toys.seeded(Wild(kind)), pictures(2)
    source = FinerCAM(model, "hirescam", layer="norm1").capture(images)
    assert source.tail is None
    if kind != "random":
        torch.testing.assert_close(source.logits, model(images).detach())


def test_rows_are_followed_through_views():
    rows = Rows.of((2, 17, 8), 1, 0)
    assert rows.place((34, 8)) == (0, 1) and rows.shape((34, 8)) == (2, 8)
    assert rows.shape((2, 17, 2, 4)) == (2, 1, 2, 4) and rows.axis((34, 8)) is None
    assert rows.place((272,)) == (0, 8) and rows.place((4, 68)) is None
