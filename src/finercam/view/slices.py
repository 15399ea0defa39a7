"""Figures of volumes and videos: the slices or frames with the most evidence, one a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finercam.core.evidence import NotKept
from finercam.core.maps import peak, upsample
from finercam.core.references import NONE
from finercam.errors import FinerCAMError
from finercam.view.blend import overlay, pixels, signed
from finercam.view.sheet import Cell, Line, sheet
from finercam.view.strength import strength

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finercam.explanation import Explanation

__all__ = ["brightest", "slices"]

ROWS = 4
MUTE = 0.85


def slices(answer: Explanation, image: Any = None, count: int = ROWS, words: tuple[str, str] = ("", "")) -> Figure:
    """A row for each of the `count` slices with the most evidence: the slice, plain map, finer map, signed map.

    Slices are counted along the first axis of the volume `(D, H, W)`. `image` are the volumes to show, arrays
    `(N, D, H, W)` of any scale; None shows the stored ones, the mean of their channels or their colours. All maps of a
    volume have one scale, so that slices can be compared. `words` are the heading and the footer.

    Raises FinerCAMError for pictures, and for volumes that do not fit the explanation.
    """
    if len(answer.image_size) != 3:
        raise FinerCAMError("slices are of volumes (N, C, D, H, W), and these are pictures: take panel")
    rows = []
    for one, volume in zip(answer, _volumes(answer, image), strict=True):
        rows += _rows(one, volume, count)
    return sheet(rows, *words)


def brightest(maps: Tensor, count: int = ROWS) -> list[int]:
    """The slices of a map `(D, H, W)` with the largest sums of positive evidence, in their order.

    >>> brightest(torch.tensor([0.0, 3.0, 1.0, 2.0]).view(4, 1, 1), 2)
    [1, 3]
    """
    total = maps.clamp(min=0).sum(dim=(1, 2))
    return sorted(total.sort(descending=True, stable=True).indices[:count].tolist())


def _rows(answer: Explanation, volume: np.ndarray, count: int) -> list[list[Cell]]:
    held = strength(answer.signed[0], answer.plain.signed[0])
    plain, finer = answer.plain.maps[0].cpu(), answer.maps[0].cpu() * held.brightness
    both = None if not bool((answer.references != NONE).any()) else _both(answer)
    rows = []
    for at in brightest(finer if bool(finer.any()) else plain, count):
        photo = volume[at]
        row = [Cell(photo, f"Slice {at} of {len(volume)}"), _heat(photo, plain[at], f"Plain {answer.method}")]
        if both is not None:
            gamma = float(answer.gamma[0])
            notes = (Line("rather than " + " / ".join(answer.reference_names[0]), lines=3), Line(held.words, lines=3))
            if held.positive == 0:
                notes = (Line(f"nothing speaks for {answer.target_names[0]}", lines=3), *notes[:1])
            row.append(_heat(photo, finer[at], f"Finer, γ = {gamma:g}", notes))
            tint = signed(photo, both[at], mute=MUTE)
            ends = (answer.reference_names[0][0], answer.target_names[0])
            row.append(Cell(np.asarray(tint), "For and against", bar=ends, signed=True))
        rows.append(row)
    return rows


def _heat(photo: np.ndarray, evidence: Tensor, title: str, notes: tuple[Line, ...] = ()) -> Cell:
    return Cell(np.asarray(overlay(photo, evidence, mute=MUTE)), title, notes, bar=("no evidence", "peak"))


def _both(answer: Explanation) -> Tensor | None:
    """The evidence for the target less that for the first rival, `(D, H, W)` in [-1, 1]; None where it was not kept."""
    try:
        reverse = answer.ask(target=answer.references[:, 0], against=answer.target[:, None])
    except NotKept:
        return None
    both = upsample(answer.signed.clamp(min=0) - reverse.signed.clamp(min=0), answer.image_size)
    return (both / peak(both.abs()))[0].cpu()


def _volumes(answer: Explanation, image: Any) -> list[np.ndarray]:
    """For each volume its slices as pictures, uint8 `(D, H, W, 3)`."""
    if image is None:
        if answer.images is None:
            raise FinerCAMError("the explanation kept no volumes (keep_images=False); give them as image=")
        stored = answer.images.detach().float().cpu()
        colour = stored if stored.shape[1] == 3 else stored.mean(1, keepdim=True)
        given = colour.movedim(1, -1)
    else:
        given = torch.as_tensor(np.asarray(image), dtype=torch.float32)[..., None]
    if tuple(given.shape[:4]) != (len(answer), *answer.image_size):
        raise FinerCAMError(
            f"volumes of shape {tuple(given.shape[:4])} for maps of shape {(len(answer), *answer.image_size)}: give an "
            "array (N, D, H, W)"
        )
    return [_grey(volume) for volume in given]


def _grey(volume: Tensor) -> np.ndarray:
    low, high = volume.amin(), volume.amax()
    unit = ((volume - low) / (high - low).clamp(min=1e-9)).expand(-1, -1, -1, 3).numpy()
    return np.stack([pixels(one) for one in unit])
