"""Photos as the classes of an embedding model: why is this photo closer to A than to B?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.core.capture import guest
from finercam.errors import FinerCAMError
from finercam.images import ENDINGS, Preprocess, read_image
from finercam.zeroshot import embeddings_of

__all__ = ["Gallery"]

BATCH = 8


class Gallery(nn.Module):
    """A classifier `(N, 3, H, W)` to similarities `(N, K)` whose classes are K sets of photos, such as individuals.

    `y_k = e/‖e‖ · m_k`, the cosine in [-1, 1] of the photo's embedding `e` and the row of class k: the mean of the
    normalised embeddings of its photos, normalised again. The rows are computed once, and are the linear head
    `class_embeddings (K, D)`. The scores are similarities and are shown as such, never as percentages.

    The cosine does not depend on the length of `e`, so evidence for a class is relative to the photo's mean (see
    docs/zeroshot.md). A contrast of two classes is the gradient of the difference of two cosines.

    Args:
        model: a module from images to embeddings `(N, D)`, such as a timm model with `num_classes=0`.
        photos: a mapping from names to photos, or a folder with a sub-folder (or picture) for each name. Photos are
            tensors `(M, 3, H, W)` or `(3, H, W)` as the model takes them, or pictures and paths.
        preprocess: turns pictures into the model's inputs; needed where photos are no tensors.
        embed: picks the embeddings out of what the model returns; None for a model that returns them.

    Raises FinerCAMError for fewer than two names, a name without photos, and outputs that are no embeddings.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> gallery = Gallery(model, {"left": torch.rand(3, 8, 8), "right": torch.rand(5, 3, 8, 8)})
    >>> gallery(torch.rand(2, 3, 8, 8)).shape, gallery.class_names
    (torch.Size([2, 2]), ['left', 'right'])
    """

    class_embeddings: Tensor
    logits_link = "none"

    def __init__(
        self,
        model: nn.Module,
        photos: Mapping[str, Any] | str | os.PathLike[str],
        preprocess: Preprocess | None = None,
        embed: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._embed = embed
        named = _in_folder(Path(photos)) if isinstance(photos, (str, os.PathLike)) else photos
        if not isinstance(named, Mapping) or len(named) < 2:
            raise FinerCAMError("a gallery needs photos of at least two names: a mapping, or a folder of sub-folders")
        self.photos = {str(name): _inputs(str(name), given, preprocess) for name, given in named.items()}
        self.class_names = list(self.photos)
        first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        rows = []
        with guest(model), torch.no_grad():
            for inputs in self.photos.values():
                of_each = [self.embed(some.to(first)) for some in _batches(inputs)]
                rows.append(F.normalize(F.normalize(torch.cat(of_each).float(), dim=1).mean(0), dim=0))
        self.register_buffer("class_embeddings", torch.stack(rows))

    def embed(self, images: Tensor) -> Tensor:
        """The model's embeddings of images, `(N, D)`, not normalised."""
        output = self.model(images)
        return embeddings_of(output if self._embed is None else self._embed(output), "image")

    def forward(self, images: Tensor) -> Tensor:
        embedded = F.normalize(self.embed(images).float(), dim=1)
        return embedded @ self.class_embeddings.to(embedded).T


def _in_folder(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise FinerCAMError(f"{folder}: no folder of photos there; give one with a sub-folder for each name")
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            pictures = [file for file in sorted(entry.iterdir()) if file.suffix.lower() in ENDINGS]
            if pictures:
                found.setdefault(entry.name, []).extend(pictures)
        elif entry.suffix.lower() in ENDINGS:
            found.setdefault(entry.stem, []).append(entry)
    return found


def _inputs(name: str, given: Any, preprocess: Preprocess | None) -> list[Tensor]:
    """Model inputs `(3, H, W)` of the photos of one name."""
    single = isinstance(given, (str, os.PathLike, Image.Image, Tensor))
    inputs = [one for photo in ([given] if single else given) for one in _input(photo, preprocess)]
    if not inputs or any(one.ndim != 3 or 0 in one.shape for one in inputs):
        raise FinerCAMError(f"gallery: {name!r} has no photos; give tensors (M, 3, H, W), pictures or paths")
    return inputs


def _input(given: Any, preprocess: Preprocess | None) -> Tensor:
    """One photo or several as `(M, 3, H, W)`."""
    if isinstance(given, Tensor):
        return given[None] if given.ndim == 3 else given
    if preprocess is None:
        raise FinerCAMError("a gallery of pictures or paths needs preprocess=, as load_backbone gives it")
    return preprocess(read_image(given) if isinstance(given, (str, os.PathLike)) else given)[None]


def _batches(inputs: list[Tensor]) -> Iterable[Tensor]:
    """Photos of one size in batches; of different sizes, one after another."""
    if len({one.shape for one in inputs}) == 1:
        return torch.stack(inputs).split(BATCH)
    return [one[None] for one in inputs]
