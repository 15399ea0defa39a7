"""SS-CAM and IS-CAM: Score-CAM with each score averaged over noisy masks, or over brighter and brighter ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.methods import rules
from finercam.methods.gather import scored
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["integrated_scores", "noisy_scores"]

SAMPLES, NOISE = 35, 2.0
"""SS-CAM: how many noisy masks each channel is seen through, and the standard deviation of the noise (the paper's)."""
STEPS = 10
"""IS-CAM: how many steps the masks take."""


def noisy_scores(
    source: Source, contrast: Contrast, directions: Tensor, samples: int | None = None, spread: float | None = None
) -> Evidence:
    """Score-CAM's logits, the mean over `samples` (35) masks with Gaussian noise (SS-CAM, Wang et al., 2020).

    `spread` (2) is the noise's standard deviation. The noise is the same at every call. Costs `samples` times as much as
    Score-CAM.
    """
    generator = torch.Generator().manual_seed(0)
    count, size = samples or SAMPLES, NOISE if spread is None else spread

    def noisy(masks: Tensor) -> Iterator[Tensor]:
        for _ in range(count):
            yield masks + size * torch.randn(masks.shape, generator=generator).to(masks)

    return scored(source, directions, source.activations, noisy)


def integrated_scores(source: Source, contrast: Contrast, directions: Tensor, steps: int | None = None) -> Evidence:
    """Score-CAM's logits, the mean over masks times 1/S, 3/S, 6/S, …, S the number of `steps` (10) (IS-CAM, Naidu et al., 2020)."""
    steps = steps or STEPS

    def brighter(masks: Tensor) -> Iterator[Tensor]:
        for step in range(1, steps + 1):
            yield masks * (step * (step + 1) / 2 / steps)

    return scored(source, directions, source.activations, brighter)


register(
    "sscam",
    rules.softmax_weighted,
    gather=noisy_scores,
    evidence="channels",
    label="SS-CAM",
    declared_linear=False,
    summary="Score-CAM (softmax) with each score averaged over 35 noisy masks (SS-CAM).",
)
register(
    "iscam",
    rules.softmax_weighted,
    gather=integrated_scores,
    evidence="channels",
    label="IS-CAM",
    declared_linear=False,
    summary="Score-CAM (softmax) with each score averaged over ten strengths of the mask (IS-CAM).",
)
