"""From the photos of a class to their lit regions against each rival: one run of the model a photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.annotation import Annotation
from finercam.core.contrast import Contrast
from finercam.core.evidence import NotKept, directions
from finercam.core.fuse import signed_map
from finercam.core.maps import upsample
from finercam.data.batches import in_order
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.images import Preprocess
from finercam.io import content_hash, one_line
from finercam.matching import Region, descriptors, lit_regions
from finercam.metrics.fill import as_fill
from finercam.traits.album import Album, Photo
from finercam.traits.names import Namer
from finercam.traits.sights import ClassSights, Sights

__all__ = ["BATCH", "SHOWN", "Collector"]

BATCH = 8
MOST = 5
"""Lit regions of a photo, for and against each."""
NEAR = 0.09
"""What is removed with a region: the pixels around its peak, within this share of the shorter side."""
FLOOR = 0.05
"""Places with less evidence than this share of the largest are left out."""
SHOWN = 6
"""Photos of a class whose features are kept on a coarse grid, for the places that match a rival's trait."""
GRID = 8
"""Largest side of that grid."""


@dataclass(frozen=True)
class _Read:
    photo: Photo
    tensor: Tensor | None = None
    note: Annotation = field(default_factory=Annotation)
    problem: str = ""


@dataclass(frozen=True)
class _Seen:
    """One photo of a batch: its signed map for each rival, its features, logits and input."""

    read: _Read
    image: Tensor
    signed: dict[int, Tensor]
    features: Tensor
    logits: Tensor


