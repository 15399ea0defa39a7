"""Maps of where an image–text model sees a text, compared with a more general text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.methods import Method
from finercam.models.image_text import ImageText, load_image_text
from finercam.zeroshot import ZeroShotClassifier

__all__ = ["ImageText", "concept_maps", "load_image_text"]


def concept_maps(
    model: nn.Module,
    images: Tensor,
    texts: Sequence[str],
    against: str | None = "bird",
    *,
    tokenizer: Callable[..., Any] | None = None,
    templates: Sequence[str] = ("{}",),
    gamma: float = 0.3,
    method: str | Method = "value-attention",
) -> Tensor:
    """Signed maps `(N, T, h, w)` of T texts in N images `(N, 3, H, W)`, each contrasted with the general text.

    The contrast subtracts what all texts share, for example that there is a bird. The general text fits the whole
    object, so a strong contrast would leave nothing: 0.3 was best on Fieldguide (docs/zeroshot.md).
    `against=None` returns the plain maps of the texts. Raises FinerCAMError for texts that are no list.

    >>> from finercam.models.twotower import TwoTower
    >>> words = TwoTower(["red", "crest", "beak", "bird"])
    >>> concept_maps(words, torch.zeros(1, 3, 32, 32), ["red crest", "beak"]).shape
    torch.Size([1, 2, 8, 8])
    """
    if isinstance(texts, str) or not texts:
        raise FinerCAMError(f"texts={texts!r}: expected a list of texts")
    if against is not None and against in texts:
        raise FinerCAMError(
            f"text {against!r} cannot be contrasted against itself; give another one, or a general word"
        )
    distinct = list(dict.fromkeys(texts))
    general = against or f"{distinct[0]} {distinct[0]}"  # a second class is needed; with gamma 0 it has no effect
    classify = ZeroShotClassifier(model, tokenizer, [*distinct, general], templates).eval()
    strength = 0.0 if against is None else gamma
    explain = FinerCAM(classify, method, keep=range(len(distinct) + 1), gamma=strength, keep_images=False)
    answer = explain(images, target=0, against=len(distinct))
    maps = [answer.ask(target=k, against=len(distinct)).signed for k in range(len(distinct))]
    return torch.stack([maps[distinct.index(text)] for text in texts], 1)
