"""Where the compared maps come from: one protocol, and the maps that the model makes now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from finercam import metrics
from finercam.core.contrast import contrast_terms, one_hot
from finercam.core.fuse import signed_map
from finercam.core.maps import upsample
from finercam.core.references import NONE
from finercam.data.batches import Batch
from finercam.errors import FinerCAMError
from finercam.evaluation.questions import NamedContrast
from finercam.explainer import FinerCAM
from finercam.methods import Method
from finercam.methods.source import Source

__all__ = ["CONTROLS", "LiveMaps", "LookedAt", "MapSource", "NamedMap", "control_maps"]

CONTROLS = ("uniform", "gaussian", "shuffled")
WIDE = 16
"""Contrasts with more references than this are kept as two directions and not class by class."""

NamedMap = tuple[str, str, Tensor]
"""A method, a contrast, and their signed maps `(N, H, W)` at the size of the images."""


class LookedAt(Protocol):
    """A batch of pictures: its logits `(N, K)`, and its maps once the questions are known."""

    @property
    def logits(self) -> Tensor: ...

    def signed_maps(self, named: Sequence[NamedContrast]) -> Iterator[NamedMap]: ...


class MapSource(Protocol):
    """Maps of some methods, live or stored."""

    @property
    def methods(self) -> Sequence[Method]: ...

    def look(self, loaded: Batch, images: Tensor) -> LookedAt: ...


@dataclass(frozen=True)
class LiveMaps:
    """Maps that the model makes now: one capture a batch serves all methods that gather the same evidence."""

    explain: FinerCAM
    methods: Sequence[Method]

    def look(self, loaded: Batch, images: Tensor) -> LiveBatch:
        return LiveBatch(self.explain, self.methods, self.explain.capture(images))


@dataclass(frozen=True)
class LiveBatch:
    """One capture of a batch, from which every method under every contrast is answered."""

    explain: FinerCAM
    methods: Sequence[Method]
    source: Source

    @property
    def logits(self) -> Tensor:
        return self.source.logits

    def signed_maps(self, named: Sequence[NamedContrast]) -> Iterator[NamedMap]:
        """The methods that gather the same evidence share it, and the first ones share the capture itself."""
        kept = _directions(self.logits.cpu().double(), named)
        images, first = self.source.images, True
        size = (images.shape[2], images.shape[3])
        for gather in dict.fromkeys(method.gather for method in self.methods):
            evidence = gather(self.source if first else self.explain.capture(images), named[0].contrast, kept)
            first = False
            for method in self.methods:
                if method.gather is gather:
                    for each in named:
                        signed = signed_map(
                            evidence, each.contrast, method.rule, method.fused_by(self.explain.question.fusion)
                        )
                        yield method.name, each.name, upsample(signed, size)


def control_maps(name: str, like: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A control map for energies, and one whose order says which pixels are removed first, `(N, H, W)` each.

    The uniform map has no order: its pixels are removed at random.
    """
    count, size = len(like), (like.shape[1], like.shape[2])
    if name == "uniform":
        return metrics.uniform_map(count, size).to(like), metrics.random_map(count, size, seed=seeds).to(like)
    if name not in CONTROLS:
        raise FinerCAMError(f"control {name!r}: expected one of {', '.join(CONTROLS)}")
    made = (
        metrics.gaussian_map(count, size).to(like) if name == "gaussian" else metrics.shuffled_map(like, seed=seeds)
    )
    return made, made


def _directions(logits: Tensor, named: Sequence[NamedContrast]) -> Tensor:
    """One direction for each class that any narrow question names, and two for each wide one."""
    contrasts = [each.contrast for each in named]
    # orthogonal weights follow from the channel weights of each class, so each has to be kept
    narrow = [c for c in contrasts if c.references.shape[1] <= WIDE or c.weights == "orthogonal"]
    wide = [c for c in contrasts if c.references.shape[1] > WIDE and c.weights not in ("orthogonal", "released")]
    rows = []
    for sample, target in enumerate(contrasts[0].target.tolist()):
        ids = dict.fromkeys(int(d) for contrast in narrow for d in contrast.references[sample] if d != NONE)
        rows.append(torch.tensor([target, *ids]))
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)
    kept = [one_hot(column, logits) for column in padded.unbind(1)]
    # gamma does not enter the terms: one pair serves every gamma of the same references and weights
    pairs = {(c.weights, c.references.shape[1], c.references.numpy().tobytes()): c for c in wide}
    for contrast in pairs.values():
        kept.extend(contrast_terms(logits, contrast))
    for contrast in (c for c in contrasts if c.weights == "released"):
        # it depends on all classes by the softmax, on some so faintly that no combination would equal it: kept whole
        speaks_for, against = contrast_terms(logits, contrast)
        kept.append(speaks_for - contrast.gamma.to(logits)[:, None] * against)
    return torch.stack(kept, 1)