@dataclass
class Collector:
    """Runs the model on the photos of one class after another. `removed` photos of each have their regions removed."""

    explain: FinerCAM
    album: Album
    preprocess: Preprocess
    removed: int = 10
    namer: Namer = field(default_factory=Namer)
    readers: int = 2

    def collect(self, target: int, rivals: Sequence[int]) -> ClassSights:
        """What the photos of a class show against each rival. A photo that cannot be used is listed as a problem."""
        problems: list[tuple[str, str]] = []
        kept: list[Photo] = []
        rows: dict[int, list[_Row]] = {rival: [] for rival in rivals}
        margins: dict[int, list[float]] = {rival: [] for rival in rivals}
        grids: list[Tensor] = []
        names = self.namer.fresh()
        for batch in self._batches(self.album.of_class[target], problems):
            for seen in self._seen(batch, target, rivals, problems):
                at = len(kept)
                kept.append(seen.read.photo)
                if at < SHOWN:
                    grids.append(_coarse(seen.features))
                names.look(seen.image, seen.read.note, words=at < self.removed)
                for rival in rivals:
                    margins[rival].append(float(seen.logits[target] - seen.logits[rival]))
                    rows[rival] += self._regions(seen, at, target, rival, margins[rival][-1], names)
        found = {rival: _table(rows[rival], names.names) for rival in rivals}
        return ClassSights(
            target,
            [photo.position for photo in kept],
            [photo.path for photo in kept],
            torch.stack(grids) if grids else torch.zeros(0, 1, 1, 1),
            {rival: torch.tensor(of) for rival, of in margins.items()},
            found,
            list(names.names),
            names.source,
            problems,
            list(self.explain.layers or ()),
        )

    def _batches(self, photos: Sequence[Photo], problems: list[tuple[str, str]]) -> Iterator[list[_Read]]:
        """Photos of one shape that follow each other."""
        held: list[_Read] = []
        for read in in_order(self._read, photos, self.readers, 2 * BATCH):
            if read.tensor is None:
                problems.append((read.photo.path, read.problem))
                continue
            first = held[0].tensor if held else None
            if len(held) == BATCH or (first is not None and first.shape != read.tensor.shape):
                yield held
                held = []
            held.append(read)
        if held:
            yield held

    def _read(self, photo: Photo) -> _Read:
        try:
            picture = self.album.open(photo)
            tensor = self.preprocess(picture)
            note = self.preprocess.annotation(self.album.annotation(photo), picture.size)
        except Exception as error:  # decoders raise almost anything on broken data
            return _Read(photo, problem=one_line(error))
        return _Read(photo, tensor, note)

    def _seen(
        self, batch: list[_Read], target: int, rivals: Sequence[int], problems: list[tuple[str, str]]
    ) -> list[_Seen]:
        """The evidence of a batch; one that the model refuses is halved until the photo that it refuses is alone."""
        try:
            return self._run(batch, target, rivals)
        except FinerCAMError as error:
            if len(batch) == 1:
                problems.append((batch[0].photo.path, one_line(error)))
                return []
            middle = len(batch) // 2
            halves = (batch[:middle], batch[middle:])
            return [seen for half in halves for seen in self._seen(half, target, rivals, problems)]

    def _run(self, batch: list[_Read], target: int, rivals: Sequence[int]) -> list[_Seen]:
        images = self.explain.classifier.prepared(torch.stack([r.tensor for r in batch if r.tensor is not None]))
        source = self.explain.capture(images)
        coarsest = min(source.activations, key=lambda a: a.shape[2] * a.shape[3])
        features = descriptors([coarsest], (coarsest.shape[2], coarsest.shape[3])).cpu()
        stored = self._stored([read.photo for read in batch], target, rivals)
        signed = stored or self._live(source, target, rivals)
        for maps in signed.values():
            if not bool(maps.isfinite().all()):
                raise FinerCAMError("its map is not finite")
        logits = source.logits.cpu().double()
        return [
            _Seen(read, images[at], {rival: maps[at] for rival, maps in signed.items()}, features[at], logits[at])
            for at, read in enumerate(batch)
        ]

    def _live(self, source: Any, target: int, rivals: Sequence[int]) -> dict[int, Tensor]:
        """The signed maps `(N, h, w)` against each rival, from one run of the model."""
        logits, method = source.logits.cpu().double(), self.explain.question.method
        count = len(logits)

        def contrast(against: Sequence[int]) -> Contrast:
            ids = torch.tensor([list(against)] * count)
            return Contrast(torch.full((count,), target), ids, torch.ones(count, dtype=torch.float64), "mean")

        kept = directions(logits, contrast(rivals), "references" if len(rivals) > 1 else "question")
        evidence = method.gather(source, contrast(rivals), kept)
        fusion = self.explain.question.fusion if len(source.layers) > 1 else "mean"
        return {rival: signed_map(evidence, contrast([rival]), method.rule, fusion).float().cpu() for rival in rivals}

    def _stored(self, photos: Sequence[Photo], target: int, rivals: Sequence[int]) -> dict[int, Tensor] | None:
        """The maps that the run of the album kept; None where it did not keep those of all these questions."""
        if self._kept_maps is None:
            return None
        found: dict[int, Tensor] = {}
        try:
            for rival in rivals:
                found[rival] = torch.stack([self._kept_maps(photo.position, target, rival) for photo in photos])
        except NotKept:
            return None
        return found

    @cached_property
    def _kept_maps(self) -> Any:
        if self.album.run is None:
            return None
        return _KeptMaps(self.album.run)

    def _regions(self, seen: _Seen, at: int, target: int, rival: int, margin: float, names: Namer) -> list[_Row]:
        """The lit regions of a photo for and against, with what happens to the margin when those for are removed."""
        signed = seen.signed[rival]
        total = float(signed.abs().sum())
        rows: list[_Row] = []
        for sign in (1.0, -1.0):
            own = (sign * signed).clamp(min=0)
            own = own * (own >= FLOOR * signed.abs().max())  # a region that faint is none, and most places are
            for region in lit_regions(own, MOST) if total > 0 else ():
                weights = own * region.cells
                rows.append(_Row(at, region, sign, float(weights.sum()) / total, _pooled(weights, seen.features)))
        lit = [row for row in rows if row.sign > 0]
        if lit and at < self.removed:
            self._remove(seen, lit, target, rival, margin)
        size = (seen.image.shape[1], seen.image.shape[2])
        large = upsample(signed[None].clamp(min=0), size)[0]
        for row in lit:
            row.named = names.scores(large * _pixels(row.region, size), _pixels(row.region, size), row.region.place)
        return rows

    def _remove(self, seen: _Seen, lit: list[_Row], target: int, rival: int, margin: float) -> None:
        """Set how far the margin falls without each region, and without as many pixels at a random place."""
        size = (seen.image.shape[1], seen.image.shape[2])
        masks = [_pixels(row.region, size) | _disc(row.region.place, size) for row in lit]
        seed = int(content_hash(seen.read.photo.path)[:8], 16)
        random = torch.Generator().manual_seed(seed)
        shifts = [[int(torch.randint(side, (1,), generator=random)) for side in size] for _ in masks]
        moved = [mask.roll(shift, (0, 1)) for mask, shift in zip(masks, shifts, strict=True)]
        both = torch.stack([*masks, *moved])[None].to(seen.image.device)
        changed = as_fill("blur").prepare(seen.image[None])(both)[0]
        logits = self.explain.logits(changed).cpu().double()
        falls = (margin - (logits[:, target] - logits[:, rival])).tolist()
        for row, drop, control in zip(lit, falls[: len(lit)], falls[len(lit) :], strict=True):
            row.drop, row.control = drop, control


