"""Random small models for `fuzz.silent`: convolutions, transformers, dense outputs, several outputs, odd endings.

A twin of each model, for the reference, is the same model in eval mode and float64, with its logits before a softmax or
sigmoid, and with a module after a functional ReLU so that the reference can look there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["KINDS", "Attention", "Drawn", "Gate", "MultiHead", "draw_model", "twin_of"]

Scores = Callable[..., Tensor]


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()


class ChannelsLast(nn.Module):
    """A residual block whose inside has the channels last, as ConvNeXt has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.mix(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Trunk(nn.Module):
    """Two convolutions: images to maps `(N, C, h, w)`."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        first, self.width = random.choice([3, 5, 8]), random.choice([2, 4, 6, 8])
        norm = random.choice(["batch", "group", "none"])
        self.relu = random.choice(["module", "inplace", "function", "function-inplace", "twice", "none"])
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, random.choice([1, 2]), 1), _norm(norm, first), nn.ReLU(True))
        stage: list[nn.Module] = [nn.Conv2d(first, self.width, 3, random.choice([2, 3]), 1), _norm(norm, self.width)]
        if self.relu in ("module", "inplace"):
            stage.append(nn.ReLU(self.relu == "inplace"))
        self.stage = nn.Sequential(*stage)
        self.tap: nn.Module | None = None
        kind = random.choice(["none", "none", "gate", "last"])
        self.block = {"gate": Gate, "last": ChannelsLast}[kind](self.width) if kind != "none" else None
        self.drop = random.choice([0.0, 0.3])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(self.stem(x))
        return x if self.block is None else self.block(x)

    def finish(self, x: Tensor) -> Tensor:
        """What the models do to the maps by functions, after the trunk as a module."""
        if self.relu.startswith("function"):
            x = F.relu(x, inplace=self.relu == "function-inplace")
            x = x if self.tap is None else self.tap(x)
        elif self.relu == "twice":
            x = torch.relu(x) + 0.1 * x
        return F.dropout(x, self.drop, self.training) if self.drop else x


class Cnn(nn.Module):
    def __init__(self, random: Random, classes: int, ending: str) -> None:
        super().__init__()
        self.trunk, self.ending = Trunk(random), ending
        self.pool = random.choice(["module", "mean", "max", "grid"])
        self.average = nn.AdaptiveAvgPool2d(1)
        width = self.trunk.width * (4 if self.pool == "grid" else 1)
        self.hidden = nn.Sequential(nn.Linear(width, 6), nn.GELU()) if random.random() < 0.3 else None
        self.head = nn.Linear(6 if self.hidden is not None else width, classes, bias=random.random() < 0.7)
        self.last = _ending_module(random, ending)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk.finish(self.trunk(x))
        if self.pool == "module":
            x = self.average(x).flatten(1)
        elif self.pool == "grid":
            x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        else:
            x = x.mean((2, 3)) if self.pool == "mean" else x.amax((2, 3))
        return _ended(self.head(x if self.hidden is None else self.hidden(x)), self.ending, self.last)


class Attention(nn.Module):
    """Self-attention by the fused function, or written out."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2))


class MultiHead(nn.Module):
    """Self-attention by PyTorch's module."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = MultiHead(width, heads) if kind == "module" else Attention(width, heads, kind == "fused")
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A vision transformer for any size of image; positions are interpolated."""

    def __init__(self, random: Random, classes: int, ending: str, pooling: str) -> None:
        super().__init__()
        heads, width = random.choice([(1, 4), (2, 8), (2, 12)])
        self.pooling, self.ending = pooling, ending
        self.patch = nn.Conv2d(3, width, random.choice([4, 8]), 1)
        self.patch.stride = self.patch.kernel_size  # type: ignore[assignment]
        self.cls_token = nn.Parameter(torch.randn(1, 1, width)) if pooling == "cls" or random.random() < 0.3 else None
        self.reg_token = nn.Parameter(torch.randn(1, 2, width)) if random.random() < 0.3 else None
        self.positions = nn.Parameter(0.5 * torch.randn(1, width, 3, 3))
        kind = random.choice(["fused", "module", "written"])
        self.blocks = nn.Sequential(*[Block(width, heads, kind) for _ in range(random.choice([1, 2]))])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self.last = _ending_module(random, ending)

    @property
    def prefix(self) -> int:
        return (self.cls_token is not None) + (0 if self.reg_token is None else 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        x = x + F.interpolate(self.positions, x.shape[-2:], mode="bilinear")
        extra = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        x = self.norm(self.blocks(torch.cat([*extra, x.flatten(2).mT], 1)))
        x = x[:, 0] if self.pooling == "cls" else x[:, self.prefix :].mean(1)
        return _ended(self.head(x), self.ending, self.last)


class Dense(nn.Module):
    """A score for each class at each place, as large as the image or as the maps."""

    def __init__(self, random: Random, classes: int, ending: str = "none") -> None:
        super().__init__()
        self.trunk = Trunk(random)
        self.head = nn.Conv2d(self.trunk.width, classes, 1)
        self.large, self.named = random.random() < 0.5, random.random() < 0.5
        self.images = 1

    def forward(self, x: Tensor) -> Any:
        y = self.head(self.trunk.finish(self.trunk(x)))
        if self.large:
            y = F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": y} if self.named else y


class Several(nn.Module):
    """More than logits: maps beside them, or two heads of the same size."""

    def __init__(self, random: Random, classes: int, ending: str = "none") -> None:
        super().__init__()
        self.trunk = Trunk(random)
        self.head, self.other = nn.Linear(self.trunk.width, classes), nn.Linear(self.trunk.width, classes)
        self.gives = random.choice(["maps", "embedding", "heads", "named heads"])

    def forward(self, x: Tensor) -> Any:
        maps = self.trunk.finish(self.trunk(x))
        pooled = maps.mean((2, 3))
        if self.gives == "maps":
            return maps, self.head(pooled)
        if self.gives == "embedding":
            return {"embedding": pooled, "logits": self.head(pooled)}
        heads = self.head(pooled), self.other(torch.tanh(pooled))
        return heads if self.gives == "heads" else {"first": heads[0], "second": heads[1]}


@dataclass(frozen=True)
class Drawn:
    """A model, how its logits are read, and what the reference must know of it."""

    kind: str
    model: Any
    classes: int
    scores: Scores | None = None
    head: str = "head"
    scores_kind: str = "none"

    @property
    def layers(self) -> list[str]:
        """Names of layers that can be asked for."""
        if self.kind.startswith("vit"):
            count = len(self.model.blocks)
            return [
                "patch",
                "norm",
                *(f"blocks.{n}{part}" for n in range(count) for part in ("", ".norm1", ".norm2")),
            ]
        last = isinstance(self.model.trunk.block, ChannelsLast)
        return ["trunk", "trunk.stem", "trunk.stage", "trunk.stage.0", *(["trunk.block.norm"] if last else [])]

    def found(self) -> list[tuple[str, ...]]:
        """The layers that may be found."""
        if self.kind.startswith("vit"):
            return [(f"blocks.{len(self.model.blocks) - 1}.norm1",)]
        # With scores=, maps with as many channels as there are classes are taken for maps of class scores, and maps
        # whose zeros leave the first image's logits as they are (a ReLU without output) are passed over.
        return [("trunk",)] if self.scores is None else [("trunk",), ("trunk.stem",)]


def _draw_dense(random: Random, classes: int, ending: str) -> Drawn:
    model = Dense(random, classes)
    masks = torch.tensor([[[random.choice([0.0, 1.0]) for _ in range(2)] for _ in range(2)] for _ in range(8)])
    masks[:, 0, 0] = 1.0
    kind = random.choice(["mean", "mean", "largest", "masks", "place", "batch masks"])
    maps = (lambda y: y["out"]) if model.named else (lambda y: y)

    def within(y: Tensor, mask: Tensor) -> Tensor:
        return (y * F.interpolate(mask[:, None].to(y), y.shape[-2:])).mean((2, 3))

    def of_samples(output: Any, samples: Tensor, view: Any) -> Tensor:
        mask = masks[samples]
        return within(maps(output), mask.flip(-1) if view.flip else mask)

    functions: dict[str, Scores] = {
        "mean": lambda output: maps(output).mean((2, 3)),
        "largest": lambda output: maps(output).amax((2, 3)),
        "masks": of_samples,
        "place": lambda output: maps(output)[:, :, 0, -1],
        "batch masks": lambda output: within(maps(output), masks[: model.images]),
    }
    return Drawn("dense", model, classes, functions[kind], scores_kind=kind)


def _draw_several(random: Random, classes: int, ending: str) -> Drawn:
    model = Several(random, classes)
    second = random.random() < 0.5
    if model.gives == "heads" and second:
        return Drawn("several", model, classes, lambda output: output[1], "other", "second")
    if model.gives == "named heads" and random.random() < 0.9:
        name = "second" if second else "first"
        return Drawn("several", model, classes, lambda output: output[name], "other" if second else "head", name)
    return Drawn("several", model, classes)


KINDS: dict[str, Callable[[Random, int, str], Drawn]] = {
    "cnn": lambda random, classes, ending: Drawn("cnn", Cnn(random, classes, ending), classes),
    "vit-cls": lambda random, classes, ending: Drawn("vit-cls", Vit(random, classes, ending, "cls"), classes),
    "vit-mean": lambda random, classes, ending: Drawn("vit-mean", Vit(random, classes, ending, "mean"), classes),
    "dense": _draw_dense,
    "several": _draw_several,
}


def draw_model(random: Random, kind: str) -> Drawn:
    """A model with random weights and running statistics; the global random numbers must be seeded by the caller."""
    drawn = KINDS[kind](random, random.randint(2, 7), random.choice(["none"] * 5 + list(_ENDINGS)))
    for module in drawn.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    with torch.no_grad():
        drawn.model.get_submodule(drawn.head).weight.mul_(random.choice([1, 1, 5]))
    return drawn


def twin_of(drawn: Drawn) -> Any:
    """The same model for the reference."""
    twin = copy.deepcopy(drawn.model).double().eval()
    if hasattr(twin, "ending"):
        twin.ending = "none"
    if hasattr(twin, "trunk"):
        twin.trunk.tap = nn.Identity()
    return twin.requires_grad_(False)


_ENDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda y: y.softmax(1),
    "log-softmax": lambda y: F.log_softmax(y, dim=1),
    "sigmoid": torch.sigmoid,
}


def _ending_module(random: Random, ending: str) -> nn.Module | None:
    made = {"softmax": nn.Softmax(1), "log-softmax": nn.LogSoftmax(1), "sigmoid": nn.Sigmoid()}
    return made.get(ending) if random.random() < 0.5 else None


def _ended(logits: Tensor, ending: str, last: nn.Module | None) -> Tensor:
    if ending == "none":
        return logits
    return _ENDINGS[ending](logits) if last is None else last(logits)


def _norm(kind: str, width: int) -> nn.Module:
    return {"batch": nn.BatchNorm2d(width), "group": nn.GroupNorm(1, width), "none": nn.Identity()}[kind]
