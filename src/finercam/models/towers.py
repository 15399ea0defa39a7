"""Towers: image encoders without a classifier, from any library, with a common interface for pooling."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.errors import FinerCAMError

__all__ = [
    "POOLS",
    "DinoHubTower",
    "HFTower",
    "Headless",
    "OpenClipTimmTower",
    "OpenClipTower",
    "TimmTower",
    "Tower",
    "is_open_clip_vit",
    "tower_of",
]

POOLS = ("avg", "tok", "attn", "own")
"""Mean of the normalised patch tokens (for CNNs: of all places), CLS token, attention pooling, or the pooling that the
model was published with."""


class Tower(nn.Module):
    """An image encoder without a classifier: `(N, 3, H, W)` to pooled features `(N, D)`.

    `patches(images)` gives the normalised patch tokens `(N, P, D)`, for CNNs the places of the last map. The sides of
    images must be multiples of `multiple`. `resizable` tells whether they may differ from the model's input size.
    Raises FinerCAMError for a pooling that the model does not have.
    """

    pools: Sequence[str] = POOLS
    multiple = 1
    resizable = True

    def __init__(self, model: nn.Module, pool: str = "avg") -> None:
        super().__init__()
        self.model = model
        self.pool = pool
        if pool not in POOLS:
            raise FinerCAMError(f"pool={pool!r} is not one of {', '.join(POOLS)}")
        if pool not in self.pools:
            raise self._lacks()

    def patches(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _lacks(self) -> FinerCAMError:
        has = [pool for pool in POOLS if pool in self.pools and pool != self.pool]
        return FinerCAMError(
            f"{type(self.model).__name__} cannot pool as {self.pool!r} here; it has {', '.join(has) or 'no other'}"
        )

    def _checked(self, images: Tensor) -> Tensor:
        """The images, if their sides are whole patches; a convolution would silently drop the rest."""
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise FinerCAMError(
                f"images of {height}x{width} pixels are no whole patches of {self.multiple}; resize to a multiple of it"
            )
        return images


class TimmTower(Tower):
    """A timm model. In transformers with prefix tokens (CLS, registers), the patches are the tokens after them."""

    def __init__(self, model: Any, pool: str = "avg") -> None:
        self.prefix = getattr(model, "num_prefix_tokens", None)
        if self.prefix is None:
            self.pools = ("avg", "own")
        else:
            has_cls = getattr(model, "cls_token", None) is not None
            has_attention = getattr(model, "attn_pool", None) is not None
            self.pools = ("avg", *["tok"] * has_cls, *["attn"] * has_attention, "own")
            self.multiple = max(_pair(getattr(model.patch_embed, "patch_size", 1)))
            self.resizable = bool(getattr(model, "dynamic_img_size", False))
        super().__init__(model, pool)

    def patches(self, images: Tensor) -> Tensor:
        return self._split(self._features(images))

    def forward(self, images: Tensor) -> Tensor:
        model: Any = self.model
        features = self._features(images)
        if self.pool == "own" or self.pool == "attn" or (self.prefix is None and self._own_is_mean()):
            return model.forward_head(features, pre_logits=True)
        pooled = features[:, 0] if self.pool == "tok" else self._split(features).mean(1)
        # fc_norm is the identity if tokens are normalised one by one; models made for mean pooling normalise the mean.
        return model.fc_norm(pooled) if self.prefix is not None else pooled

    def _features(self, images: Tensor) -> Tensor:
        model: Any = self.model
        return model.forward_features(self._checked(images))

    def _split(self, features: Tensor) -> Tensor:
        if self.prefix is not None:
            return features[:, self.prefix :]
        if features.ndim != 4:
            raise self._lacks()
        return features.flatten(1, 2) if getattr(self.model, "output_fmt", "") == "NHWC" else _places(features)

    def _own_is_mean(self) -> bool:
        from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

        pools = [module for module in self.model.modules() if isinstance(module, SelectAdaptivePool2d)]
        return bool(pools) and all(pool.pool_type in ("avg", "fast", "fastavg") for pool in pools)


class OpenClipTimmTower(TimmTower):
    """An open_clip image tower built by timm (SigLIP, EVA, ConvNeXt), with open_clip's projection after the pooling."""

    def __init__(self, model: Any, pool: str = "avg") -> None:
        super().__init__(model.trunk, pool)
        if "pool" in dict(model.head.named_children()):  # the pooling is not timm's
            raise FinerCAMError(f"open_clip's pooling of a {type(model.trunk).__name__} is not supported here")
        self.projection = model.head

    def forward(self, images: Tensor) -> Tensor:
        trunk: Any = self.model
        return self.projection(trunk.get_classifier()(super().forward(images)))


