"""Remove pixels in the order of a map and read the model's scores, the base of all masking metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_classes, as_maps, finite_maps, void_where
from finercam.metrics.fill import Fill, as_fill

__all__ = ["class_scores", "masked_scores", "pixel_counts", "rank_pixels", "read_scores"]

Scores = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> logits (N, K)

_READINGS = ("probability", "log_probability", "logit")


def rank_pixels(maps: Tensor, *, seed: int | None = None) -> Tensor:
    """The rank of every pixel, `(N, H, W)` int32; 0 is the most relevant.

    Use the *signed* map: after a ReLU most values are zeros, whose order is arbitrary. Ties keep raster order, or get
    a random order with `seed`, which is the same for all pictures. Controls such as the uniform map need the seed,
    because otherwise their pixels would be removed from top to bottom.

    >>> rank_pixels(torch.tensor([[[0.1, 0.9], [0.1, 0.5]]])).tolist()
    [[[2, 0], [3, 1]]]
    """
    flat = as_maps(maps).flatten(1)
    pixels = flat.shape[1]
    places = torch.arange(pixels, device=flat.device)
    if seed is not None:
        places = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(flat.device)
        flat = flat[:, places]
    order = places[flat.sort(dim=1, descending=True, stable=True).indices]
    ranks = torch.empty_like(order, dtype=torch.int32)
    ranks.scatter_(1, order, torch.arange(pixels, dtype=torch.int32, device=flat.device).expand_as(ranks))
    return ranks.reshape(maps.shape)


def pixel_counts(shares: Sequence[float] | Tensor, pixels: int) -> Tensor:
    """The number of pixels of each share in [0, 1], int32 `(S,)`; a share above 0 is at least one pixel.

    >>> pixel_counts([0, 0.001, 0.5, 1], 100).tolist()
    [0, 1, 50, 100]
    """
    wanted = torch.as_tensor(shares, dtype=torch.float64, device="cpu").reshape(-1)
    if wanted.numel() == 0 or not bool(((wanted >= 0) & (wanted <= 1)).all()):
        raise FinerCAMError(f"shares are {wanted.tolist()}, expected numbers in [0, 1]: 0.05 for five per cent.")
    counts = (wanted * pixels).round()
    return torch.where(wanted > 0, counts.clamp_min(1), counts).int()


def class_scores(scores: Scores, images: Tensor) -> Tensor:
    """The model's logits `(N, K)` in at least single precision, without gradients."""
    with torch.no_grad():
        logits = scores(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise FinerCAMError(f"scores(images) gave {given} for {len(images)} images, expected logits (N, K).")
    return logits if logits.dtype == torch.float64 else logits.float()


def read_scores(logits: Tensor, classes: Tensor, score: str = "probability") -> Tensor:
    """Scores `(N, M)` of `classes` `(N, M)`: "probability" (softmax), "log_probability" or "logit"; NaN for id −1.

    >>> read_scores(torch.zeros(1, 4), torch.tensor([[2, -1]])).tolist()
    [[0.25, nan]]
    """
    _check_reading(score)
    _check_ids(classes, logits.shape[1])
    return _read(logits, classes, score)


def _read(logits: Tensor, classes: Tensor, score: str) -> Tensor:
    if score != "logit":
        logits = logits.log_softmax(1)
    picked = logits.gather(1, classes.clamp_min(0))
    if score == "probability":
        picked = picked.exp()
    return picked.masked_fill(classes < 0, torch.nan)


def _check_reading(score: str) -> None:
    if score not in _READINGS:
        raise FinerCAMError(f"score is {score!r}, expected one of {', '.join(_READINGS)}.")


def _check_ids(classes: Tensor, known: int) -> None:
    if classes.numel() and (int(classes.max()) >= known or int(classes.min()) < -1):
        raise FinerCAMError(
            f"class ids run from {int(classes.min())} to {int(classes.max())}, but the model has {known} classes: "
            "ids are 0 to K−1, and −1 stands for none."
        )


def masked_scores(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: int | Tensor | list[int],
    counts: Tensor | Sequence[int],
    *,
    fill: str | Fill = "zero",
    reveal: bool = False,
    score: str = "probability",
    batch_size: int = 64,
) -> Tensor:
    """Scores `(N, M, S)` of `classes` `(N, M)` after the `counts` `(S,)` most relevant pixels are filled.

    With `reveal` those pixels are kept and the *others* are filled. Runs the model on `N·S` masked pictures in batches
    of `batch_size`. A map with a NaN or an infinity gives NaN.

    >>> brightness = lambda x: torch.stack((x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))), 1)
    >>> image, relevance = torch.ones(1, 3, 2, 2), torch.rand(1, 2, 2)
    >>> masked_scores(brightness, image, relevance, 0, [0, 1, 4], score="logit").tolist()
    [[[1.0, 0.75, 0.0]]]
    """
    if images.ndim != 4 or maps.shape != (images.shape[0], *images.shape[2:]):
        raise FinerCAMError(
            f"maps {tuple(maps.shape)} do not fit images {tuple(images.shape)}: upsample them to (N, H, W) first."
        )
    _check_reading(score)
    if batch_size < 1:
        raise FinerCAMError(f"batch_size is {batch_size}, expected at least 1.")
    wanted = as_classes(classes, images, what="classes")
    wanted = wanted[:, None] if wanted.ndim == 1 else wanted
    steps = torch.as_tensor(counts, dtype=torch.int32, device=images.device)
    if len(images) == 0:
        return images.new_zeros(0, wanted.shape[1], len(steps), dtype=torch.float32)
    ranks = rank_pixels(maps.to(images.device))
    painter = as_fill(fill)
    # Blocks have equal sizes, because a last batch of one picture would be inefficient.
    rows = -(-len(images) // -(-len(images) // batch_size))
    blocks = []
    for block, rank, ids in zip(images.split(rows), ranks.split(rows), wanted.split(rows), strict=True):
        paint, columns = painter.prepare(block), max(1, batch_size // len(block))
        parts = []
        for some in steps.split(columns):
            removed = rank[:, None] < some[:, None, None]
            logits = class_scores(scores, paint(~removed if reveal else removed).flatten(0, 1))
            if not parts:  # checked once per block, because reading ids back stalls an accelerator
                _check_ids(ids, logits.shape[1])
            each = _read(logits, ids.repeat_interleave(len(some), 0), score)
            parts.append(each.reshape(len(block), len(some), -1))
        blocks.append(torch.cat(parts, 1))
    return void_where(~finite_maps(maps).to(images.device), torch.cat(blocks).transpose(1, 2))
