"""The three classifiers that ship with the package, trained on Fieldguide (`training/classifiers.py` in the repository).

`fieldguide/cnn` sees only a small patch of the picture at every place of a fine grid, so that its evidence always lies
on its cause. `fieldguide/resnet` is an ordinary residual network. `fieldguide/vit` is an ordinary transformer that
averages its patch tokens. All three end in average pooling and one linear layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from finercam.errors import FinerCAMError
from finercam.models.sources import builtin_names

__all__ = ["ARCHITECTURES", "BuiltinMeta", "PatchCNN", "PatchViT", "SmallResNet", "builtin_names", "load_builtin"]


class PatchCNN(nn.Module):
    """A bag of local features: `(N, 3, H, W)` to features `(N, C, H/4, W/4)`, each from a square of 15x15 pixels.

    This is the idea of BagNet (Brendel and Bethge, ICLR 2019) with a fine grid: only the three 3x3 convolutions of
    `features` see neighbours. The normalisation layers of training (`norm`) are folded into the convolutions.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 48, 96, 192), norm: bool = False) -> None:
        super().__init__()
        kernels, strides = (3, 3, 3, 1), (2, 2, 1, 1)
        layers: list[nn.Module] = []
        channels = 3
        for width, kernel, stride in zip(widths, kernels, strides, strict=True):
            layers.append(nn.Conv2d(channels, width, kernel, stride, kernel // 2))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))

    def folded(self) -> PatchCNN:
        """The same function without the normalisation layers of training, in eval mode."""
        modules = list(self.features.eval())
        convs = []
        for conv, norm in zip(modules[::3], modules[1::3], strict=True):
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            convs.append(fuse_conv_bn_eval(conv, norm))
        plain = PatchCNN(self.head.out_features, tuple(conv.out_channels for conv in convs))
        for place, conv in zip(plain.features[::2], convs, strict=True):
            place.load_state_dict(conv.state_dict())
        plain.head.load_state_dict(self.head.state_dict())
        return plain.eval()


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


class SmallResNet(nn.Module):
    """A residual network of the usual form: stem, `layer1` to `layer4` (8x8 for 128 pixels), pooling and `fc`."""

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 64, 96, 160), depth: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 5, 2, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        channels = widths[0]
        for stage, (width, stride) in enumerate(zip(widths, (2, 1, 2, 2), strict=True), 1):
            blocks = [
                ResidualBlock(channels if b == 0 else width, width, stride if b == 0 else 1) for b in range(depth)
            ]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.training:  # PyTorch's fused attention takes 1.5 times as long to train in bfloat16 on CPUs
            weights = (q * (c // self.heads) ** -0.5 @ k.transpose(2, 3)).softmax(-1, dtype=q.dtype)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """`(N, 3, H, W)` to tokens `(N, T, C)`, one per 8x8 patch, row by row.

    It is a short stack of convolutions instead of one large one, which needs far fewer training steps (Xiao et al.,
    "Early convolutions help transformers see better", NeurIPS 2021).
    """

    patch_size = (8, 8)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, width // 4, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class PatchViT(nn.Module):
    """A small vision transformer without a class token; the mean of its normalised patch tokens goes to a linear head.

    Pictures may differ in size from those of the training: the position embedding is interpolated to their grid.
    """

    def __init__(self, num_classes: int, width: int = 96, depth: int = 4, heads: int = 3, grid: int = 16) -> None:
        super().__init__()
        self.grid = grid
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x)
        tokens = tokens + self._positions(-(-x.shape[-2] // 8), -(-x.shape[-1] // 8))
        return self.head(self.norm(self.blocks(tokens)).mean(1))

    def _positions(self, rows: int, columns: int) -> Tensor:
        if rows == columns == self.grid:
            return self.pos_embed
        square = self.pos_embed.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        square = F.interpolate(square, (rows, columns), mode="bicubic", align_corners=False)
        return square.flatten(2).transpose(1, 2)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"cnn": PatchCNN, "resnet": SmallResNet, "vit": PatchViT}


@dataclass(frozen=True)
class BuiltinMeta:
    """Class names, preprocessing `(x / 255 - mean) / std` and training record of a built-in model."""

    name: str
    architecture: str
    options: dict[str, Any]
    class_names: list[str]
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: str
    """The dotted name of the layer that the maps are taken from."""
    training: dict[str, Any] = field(default_factory=dict)


def load_builtin(name: str) -> tuple[nn.Module, BuiltinMeta]:
    """A built-in model in eval mode, float32 on the CPU, and its metadata. Uses neither network nor pickle.

    Raises `FinerCAMError` for a name that is not in `builtin_names()`.

    >>> model, meta = load_builtin("fieldguide/cnn")
    >>> model(torch.zeros(1, 3, *meta.input_size)).shape == (1, len(meta.class_names))
    True
    """
    from safetensors.torch import load

    if name not in builtin_names():
        raise FinerCAMError(f"built-in model {name!r}: expected one of {', '.join(builtin_names())}")
    folder = files("finercam.models") / "weights" / name.replace("/", "-")
    config = json.loads((folder / "config.json").read_text())
    for key in ("input_size", "mean", "std"):
        config[key] = tuple(config[key])
    meta = BuiltinMeta(**config)
    # The meta device skips the initialisation, which loading would overwrite.
    with torch.device("meta"):
        model = ARCHITECTURES[meta.architecture](len(meta.class_names), **meta.options)
    state = load((folder / "model.safetensors").read_bytes())
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval(), meta