# Model types of the library transformers with normalised tokens, in which the patches come last.
_NORMALISED = {
    *("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit", "vit_msn", "ijepa"),
    *("siglip_vision_model", "clip_vision_model", "clip"),
}


class HFTower(Tower):
    """An image model of transformers: DINOv2, DINOv3, ViT, CLIP and SigLIP image towers, and CNNs with a pooler."""

    def __init__(self, model: Any, pool: str = "avg") -> None:
        self.kind = str(model.config.model_type)
        self.is_clip = self.kind in ("clip", "clip_vision_model")
        if self.kind in _NORMALISED:
            self.pools = ("avg", "attn") if self.kind.startswith("siglip") else ("avg", "tok")
            vision = getattr(model.config, "vision_config", model.config)
            self.multiple = max(_pair(vision.patch_size))
        else:
            self.pools = ("avg",)
        super().__init__(model, pool)
        takes = inspect.signature(type(model).forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def patches(self, images: Tensor) -> Tensor:
        tokens = self._clip_tokens(images) if self.is_clip else self._run(images).last_hidden_state
        return self._patches(tokens, images)

    def forward(self, images: Tensor) -> Tensor:
        if self.is_clip:
            projection: Any = getattr(self.model, "visual_projection", nn.Identity())
            return projection(self._pooled(self._clip_tokens(images), images))
        output = self._run(images)
        if self.pool == "attn":
            return output.pooler_output
        if self.kind in _NORMALISED:
            return self._pooled(output.last_hidden_state, images)
        pooled = getattr(output, "pooler_output", None)
        # Only poolers that take the mean are used; the pooler of a transformer may be an untrained layer.
        if pooled is None or not (
            output.last_hidden_state.ndim == 4 or self.kind.startswith(("swin", "dinov3_conv"))
        ):
            raise FinerCAMError(
                f"transformers' {type(self.model).__name__} has no pooling known here; the same model in timm may have"
            )
        return pooled.flatten(1)

    def _run(self, images: Tensor) -> Any:
        return self.model(pixel_values=self._checked(images), return_dict=True, **self.options)

    def _clip_tokens(self, images: Tensor) -> Tensor:
        """All tokens, normalised; CLIP's code normalises only the CLS token."""
        vision: Any = getattr(self.model, "vision_model", self.model)
        embedded = vision.pre_layrnorm(vision.embeddings(self._checked(images), interpolate_pos_encoding=True))
        return vision.post_layernorm(vision.encoder(inputs_embeds=embedded).last_hidden_state)

    def _pooled(self, tokens: Tensor, images: Tensor) -> Tensor:
        return tokens[:, 0] if self.pool == "tok" else self._patches(tokens, images).mean(1)

    def _patches(self, tokens: Tensor, images: Tensor) -> Tensor:
        """The tokens after CLS and registers, or the places of a CNN's map."""
        if tokens.ndim == 4:
            return _places(tokens)
        if self.kind not in _NORMALISED:
            raise self._lacks()
        count = math.prod(side // self.multiple for side in images.shape[-2:])
        return tokens[:, tokens.shape[1] - count :]


class OpenClipTower(Tower):
    """The image tower of an open_clip model. Its transformer accepts images of any size, see `positions`."""

    def __init__(self, model: Any, pool: str = "avg") -> None:
        self.is_vit = is_open_clip_vit(model)
        if self.is_vit:
            pooler = getattr(model, "attn_pool", None)
            self.pools = ("avg", "tok", "own") if pooler is None else ("attn", "own")
            self.multiple = max(_pair(model.patch_size))
        else:  # the ResNets of the first CLIP; their attention pooling has fixed positions
            self.pools, self.multiple, self.resizable = ("avg", "attn", "own"), 32, pool == "avg"
        super().__init__(model, pool)

    def patches(self, images: Tensor) -> Tensor:
        if self.is_vit:
            model: Any = self.model
            tokens = self._tokens(images)[:, 1:]
            return tokens if model.attn_pool is not None or model.final_ln_after_pool else model.ln_post(tokens)
        return _places(self._maps(images))

    def forward(self, images: Tensor) -> Tensor:
        model: Any = self.model
        if not self.is_vit:
            return self._maps(images).mean((2, 3)) if self.pool == "avg" else model(self._checked(images))
        tokens = self._tokens(images)
        if self.pool in ("own", "attn"):
            pooled, _ = model._pool(tokens)
        elif model.final_ln_after_pool:
            pooled = model.ln_post(tokens[:, 0] if self.pool == "tok" else tokens[:, 1:].mean(1))
        else:
            tokens = model.ln_post(tokens)
            pooled = tokens[:, 0] if self.pool == "tok" else tokens[:, 1:].mean(1)
        return pooled if model.proj is None else pooled @ model.proj

    def _tokens(self, images: Tensor) -> Tensor:
        """CLS and patch tokens `(N, 1 + P, D)` after the last block, before the last normalisation."""
        model: Any = self.model
        maps = model.conv1(self._checked(images).to(model.conv1.weight.dtype))
        cls = model.class_embedding.to(maps.dtype).expand(len(maps), 1, -1)
        tokens = torch.cat([cls, maps.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + positions(model.positional_embedding, model.grid_size, maps.shape[2:]).to(maps.dtype)
        return model.transformer(model.ln_pre(model.patch_dropout(tokens)))

    def _maps(self, images: Tensor) -> Tensor:
        model: Any = self.model
        maps = model.stem(self._checked(images))
        return model.layer4(model.layer3(model.layer2(model.layer1(maps))))


class DinoHubTower(Tower):
    """A model of the original DINOv2 or DINOv3 code, which names its tokens, for example `x_norm_patchtokens`."""

    pools = ("avg", "tok", "own")

    def __init__(self, model: Any, pool: str = "avg") -> None:
        self.multiple = max(_pair(model.patch_size))
        super().__init__(model, pool)

    def patches(self, images: Tensor) -> Tensor:
        return self._tokens(images)["x_norm_patchtokens"]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self._tokens(images)
        return tokens["x_norm_patchtokens"].mean(1) if self.pool == "avg" else tokens["x_norm_clstoken"]

    def _tokens(self, images: Tensor) -> Any:
        model: Any = self.model
        return model.forward_features(self._checked(images))


class Headless(Tower):
    """A copy of any other classifier without its last fully connected layer; the input of that layer is the feature.

    The pooling "avg" is accepted if the model's pooling is known to be the mean.
    """

    def __init__(self, model: nn.Module, pool: str = "avg") -> None:
        linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linears:
            raise FinerCAMError(
                f"{type(model).__name__} has no fully connected layer to take off; it is no backbone here"
            )
        self.pools = ("avg", "own") if _pools_by_mean(model) else ("own",)
        headless = copy.deepcopy(model)
        parent, _, leaf = linears[-1].rpartition(".")
        setattr(headless.get_submodule(parent), leaf, nn.Identity())
        super().__init__(headless, pool)

    def patches(self, images: Tensor) -> Tensor:
        raise FinerCAMError(f"the patches of a {type(self.model).__name__} are not known; use its pooled features")

    def forward(self, images: Tensor) -> Tensor:
        features = self.model(images)
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise FinerCAMError(f"{type(self.model).__name__} gives no features (N, D) once its head is off")
        return features


def tower_of(model: nn.Module, pool: str = "avg") -> Tower:
    """The tower for a model of any library. Raises FinerCAMError for a pooling that the model does not have.

    >>> cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> tower_of(cnn)(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 4])
    """
    if hasattr(getattr(model, "config", None), "model_type"):  # transformers
        return HFTower(model, pool)
    if hasattr(model, "trunk") and hasattr(model, "head"):
        return OpenClipTimmTower(model, pool)
    if is_open_clip_vit(model) or all(hasattr(model, part) for part in ("stem", "layer4", "attnpool")):
        return OpenClipTower(model, pool)
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        return TimmTower(model, pool)
    if hasattr(model, "forward_features") and hasattr(model, "get_intermediate_layers"):
        return DinoHubTower(model, pool)
    return Headless(model, pool)


def is_open_clip_vit(model: nn.Module) -> bool:
    """Whether a module is a vision transformer of open_clip: it has the parts that `OpenClipTower` uses."""
    parts = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
    return all(hasattr(model, part) for part in parts)


def positions(embedding: Tensor, grid: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """Position embeddings `(1 + h·w, D)` of CLS and a grid, resampled to another grid (bicubic, as open_clip does)."""
    if tuple(grid) == tuple(wanted):
        return embedding
    cls, patches = embedding[:1], embedding[1:]
    square = patches.T.unflatten(1, (int(grid[0]), int(grid[1])))[None].float()
    resized = F.interpolate(square, tuple(wanted), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])


def _pools_by_mean(model: nn.Module) -> bool:
    from finercam.models.builtin import PatchViT

    def is_mean(module: nn.Module) -> bool:
        return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))

    return isinstance(model, PatchViT) or any(is_mean(module) for module in model.modules())


def _places(maps: Tensor) -> Tensor:
    """`(N, C, h, w)` to `(N, h·w, C)`."""
    return maps.flatten(2).transpose(1, 2)


def _pair(side: int | Sequence[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])
