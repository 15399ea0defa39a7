"""A run's maps as `finercam evaluate` takes them: one batch of pictures, at the size of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.maps import upsample
from finercam.run.reader import Run
from finercam.run.stored import answers

__all__ = ["stored_maps"]


def stored_maps(run: Run, positions: Sequence[int], **question: Any) -> tuple[Tensor, Tensor]:
    """Signed maps `(N, H, W)` and targets `(N,)` of some images of a run, under the run's question or another one.

    It takes the place of one item of `finercam.evaluation.maps.signed_maps` for a batch whose `Loaded.indices` are
    `positions` of the same list. Raises FinerCAMError for an image without explanation, for images of several sizes,
    and NotKept where the question needs a class that was not kept.
    """
    found: dict[int, tuple[Tensor, int]] = {}
    for number in sorted({run._shard_of(position)[0] for position in positions}):
        table = run._read(number)
        wanted = [position in set(positions) for position in table.column("position").to_pylist()]
        for rows, answer in answers(table.filter(wanted), run.manifest.settings):
            asked = answer.ask(**question) if question else answer
            large = upsample(asked.signed, asked.setting.image_size)
            for at, position in enumerate(rows.column("position").to_pylist()):
                found[position] = (large[at], int(asked.target[at]))
    for position in positions:
        if position not in found:
            raise FinerCAMError(f"image {position} of {run.store.place} was not explained; leave it out")
    maps = [found[position][0] for position in positions]
    if len({tuple(one.shape) for one in maps}) > 1:
        raise FinerCAMError("the images have several sizes; ask for those of one size at a time")
    return torch.stack(maps), torch.tensor([found[position][1] for position in positions])