@dataclass
class _Row:
    photo: int
    region: Region
    sign: float
    share: float
    features: Tensor
    drop: float = float("nan")
    control: float = float("nan")
    named: Tensor = field(default_factory=lambda: torch.zeros(0))


class _KeptMaps:
    """The signed maps of a run, read shard by shard."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.shard, self.at = -1, dict[int, Any]()

    def __call__(self, position: int, target: int, rival: int) -> Tensor:
        from finercam.run.stored import answers

        number, position = self.run.shard_of(position)
        if number != self.shard:
            self.shard, self.at = number, {}
            for rows, answer in answers(self.run.read(number), self.run.manifest.settings):
                places = rows.column("position").to_pylist()
                self.at |= {place: (answer, row) for row, place in enumerate(places)}
        if position not in self.at:
            raise NotKept(f"image {position} has no map in the run")
        answer, row = self.at[position]
        return answer[row].ask(target=target, against=[[rival]], gamma=1.0, weights="mean").signed[0]


def _pixels(region: Region, size: tuple[int, int]) -> Tensor:
    """The pixels `(H, W)` of a region, bool; at least those of its cells."""
    return F.interpolate(region.cells[None, None].float(), size=size)[0, 0] > 0


def _disc(place: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """The pixels `(H, W)` near a place, bool: a lit cell may be much smaller than what it stands for."""
    rows = (torch.arange(size[0]) + 0.5 - place[1] * size[0])[:, None]
    columns = torch.arange(size[1]) + 0.5 - place[0] * size[1]
    return rows**2 + columns**2 <= (NEAR * min(size)) ** 2


def _pooled(weights: Tensor, features: Tensor) -> Tensor:
    """The mean of features `(D, h, w)` weighted by evidence `(H, W)`, of length 1."""
    on_grid = F.adaptive_avg_pool2d(weights[None], (features.shape[1], features.shape[2]))[0]
    return F.normalize(torch.einsum("hw,chw->c", on_grid, features), dim=0)


def _coarse(features: Tensor) -> Tensor:
    """Features on a grid of at most GRID by GRID places; every photo of a class gets the same."""
    return F.normalize(F.adaptive_avg_pool2d(features, GRID), dim=0)


def _table(rows: list[_Row], names: Sequence[str]) -> Sights:
    width = len(rows[0].features) if rows else 1
    named = torch.zeros(len(rows), len(names))
    for at, row in enumerate(rows):
        named[at, : len(row.named)] = row.named
    return Sights(
        torch.tensor([row.photo for row in rows], dtype=torch.long),
        torch.tensor([row.region.place for row in rows], dtype=torch.float32).view(-1, 2),
        torch.tensor([row.sign for row in rows]),
        torch.tensor([row.share for row in rows]),
        torch.stack([row.features for row in rows]) if rows else torch.zeros(0, width),
        torch.tensor([row.drop for row in rows]),
        torch.tensor([row.control for row in rows]),
        named,
    )
