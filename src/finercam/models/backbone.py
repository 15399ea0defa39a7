"""Backbones by name: a frozen image encoder with its pooling, preprocessing and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.io import one_line, weights_hash
from finercam.models import huggingface
from finercam.models.hub import fetching
from finercam.models.loaded import parse_options
from finercam.models.native import encoder, longest_side, native_preprocess
from finercam.models.towers import POOLS, Tower, tower_of
from finercam.models.zoo import load_named, needs_library, timm_of_any_size

__all__ = ["NORMALISATIONS", "Backbone", "load_backbone"]

NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and deviation by name; the authors' heads over DINOv2 were made with CLIP's."""


@dataclass(frozen=True)
class Backbone:
    """A frozen image encoder `(N, 3, H, W)` to `(N, dim)`, how pictures are prepared for it, and where it came from.

    `architecture` is what rebuilds the model without its weights, see `finercam.models.save_directory`.
    """

    model: Tower
    dim: int
    preprocess: Preprocess
    name: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pool(self) -> str:
        return self.model.pool

    @property
    def device(self) -> torch.device:
        return self._first.device

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Pooled features `(N, dim)` of prepared images `(N, 3, H, W)`, without a graph, on the model's device."""
        return self.model(self._placed(images))

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """Normalised patch tokens `(N, P, D)`, without CLS and registers; of CNNs the places of the last map."""
        return self.model.patches(self._placed(images))

    def settings(self) -> dict[str, Any]:
        """What the features depend on, as plain values: weights, pooling, precision, preprocessing."""
        return {
            "backbone": self.name,
            "pool": self.pool,
            "weights": self.fingerprint,
            "dtype": str(self._first.dtype),
            "preprocess": self.preprocess.to_json(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and of their names."""
        return weights_hash(self.model)

    @property
    def _first(self) -> Tensor:
        return next(iter(self.model.parameters()), torch.empty(0))

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self.device, self._first.dtype)


def load_backbone(
    text: str,
    pool: str | None = None,
    *,
    native: bool = False,
    size: int | tuple[int, int] | None = None,
    max_side: int = 1000,
    normalise: str | None = None,
    device: str | torch.device = "cpu",
) -> Backbone:
    """The image encoder that a model string names, without its classifier.

    `timm/…`, `hf/…`, `open_clip/…`, `torchvision/…`, `fieldguide/…` or a model folder, with the same options as
    `load_model`. pool: "avg" (the paper's: mean of the normalised patch tokens, of CNNs of all places; the default),
    "tok" (CLS), "attn" (attention pooling) or "own" (as published); also as `?pool=` in the string.

    native: pictures keep their shape, the longest side at most `max_side`, sides rounded up to whole patches, and
    position embeddings are interpolated (the paper's set-up; also as `?native=1000`); else `size` (H, W), or the model's own. normalise:
    "imagenet" or "clip" instead of the model's own mean and deviation. Raises FinerCAMError, one line, for a name,
    pooling or size that cannot be had.

    >>> backbone = load_backbone("timm/resnet10t?pretrained=false", size=64)
    >>> backbone.dim, backbone.features(torch.zeros(2, 3, 64, 64)).shape
    (512, torch.Size([2, 512]))
    """
    name, options = parse_options(text)
    if (side := longest_side(text, options)) is not None:
        native, max_side = True, side
    options.pop("native", None)
    asked = options.pop("pool", None)
    if pool is not None and asked not in (None, pool):
        raise FinerCAMError(f"backbone {text!r} asks for pool={asked}, the call for pool={pool}; give one")
    pool = str(pool or asked or "avg")
    if pool not in POOLS:
        raise FinerCAMError(f"pool={pool!r} is not one of {', '.join(POOLS)}")
    model, preprocess, architecture = _load(text, name, options)
    tower = _on(device, tower_of(model, pool)).eval()
    preprocess = _prepared(text, tower, preprocess, native, size, max_side, normalise)
    dim = _width(text, tower, preprocess)
    provenance = {"backbone": text, "pool": pool, "tower": type(tower).__name__, "libraries": _versions(architecture)}
    return Backbone(tower, dim, preprocess, text, {**architecture, "pool": pool}, provenance)


def _load(text: str, name: str, options: Mapping[str, Any]) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """The encoder, its preprocessing and its architecture."""
    library, _, rest = name.partition("/")
    try:
        if library == "hf" and rest:
            with fetching(text):
                return huggingface.load_tower(text, rest, options)
        if library == "timm" and rest:
            with fetching(text):
                loaded, options = timm_of_any_size(text, rest, {**options, "num_classes": 0})
        else:
            loaded = load_named(text, name, options)
    except FinerCAMError as error:
        raise needs_library(text, error) from error
    architecture = loaded.source.get("architecture")
    if architecture is None:
        kwargs = {key: value for key, value in options.items() if key not in ("pretrained", "weights")}
        architecture = {"library": library, "name": str(loaded.source["name"]), "kwargs": kwargs}
    return encoder(loaded.model), loaded.preprocess, {"kwargs": {}, **architecture}


def _on(device: str | torch.device, tower: Tower) -> Tower:
    try:
        return tower.to(device)
    except (RuntimeError, AssertionError) as error:
        raise FinerCAMError(f"device {str(device)!r} cannot be used: {one_line(error)}") from error


# --- sizes


def _prepared(
    text: str,
    tower: Tower,
    preprocess: Preprocess,
    native: bool,
    size: int | tuple[int, int] | None,
    max_side: int,
    normalise: str | None,
) -> Preprocess:
    if normalise is not None:
        if normalise not in NORMALISATIONS:
            raise FinerCAMError(f"normalise={normalise!r} is not one of {', '.join(NORMALISATIONS)}")
        mean, std = NORMALISATIONS[normalise]
        preprocess = replace(preprocess, mean=mean, std=std)
    if native and size is not None:
        raise FinerCAMError(f"native=True keeps each picture's shape; leave size={size} out")
    wanted = (size, size) if isinstance(size, int) else size
    if (native or wanted not in (None, preprocess.size)) and not tower.resizable:
        raise FinerCAMError(f"backbone {text!r} with pool={tower.pool} takes pictures of {preprocess.size} only")
    if native:
        return native_preprocess(preprocess, max_side, tower.multiple)
    if wanted is not None:
        if any(side % tower.multiple for side in wanted):
            raise FinerCAMError(
                f"size {wanted} is no whole number of patches of {tower.multiple}; give multiples of it"
            )
        return replace(preprocess, size=wanted)
    return preprocess


def _width(text: str, tower: Tower, preprocess: Preprocess) -> int:
    """The number of features, by a pass over one small blank picture."""
    size = (4 * tower.multiple,) * 2 if tower.resizable and tower.multiple > 1 else preprocess.size or (128, 128)
    first = next(iter(tower.parameters()))
    try:
        with torch.no_grad():
            return int(tower(torch.zeros(1, 3, *size, device=first.device, dtype=first.dtype)).shape[1])
    except FinerCAMError as error:
        raise FinerCAMError(f"backbone {text!r}: {error}") from error
    except Exception as error:
        raise FinerCAMError(f"backbone {text!r} fails on a picture of {size}: {one_line(error)}") from error


def _versions(architecture: Mapping[str, Any]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    packages = {"open_clip": "open_clip_torch", "builtin": "finercam"}
    found = {}
    for package in ("torch", packages.get(str(architecture.get("library")), str(architecture.get("library")))):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
