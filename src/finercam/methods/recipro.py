"""ReciproCAM: what the classes score when the layer is seen through one place alone."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.methods import rules
from finercam.methods.gather import VariantRuns, batch_size
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["place_scores"]

WINDOW = 1
"""A place is seen with its neighbours within this many cells, weighted like a Gaussian (1, 2, 1)."""


@torch.no_grad()
def place_scores(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Logits of the activations in a window at each place, minus their mean over the places (Byun & Lee, 2022; arXiv 2209.14074).

    Tokens before the patches stay. Activations are ones `(N, 1, h, w)`, gradients the scores `(N, M, 1, h, w)`; linear
    in the direction. Costs one run of the tail for each place. Raises FinerCAMError for tokens that do not reach the logits.
    """
    if any(layout.prefix for layout in source.layouts):
        source.under(relevance=False).gradients(directions[:, :1])  # refuses what would be a map of rounding errors
    gradients = []
    for layer in range(len(source.layers)):
        scores = torch.stack([_scores(source, layer, sample) for sample in range(len(source.images))])  # (N, P, K)
        scores = (scores - scores.mean(1, keepdim=True)).float()
        along = torch.einsum("npk,nmk->nmp", scores, directions.to(scores))
        gradients.append(along.unflatten(2, source.layouts[layer].grid)[:, :, None])
    ones = tuple(torch.ones_like(gradient[:, 0]) for gradient in gradients)
    return Evidence(source.logits.cpu().double(), directions, ones, tuple(gradients))


def _scores(source: Source, layer: int, sample: int) -> Tensor:
    layout = source.layouts[layer]
    axis = 1 if layout.kind == "tokens-first" else 0
    own = source.run.activations[layer].detach().narrow(axis, sample, 1)
    runs = VariantRuns(source, layer, sample, batch_axis=axis)
    masks = _windows(layout.grid).to(own)
    found = []
    for chosen in masks.split(batch_size(own)):
        if layout.kind == "nchw":
            mask = chosen[:, None]
        elif layout.kind == "nhwc":
            mask = chosen[..., None]
        else:
            flat = chosen.flatten(1)
            mask = torch.cat([torch.ones_like(flat[:, :1]).expand(-1, layout.prefix), flat], 1)[..., None]
            mask = mask.transpose(0, 1) if axis == 1 else mask
        found.append(runs.run(own * mask))
    return torch.cat(found)


def _windows(grid: tuple[int, ...]) -> Tensor:
    """One mask for each place of the grid, `(P, h, w)`, with 1 at the place itself."""
    axes = (
        (1 - (torch.arange(size)[:, None] - torch.arange(size)).abs() / (WINDOW + 1)).clamp(min=0) for size in grid
    )
    return functools.reduce(torch.kron, axes).unflatten(1, grid)


register(
    "reciprocam",
    rules.hirescam,
    gather=place_scores,
    evidence="gradients",
    label="ReciproCAM",
    declared_linear=True,
    summary="Logits behind a window at each place of the layer (ReciproCAM).",
)
