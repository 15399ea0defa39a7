"""The fall of confidence if the map's top pixels are removed (RD@k), or if only the mapped region is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_classes, as_maps, finite_maps, void_where
from finercam.metrics.deletion import stack_classes
from finercam.metrics.fill import Fill, as_fill
from finercam.metrics.perturb import Scores, class_scores, masked_scores, pixel_counts, read_scores

__all__ = ["KeptConfidence", "RelativeDrop", "kept_confidence", "relative_drop"]


@dataclass(frozen=True)
class RelativeDrop:
    """Log-probabilities of the target `(N,)` and rivals `(N, R)`, and the same after masking, with a last axis S.

    `*_masked[..., s]` is after removal of the share `shares[s]` of the pixels. A rival given as −1 has NaN everywhere.
    """

    shares: tuple[float, ...]
    target: Tensor
    target_masked: Tensor
    rivals: Tensor
    rivals_masked: Tensor
    fill: str

    @property
    def drop(self) -> Tensor:
        """The drop of the target, `p_c − p*_c`, `(N, S)` in [−1, 1]."""
        return self.target.exp()[:, None] - self.target_masked.exp()

    @property
    def rd(self) -> Tensor:
        """Eq. 10: `(p_c − p*_c) − (p_d − p*_d)`, `(N, R, S)` in [−2, 2], higher is better."""
        return self.drop[:, None] - (self.rivals.exp()[..., None] - self.rivals_masked.exp())

    @property
    def rd_relative(self) -> Tensor:
        """RD divided by `p_c`, `(N, R, S)`, because absolute RD mostly measures how confident the classifier is.

        Pitfall: it becomes huge if `p_c` is near 0. Over pictures, report the ratio of means, `bootstrap_ratio(rd, p_c)`.
        """
        return self.rd / self.target.exp()[:, None, None]

    @property
    def rd_log(self) -> Tensor:
        """`log(p_c/p_d) − log(p*_c/p*_d)`, `(N, R, S)`: the fall of the logit gap `y_c − y_d`, which does not saturate."""
        before = (self.target[:, None] - self.rivals)[..., None]
        return before - (self.target_masked[:, None] - self.rivals_masked)


def relative_drop(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    target: int | Tensor | list[int],
    rivals: Tensor | list[int] | int,
    *,
    shares: Sequence[float] = (0.05, 0.10),
    fill: str | Fill = "zero",
    batch_size: int = 64,
) -> RelativeDrop:
    """Relative confidence drop RD@k of Finer-CAM (CVPR 2025, Eq. 10), for all shares k and rivals d.

    Removes the top share k of the pixels and compares the loss of the target with that of the rival d:
    `RD@k = (p_c − p*_c) − (p_d − p*_d)`. Costs `len(shares) + 1` model calls per image for any number of rivals.
    Pitfall: RD is circular if d is the reference of the map. Give several columns of rivals `(N, R)`: the reference,
    a `held_out_rival` and the `strongest_rival`. Raises `FinerCAMError` if a rival is the target.

    >>> two = lambda x: torch.stack((x[:, 0].mean((1, 2)), x[:, 1].mean((1, 2))), 1)
    >>> image = torch.stack((torch.eye(2), torch.zeros(2, 2), torch.zeros(2, 2)))[None]
    >>> answer = relative_drop(two, image, image[:, 0], 0, 1, shares=[0.5])
    >>> answer.rd_log.item(), round(answer.rd.item(), 3)   # the gap y_c − y_d falls from 1/2 to 0
    (0.5, 0.245)
    """
    chosen, classes = as_fill(fill), stack_classes(images, target, rivals)
    counts = pixel_counts([0.0, *shares], images.shape[-2] * images.shape[-1])
    logs = masked_scores(
        scores, images, maps, classes, counts, fill=chosen, score="log_probability", batch_size=batch_size
    )
    whole, masked = logs[..., 0], logs[..., 1:]
    return RelativeDrop(
        tuple(float(share) for share in shares), whole[:, 0], masked[:, 0], whole[:, 1:], masked[:, 1:], chosen.name
    )


@dataclass(frozen=True)
class KeptConfidence:
    """The target's probability on the whole picture and on the picture masked with the map, both `(N,)`."""

    whole: Tensor
    kept: Tensor
    fill: str

    @property
    def drop(self) -> Tensor:
        """Average drop: `max(0, p_c − p'_c) / p_c`, `(N,)` in [0, 1], lower is better; NaN where `p_c` is 0."""
        return torch.where(self.whole > 0, (self.whole - self.kept).clamp_min(0) / self.whole, torch.nan)

    @property
    def increase(self) -> Tensor:
        """Increase in confidence: 1 where `p'_c > p_c`, else 0, `(N,)`, higher is better."""
        return void_where(self.whole.isnan() | self.kept.isnan(), (self.kept > self.whole).to(self.whole))


def kept_confidence(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    target: int | Tensor | list[int],
    *,
    fill: str | Fill = "zero",
    batch_size: int = 64,
) -> KeptConfidence:
    """Average drop and increase in confidence of Grad-CAM++ (WACV 2018, section 5.1.1); two model calls per image.

    The map S in [0, 1] weights the picture, `x·S + fill·(1 − S)`; with the fill "zero" this is the usual `x∘S`.
    Pitfall: a map that is 1 everywhere has drop 0, so do not report it alone. Raises `FinerCAMError` for signed maps.

    >>> brightness = lambda x: torch.stack((x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))), 1)
    >>> kept_confidence(brightness, torch.ones(1, 3, 2, 2), torch.ones(1, 2, 2), 0).drop.item()
    0.0
    """
    weights, chosen = as_maps(maps), as_fill(fill)
    usable = finite_maps(weights)
    if bool((usable & ((weights < -1e-4) | (weights > 1 + 1e-4)).flatten(1).any(1)).any()):
        low, high = weights[usable].min().item(), weights[usable].max().item()
        raise FinerCAMError(
            f"maps run from {low:.3g} to {high:.3g}, expected [0, 1]: pass answer.maps, not the signed ones."
        )
    ids = as_classes(target, images)[:, None]
    whole, kept = [], []
    for x, weight, one in zip(
        images.split(batch_size), weights.split(batch_size), ids.split(batch_size), strict=True
    ):
        veil = weight[:, None].to(x)
        shown = x * veil + chosen.backdrop(x) * (1 - veil)
        whole.append(read_scores(class_scores(scores, x), one)[:, 0])
        kept.append(read_scores(class_scores(scores, shown), one)[:, 0])
    return KeptConfidence(torch.cat(whole), void_where(~usable.to(images.device), torch.cat(kept)), chosen.name)
