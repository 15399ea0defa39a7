"""ROAD (remove and debias): masking that does not show the shape of the mask in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from finercam.metrics.deletion import Curves, stack_classes
from finercam.metrics.fill import road_fill
from finercam.metrics.perturb import Scores, masked_scores, pixel_counts

__all__ = ["Road", "road"]


@dataclass(frozen=True)
class Road:
    """Curves over the removed shares, most relevant first (`morf`) and least relevant first (`lerf`)."""

    morf: Curves
    lerf: Curves

    @property
    def combined(self) -> Tensor:
        """`(mean LeRF − mean MoRF) / 2`, `(N,)` in [−½, ½] for probabilities, higher is better, 0 is chance."""
        return (self.lerf.target.mean(-1) - self.morf.target.mean(-1)) / 2

    @property
    def contrast(self) -> Tensor:
        """`combined` of the score of target minus rival, `(N, R)`."""
        lerf = self.lerf.target[:, None] - self.lerf.rivals
        morf = self.morf.target[:, None] - self.morf.rivals
        return (lerf - morf).mean(-1) / 2


def road(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    target: int | Tensor | list[int],
    rivals: Tensor | list[int] | int | None = None,
    *,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    noise: float = 0.01,
    seed: int = 0,
    score: str = "probability",
    batch_size: int = 64,
) -> Road:
    """Remove the most (MoRF) and the least (LeRF) relevant shares of pixels by noisy linear imputation.

    With a good map the target's score falls fast under MoRF and slowly under LeRF. Costs `2·len(shares)` model calls
    per image. Source: Rong et al., ICML 2022; combined as in pytorch-grad-cam. See `impute` for the fill and its noise.

    >>> import torch
    >>> brightness = lambda x: torch.stack((x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))), 1)
    >>> disc = torch.zeros(1, 8, 8); disc[:, 3:5, 3:5] = 1
    >>> answer = road(brightness, disc[:, None].expand(1, 3, 8, 8), disc, 0, shares=[0.1], noise=0, score="logit")
    >>> answer.combined.item() > 0
    True
    """
    fill, classes = road_fill(noise, seed), stack_classes(images, target, rivals)
    pixels = images.shape[-2] * images.shape[-1]
    counts = pixel_counts(shares, pixels)
    removed = counts.float() / pixels

    def curves(counts: Tensor, reveal: bool) -> Curves:
        values = masked_scores(
            scores, images, maps, classes, counts, fill=fill, reveal=reveal, score=score, batch_size=batch_size
        )
        return Curves(removed.to(values), values[:, 0], values[:, 1:], fill.name, score)

    # Removing the k least relevant pixels is the same as keeping the P − k most relevant ones.
    return Road(curves(counts, False), curves(pixels - counts, True))
