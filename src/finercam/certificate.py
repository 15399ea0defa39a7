"""The certificate of a map: what the margin between two classes becomes without the pixels that the map lights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finercam.core.contrast import contrast_objective
from finercam.core.maps import upsample
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.metrics.fill import as_fill
from finercam.metrics.perturb import pixel_counts, rank_pixels

if TYPE_CHECKING:
    from finercam.beside import Beside

__all__ = ["Certificate", "certify"]

RANDOM_PLACES = 4
"""How often the lit region is moved to a random place; the margins are averaged."""


@dataclass(frozen=True)
class Certificate:
    """Margins `y_c − mean y_d` of N images: with all pixels, and after a `share` of them was replaced by each fill.

    `before (N,)`; `lit`, `plain` and `random`, `(N, F)` for F fills: without the pixels with the most evidence, without as
    many of the plain map, and without the lit region moved to random places. A map that found the deciding pixels
    lowers the margin more than both. `answer` is what was checked; a report shows it with its line.
    """

    share: float
    fills: tuple[str, ...]
    before: Tensor
    lit: Tensor
    plain: Tensor
    random: Tensor
    answer: Explanation | Beside = field(repr=False)

    @property
    def lines(self) -> list[str]:
        """One line an image, for people."""
        return [
            f"without the lit {self.share:.0%} the margin {'falls' if max(after[0]) < before else 'goes'} from "
            f"{before:.1f} to "
            + ", ".join(
                f"{lit:.1f} ({fill}; plain map {plain:.1f}, random places {random:.1f})"
                for fill, lit, plain, random in zip(self.fills, *after, strict=True)
            )
            for before, *after in zip(
                self.before.tolist(), self.lit.tolist(), self.plain.tolist(), self.random.tolist(), strict=True
            )
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def certify(
    answer: Explanation, share: float = 0.05, fills: tuple[str, ...] = ("blur", "road"), seed: int = 0
) -> Certificate:
    """Remove the lit share of the pixels of each image and measure the margin again, in one batch of forward passes.

    Raises FinerCAMError if the explanation holds no images, no rival class, or no model to run.

    >>> from finercam import FinerCAM
    >>> nn = torch.nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> certify(FinerCAM(model)(torch.rand(2, 3, 16, 16))).lit.shape
    torch.Size([2, 2])
    """
    if answer.images is None:
        raise FinerCAMError("the explanation kept no images (keep_images=False); explain again with keep_images=True")
    if len(answer.image_size) != 2:
        raise FinerCAMError(
            "a certificate blurs and fills pictures, and these are volumes: measure the margin yourself"
        )
    if answer.references.shape[1] == 0:
        raise FinerCAMError("the question has no rival class, so there is no margin to measure")
    if not 0 < share < 1:
        raise FinerCAMError(f"share={share!r}: expected a share of the pixels between 0 and 1, such as 0.05")
    images = answer.images
    own, plain = (_most_evidence(one, share) for one in (answer, answer.plain))
    masks = torch.stack([own, plain, *_moved(own, seed)], 1)
    copies = 1 + len(fills) * masks.shape[1]
    seen = [images[:, None], *(as_fill(fill).prepare(images)(masks.to(images.device)) for fill in fills)]
    samples = [sample for sample in answer.samples for _ in range(copies)]
    logits = answer.require_backend().logits(torch.cat(seen, 1).flatten(0, 1), samples).cpu().double()
    logits = answer.contrast.groups.logits(logits)
    margins = contrast_objective(
        logits,
        answer.target.repeat_interleave(copies),
        answer.references.repeat_interleave(copies, 0),
        gamma=1.0,
    ).view(len(answer), copies)
    after = margins[:, 1:].view(len(answer), len(fills), -1)
    return Certificate(share, fills, margins[:, 0], after[..., 0], after[..., 1], after[..., 2:].mean(2), answer)


def _most_evidence(answer: Explanation, share: float) -> Tensor:
    """The share of the pixels with the most evidence, `(N, H, W)` bool, ranked before the ReLU."""
    maps = upsample(answer.signed.float().cpu(), answer.image_size)
    return rank_pixels(maps) < pixel_counts([share], maps[0].numel())[0]


def _moved(lit: Tensor, seed: int) -> list[Tensor]:
    """The lit region at random places; what leaves the image on one side comes back on the other."""
    generator = torch.Generator().manual_seed(seed)
    height, width = lit.shape[1:]
    shifts = [
        (int(torch.randint(height, (1,), generator=generator)), int(torch.randint(width, (1,), generator=generator)))
        for _ in range(RANDOM_PLACES)
    ]
    return [lit.roll(shift, dims=(1, 2)) for shift in shifts]
