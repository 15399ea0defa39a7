"""Which classes to compare: the nearest rivals of each class, by the rows of its head or by what the model confuses."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.core.references import confused, similarity
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.images import Preprocess
from finercam.traits.album import Album

__all__ = ["BY", "nearest_pairs"]

BY = ("head", "confusion")
LOOKED_AT = 10
"""Photos of a class whose probabilities say with what it is confused."""


def nearest_pairs(
    explain: FinerCAM, album: Album, preprocess: Preprocess, num_classes: int, count: int, by: str = "head"
) -> list[tuple[int, int]]:
    """Pairs of a class of the album and one of its `count` nearest others in the album, each pair once, sorted.

    "head" compares the rows of the linear head by their cosine; without such a head, and with "confusion", the mean
    probability that the model gives to another class on a class's photos decides. Raises FinerCAMError for one class.
    """
    ids = torch.tensor(list(album.of_class))
    if len(ids) < 2:
        raise FinerCAMError("the data has photos of one class, and there is nothing to compare it with")
    if by not in BY:
        raise FinerCAMError(f"by={by!r}: expected one of {', '.join(BY)}")
    rows = explain.head_rows(num_classes) if by == "head" else None
    if rows is not None:
        alike = similarity(rows[ids.to(rows.device)].cpu(), torch.arange(len(ids)))
        alike.fill_diagonal_(-torch.inf)
        near = alike.sort(dim=1, descending=True, stable=True).indices[:, : min(count, len(ids) - 1)]
    else:
        matrix = _confusions(explain, album, preprocess)[:, ids]
        near = confused(matrix, torch.arange(len(ids)), count)
    pairs = [(int(ids[at]), int(ids[rival])) for at, row in enumerate(near) for rival in row]
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _confusions(explain: FinerCAM, album: Album, preprocess: Preprocess) -> Tensor:
    """The mean probability of every class on the photos of each class of the album, `(A, K)`."""
    rows = []
    for photos in album.of_class.values():
        probabilities = []
        for photo in photos[:LOOKED_AT]:
            try:
                image = preprocess(album.open(photo))[None]
                probabilities.append(explain.logits(explain.classifier.prepared(image)).cpu().softmax(1)[0])
            except Exception:  # the photo is reported when its evidence is collected
                continue
        rows.append(torch.stack(probabilities).mean(0) if probabilities else None)
    width = next((len(row) for row in rows if row is not None), 0)
    return torch.stack([torch.zeros(width) if row is None else row for row in rows])
