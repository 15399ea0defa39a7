"""Deletion and insertion: the scores of the classes while the map's top pixels are removed or revealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_classes
from finercam.metrics.fill import Fill, as_fill
from finercam.metrics.perturb import Scores, masked_scores

__all__ = ["Curves", "area", "deletion", "insertion", "stack_classes"]


@dataclass(frozen=True)
class Curves:
    """Scores of the target `(N, S)` and its rivals `(N, R, S)` at the shares `(S,)` of pixels masked (or revealed)."""

    shares: Tensor
    target: Tensor
    rivals: Tensor
    fill: str
    score: str

    @property
    def auc(self) -> Tensor:
        """Area under the target's curve, `(N,)`."""
        return area(self.shares, self.target)

    @property
    def rival_auc(self) -> Tensor:
        """Area under each rival's curve, `(N, R)`."""
        return area(self.shares, self.rivals)

    @property
    def contrast_auc(self) -> Tensor:
        """Area under the curve of target minus rival, `(N, R)`."""
        return area(self.shares, self.target[:, None] - self.rivals)


def area(shares: Tensor, values: Tensor) -> Tensor:
    """Mean height of curves `(..., S)` over `shares` `(S,)`, by the trapezoidal rule.

    >>> area(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.5, 0.0])).item()
    0.5
    """
    return torch.trapezoid(values, shares.to(values)) / (shares[-1] - shares[0]).to(values)


def stack_classes(
    images: Tensor, target: int | Tensor | list[int], rivals: Tensor | list[int] | int | None
) -> Tensor:
    """The target and its rivals, `(N, 1 + R)`. A rival of −1 means none. Raises if a rival is the target."""
    first = as_classes(target, images)
    if first.ndim != 1:
        raise FinerCAMError(f"target has shape {tuple(first.shape)}, expected one class id, or one for each image.")
    if rivals is None:
        return first[:, None]
    others = as_classes(rivals, images, what="rivals")
    others = others[:, None] if others.ndim == 1 else others
    own = (others == first[:, None]).any(1)
    if bool(own.any()):
        row = int(own.nonzero()[0])
        raise FinerCAMError(
            f"image {row}: class {int(first[row])} is the target and its own rival: pass −1 for none."
        )
    return torch.cat((first[:, None], others), 1)


def deletion(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    target: int | Tensor | list[int],
    rivals: Tensor | list[int] | int | None = None,
    *,
    steps: int = 50,
    fill: str | Fill = "zero",
    score: str = "probability",
    batch_size: int = 64,
    reveal: bool = False,
) -> Curves:
    """Remove the most relevant pixels first, in `steps` equal steps; `.auc` in [0, 1], lower is better.

    `AUC = ∫₀¹ p_c(x without its top share s) ds` by trapezoids over `steps + 1` points, each with one model call. The
    curves of the rivals need no further calls. With `reveal` it is `insertion`. Source: Petsiuk et al., RISE, BMVC
    2018. Pitfall: the more pixels are filled, the less the picture resembles the training data. The result therefore
    names the fill; `road` avoids most of the problem.

    >>> brightness = lambda x: torch.stack((x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))), 1)
    >>> curves = deletion(brightness, torch.ones(1, 3, 4, 4), torch.rand(1, 4, 4), 0, steps=4, score="logit")
    >>> curves.target.tolist(), curves.auc.item(), curves.fill
    ([[1.0, 0.75, 0.5, 0.25, 0.0]], 0.5, 'zero')
    """
    if steps < 1:
        raise FinerCAMError(f"steps is {steps}, expected at least 1.")
    chosen, classes = as_fill(fill), stack_classes(images, target, rivals)
    pixels = images.shape[-2] * images.shape[-1]
    counts = torch.linspace(0, pixels, min(steps, pixels) + 1, dtype=torch.float64).round().int()
    values = masked_scores(
        scores, images, maps, classes, counts, fill=chosen, reveal=reveal, score=score, batch_size=batch_size
    )
    return Curves(counts.to(values) / pixels, values[:, 0], values[:, 1:], chosen.name, score)


def insertion(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    target: int | Tensor | list[int],
    rivals: Tensor | list[int] | int | None = None,
    *,
    steps: int = 50,
    fill: str | Fill = "blur",
    score: str = "probability",
    batch_size: int = 64,
) -> Curves:
    """Reveal the most relevant pixels first on the filled picture; `.auc` in [0, 1], higher is better.

    This is the reverse of `deletion`. RISE starts from the blurred picture, because hard edges on a uniform
    background would be evidence themselves.

    >>> brightness = lambda x: torch.stack((x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))), 1)
    >>> image, relevance = torch.ones(1, 3, 2, 2), torch.rand(1, 2, 2)
    >>> insertion(brightness, image, relevance, 0, steps=2, fill="zero", score="logit").target.tolist()
    [[0.0, 0.5, 1.0]]
    """
    options: dict[str, Any] = {"steps": steps, "score": score, "batch_size": batch_size}
    return deletion(scores, images, maps, target, rivals, fill=fill, reveal=True, **options)
