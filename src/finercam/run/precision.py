"""How far the maps of a run in half precision are from float32's, on its first pictures."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import torch
from torch import nn

from finercam.core.references import NONE
from finercam.data.source import Source
from finercam.errors import FinerCAMError
from finercam.run.lists import ImageList
from finercam.run.pictures import read_ahead
from finercam.run.settings import Settings, preprocess_of

__all__ = ["precision_warning"]

PROMISED = 0.99
"""Cosine similarity of the signed maps below which a run says so."""
COUNT = 4


def precision_warning(
    settings: Settings, model: nn.Module, source: Source, listed: ImageList, shard: int
) -> str | None:
    """A line that says how far the maps of a shard's first pictures are from float32's; None where they are near.

    Both precisions answer the same question: each picture's prediction in float32 and its likeliest rival.
    """
    if settings.precision == "float32":
        return None
    entries = islice(listed.shard(shard), COUNT)
    with closing(read_ahead(source, preprocess_of(settings), entries, 1, COUNT)) as reads:
        tensors = [read.tensor for read in reads if read.tensor is not None]
    if not tensors:
        return None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = torch.stack([one for one in tensors if one.shape == tensors[0].shape]).to(device)
    explain = settings.explainer(model).with_settings(references="predicted")
    begin = f"precision {settings.precision}: the maps of the first {len(images)} pictures"
    try:
        exact = explain(images)
        against = [[rival for rival in row if rival != NONE] for row in exact.references.tolist()]
        with torch.autocast(device.type, getattr(torch, settings.precision)):
            rough = explain(images, exact.target, against=against)
    except FinerCAMError as error:
        return f"{begin} cannot be compared with float32's: {error}"
    pair = exact.signed.flatten(1).float().cpu(), rough.signed.flatten(1).float().cpu()
    lowest = float(torch.cosine_similarity(*pair).min())
    if lowest >= PROMISED:
        return None
    return f"{begin} have a cosine of down to {lowest:.2f} with float32's; take float32 for this model and layer"
