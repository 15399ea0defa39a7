"""The kept tail: a further question about tokens costs a run of the layers after the target layer, and no other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import guest
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, NotKept, directions
from finercam.core.grid import Layout
from finercam.core.tail import Tail, versions
from finercam.methods.source import Source

__all__ = ["KeptTail"]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Images that ran together: the tail, and what it begins with. The layer's activation follows from `given`, if it can."""

    model: nn.Module
    layer: tuple[str, nn.Module]
    layout: Layout
    tail: Tail
    given: Tensor | None
    activation: Tensor | None
    tensors: tuple[str, ...]
    versions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, source: Source, tail: Tail) -> _Batch:
        name, module = source.layers[0]
        tensors = (*tail.constants, *(f"{name}.{own}" for own, _ in module.named_parameters()))
        activation = None if tail.from_given else source.run.activations[0].detach()
        given = source.run.given if "given" in tail.inputs or tail.from_given else None
        marks = versions(source.model, tensors)
        return cls(source.model, source.layers[0], source.layouts[0], tail, given, activation, tensors, marks)

    def __len__(self) -> int:
        kept = self.given if self.activation is None else self.activation
        return 0 if kept is None else len(kept)

    def gradients(self, along: Tensor) -> Tensor | None:
        """Gradients `(N, M, C, h, w)` of directions `(N, M, K)`; None if the model has changed since it ran."""
        with guest(self.model), torch.inference_mode(False):
            if not self.tail.fits(self.model) or versions(self.model, self.tensors) != self.versions:
                return None
            with torch.no_grad():
                activation = self.layer[1](self.given) if self.activation is None else self.activation
            run = self.tail.capture(self.model, activation, self.given, self.layer[0])
            return torch.stack([self.layout.to_maps(one[0]) for one in run.gradients(along)], 1)


class KeptTail:
    """What the layers after the target layer need to run again for the images of an answer, by batches as they ran.

    The evidence it adds to for the last question is kept, so that more questions about the same contrast (any gamma,
    the plain map) cost nothing. It is not part of a pickled answer.
    """

    def __init__(self, batches: Sequence[_Batch], places: Sequence[tuple[int, int]]) -> None:
        self._batches, self._places = tuple(batches), tuple(places)
        self._widened: Evidence | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, source: Source) -> KeptTail | None:
        """The tail of one run, where it was recorded."""
        if source.tail is None or not source.layouts[0].kind.startswith("tokens"):
            return None
        batch = _Batch.of(source, source.tail)
        return (
            cls([batch], [(0, row) for row in range(len(source.images))])
            if len(batch) == len(source.images)
            else None
        )

    @classmethod
    def joined(cls, parts: Sequence[KeptTail | None]) -> KeptTail | None:
        """The tails of several batches as one."""
        batches: list[_Batch] = []
        places: list[tuple[int, int]] = []
        for part in parts:
            if part is None:
                return None
            places += [(batch + len(batches), row) for batch, row in part._places]
            batches += part._batches
        return cls(batches, places)

    def __getitem__(self, at: slice) -> KeptTail:
        return KeptTail(self._batches, self._places[at])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def widened(self, kept: Evidence, contrast: Contrast) -> Evidence | None:
        """The evidence with what the question needs besides; None if the model has changed since it ran."""
        with self._lock:
            if self._widened is not None and _answers(self._widened, contrast):
                return self._widened
            more = _lacking(kept, contrast)
            found = self._gradients(more)
            if found is None:
                return None
            gradient = torch.cat([kept.gradients[0], found.to(kept.gradients[0])], 1)
            self._widened = replace(
                kept, directions=torch.cat([kept.directions, more], 1), gradients=(gradient, *kept.gradients[1:])
            )
            return self._widened

    def _gradients(self, along: Tensor) -> Tensor | None:
        rows: list[Tensor | None] = [None] * len(self._places)
        for number, batch in enumerate(self._batches):
            mine = [(n, row) for n, (of, row) in enumerate(self._places) if of == number]
            if not mine:
                continue
            whole = along.new_zeros(len(batch), *along.shape[1:])
            whole[[row for _, row in mine]] = along[[n for n, _ in mine]]
            found = batch.gradients(whole)
            if found is None:
                return None
            for n, row in mine:
                rows[n] = found[row]
        return torch.stack([row for row in rows if row is not None])


def _answers(evidence: Evidence, contrast: Contrast) -> bool:
    try:
        evidence.contrasted(contrast)
    except NotKept:
        return False
    return True


def _lacking(kept: Evidence, contrast: Contrast) -> Tensor:
    """Directions `(N, M, K)` to add: the target alone where that is enough, as for another gamma, else all of them."""
    if contrast.weights in ("mean", "probability"):
        target = contrast.groups.direction(contrast.target, kept.logits)[:, None]
        question = directions(kept.logits, contrast, "question")[:, 0]
        try:
            replace(kept, directions=torch.cat([kept.directions, target], 1)).coefficients(question)
        except NotKept:
            pass
        else:
            return target
    return directions(kept.logits, contrast, "contrast")
