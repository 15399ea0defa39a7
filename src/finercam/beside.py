"""A photo beside one of its rival class: the reversed question there, and the places that correspond."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from finercam.core.references import NONE, References
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.images import ENDINGS, Preprocess, read_image
from finercam.matching import Match, Region, descriptors, matches, only_there
from finercam.names import class_id, label
from finercam.text import common

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Beside", "Examples", "beside", "likeness", "main_rival", "other_photos", "pictures_of_class"]

GRID = 32
"""Places are compared on grids of at most so many cells a side; finer maps are averaged down to it."""
MOST = 24
"""So many photos of a class are looked at, the first by name."""
LACKING = 0.1
"""A region that is lit on the rival's photo only counts from this share of the evidence there."""


@dataclass(frozen=True, eq=False)
class Beside:
    """Why a photo shows its target and not the rival class, and the reversed question on a photo of the rival.

    `answer` and `rival` are explanations of one image each. `matches` are places that correspond and carry opposite
    evidence, those with the largest share first. `lacks` are regions that are lit on the rival's photo only.
    `chosen` is the rival photo's place among those given, and `likeness` in [-1, 1] how alike the two photos are.
    """

    answer: Explanation
    rival: Explanation
    matches: tuple[Match, ...]
    lacks: tuple[Region, ...]
    chosen: int
    likeness: float
    picture: Any = field(default=None, repr=False)
    """The rival's photo as it was given: a picture or its path, or None for a tensor."""

    @property
    def lines(self) -> list[str]:
        """One line for each number and letter of the figure, for people."""
        here, there = (common(one.target_names[0]) for one in (self.answer, self.rival))
        pairs = [
            f"{n}: {one.region.share:.0%} of the evidence for {here} here; its match has {one.evidence:.0%} of the peak for {there}"
            + ("" if one.sure else f" (unsure: features alike {one.cosine:.2f})")
            for n, one in enumerate(self.matches, 1)
        ]
        lacking = [
            f"{chr(65 + n)}: {one.share:.0%} of the evidence for {there} there, without a match here: what this one lacks"
            for n, one in enumerate(self.lacks)
        ]
        return pairs + lacking

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def describe(self) -> dict[str, Any]:
        """Matches and regions in plain values, for JSON: places are x and y in shares of width and height."""
        return {
            "rival": self.rival.target_names[0],
            "photo": str(self.picture) if isinstance(self.picture, (str, os.PathLike)) else None,
            "likeness": round(self.likeness, 4),
            "matches": [
                {"here": one.place, "there": one.place_there, "share": one.region.share, "cosine": one.cosine, "sure": one.sure,
                 "evidence_there": one.evidence}
                for one in self.matches
            ],
            "lacks": [{"there": one.place, "share": one.share} for one in self.lacks],
        }  # fmt: skip

    def plot(self, image: Any = None, *, preprocess: Preprocess | None = None) -> Figure:
        """Both photos with their evidence side by side, with the matched places numbered; see `finercam.plot.beside`."""
        from finercam.view.beside import beside as figure

        return figure(self, image, preprocess=preprocess)


class Examples:
    """Photos of classes as a model takes them; each class is read once.

    `source` is a folder with a sub-folder (or picture) for each class, a mapping from classes to photos, or the photos of
    one class. Photos are tensors `(M, 3, H, W)` or `(3, H, W)` as the model takes them, or pictures and paths, which
    need `preprocess`.
    """

    def __init__(self, source: Any, preprocess: Preprocess | None = None, most: int = MOST) -> None:
        self.source = source
        self.preprocess = preprocess
        self.most = most
        self._read: dict[int, tuple[list[Tensor], list[Any]]] = {}

    def of(self, rival: int, names: Sequence[str] | None, num_classes: int) -> tuple[list[Tensor], list[Any]]:
        """Model inputs `(3, H, W)` of a class's photos, and the photos as they were given; none if there are none."""
        if rival not in self._read:
            given = self._given(rival, names, num_classes)
            opened = [(one, seen) for one in given if (seen := self._readable(one)) is not None]
            self._read[rival] = [seen for _, seen in opened], [None if one is seen else one for one, seen in opened]
        return self._read[rival]

    @property
    def of_one_class(self) -> bool:
        """Whether the photos are of one class that is not named."""
        return not isinstance(self.source, (str, os.PathLike, Mapping))

    def _given(self, rival: int, names: Sequence[str] | None, num_classes: int) -> list[Any]:
        source: Any = self.source
        if isinstance(source, (str, os.PathLike)):
            return pictures_of_class(Path(source), label(rival, names), rival)[: self.most]
        if isinstance(source, Mapping):
            by_id = {class_id(key, names, num_classes, "examples: class"): value for key, value in source.items()}
            source = by_id.get(rival, [])
        single = isinstance(source, (str, os.PathLike, Image.Image)) or (
            isinstance(source, Tensor) and source.ndim == 3
        )
        given = [source] if single else list(cast(Any, source))
        return given[: self.most]

    def _readable(self, given: Any) -> Tensor | None:
        try:
            return self._input(given)
        except FinerCAMError as error:
            if not isinstance(given, (str, os.PathLike)) or self.preprocess is None:
                raise
            warnings.warn(f"an example is left out: {error}", stacklevel=6)  # one bad file of a folder
            return None

    def _input(self, given: Any) -> Tensor:
        if isinstance(given, Tensor):
            return given
        if self.preprocess is None:
            raise FinerCAMError("photos of the rival as pictures or paths need preprocess=, as load_model gives it")
        return self.preprocess(read_image(given) if isinstance(given, (str, os.PathLike)) else given)


def beside(answer: Explanation, photos: Any, preprocess: Preprocess | None = None) -> list[Beside]:
    """For each image of an explanation, its rival class on the photo that is most like it, with matched places.

    `photos` is as in `Examples`. Of the rival's photos that the model takes for the rival, the one with the largest
    `likeness` is shown; the image itself is never its own example. Costs one forward pass for each photo, and one
    explanation for each chosen photo.

    Raises FinerCAMError if the explanation kept no images, has no rival, or there is no photo of the rival.

    >>> from finercam import FinerCAM
    >>> nn = torch.nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> shown = beside(FinerCAM(model)(torch.rand(1, 3, 16, 16), target=0), {1: torch.rand(3, 3, 16, 16)})
    >>> shown[0].rival.target.tolist(), shown[0].rival.references.tolist()
    ([1], [[0]])
    """
    if answer.images is None:
        raise FinerCAMError("the explanation kept no images (keep_images=False); explain again with keep_images=True")
    examples = photos if isinstance(photos, Examples) else Examples(photos, preprocess)
    rivals = main_rival(answer).tolist()
    if NONE in rivals:
        raise FinerCAMError("the question has no rival class, so there is no photo to show beside")
    if examples.of_one_class and (len(set(rivals)) > 1 or max(rivals) >= answer.logits.shape[1]):
        some = ", ".join(repr(answer.name(d)) for d in sorted(set(rivals))[:3])
        raise FinerCAMError(
            f"photos of one class for several rivals ({some}, …): give a mapping from classes to photos, or a folder with "
            "a sub-folder for each class"
        )
    return [_one(one, rival, examples) for one, rival in zip(answer, rivals, strict=True)]


def main_rival(answer: Explanation) -> Tensor:
    """The main rival of each sample, `(N,)`: the first reference, or the most probable one if classes were given.

    -1 if a sample has no reference. Strategies order their references: "predicted" puts the most probable first,
    "similar" the most similar.
    """
    references = answer.references.cpu()
    if references.shape[1] == 0:
        return torch.full((len(answer),), NONE)
    if answer.strategy not in ("explicit", "all"):
        return references[:, 0]
    logits = answer.contrast.groups.logits(answer.logits.detach().cpu().double()).gather(1, references.clamp(min=0))
    return references.gather(1, logits.masked_fill(references == NONE, -torch.inf).argmax(1, keepdim=True)).squeeze(1)


def other_photos(answer: Explanation, rival: int, examples: Examples) -> list[int]:
    """The places of a class's photos that are not the one image of the explanation itself."""
    assert answer.images is not None
    inputs, _ = _photos(answer, rival, examples)
    return [at for at, one in enumerate(inputs) if not _same(one, answer.images[0])]


def likeness(own: Tensor, others: Tensor) -> Tensor:
    """How alike photos are, `(M,)` in [-1, 1], from one layer's features `(C, h, w)` and `(M, C, h, w)`.

    The mean of two cosines: of the pooled features, and of the features place by place, which are alike only if the
    pose is.
    """
    pooled = F.cosine_similarity(own.mean(dim=(1, 2))[None], others.mean(dim=(2, 3)), dim=1)
    size = (own.shape[1], own.shape[2])
    placed = F.cosine_similarity(
        descriptors([own[None]], size).flatten(1), descriptors([others], size).flatten(1), dim=1
    )
    return (pooled + placed) / 2


def pictures_of_class(folder: Path, name: str, index: int) -> list[Path]:
    """The pictures of a class in a folder: those of the sub-folder, or the picture, with its name or id.

    Of "Genus species (Common Name)" the common name is enough; case does not matter.
    """
    if not folder.is_dir():
        raise FinerCAMError(f"{folder}: no folder of example pictures there; give one with a sub-folder a class")
    names = {one.casefold() for one in (name, common(name), str(index))}
    found: list[Path] = []
    # The folder is listed, because a class name may contain anything and must not become a path.
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name.casefold() in names:
            found += [file for file in sorted(entry.iterdir()) if file.suffix.lower() in ENDINGS]
        elif entry.suffix.lower() in ENDINGS and entry.stem.casefold() in names:
            found.append(entry)
    return found


def _photos(answer: Explanation, rival: int, examples: Examples) -> tuple[list[Tensor], list[Any]]:
    """The photos of a class, or of all classes of a group."""
    count = answer.logits.shape[1]
    of_each = [examples.of(one, answer.class_names, count) for one in answer.contrast.groups.of(rival, count)]
    return [one for inputs, _ in of_each for one in inputs], [one for _, given in of_each for one in given]


def _one(answer: Explanation, rival: int, examples: Examples) -> Beside:
    assert answer.images is not None
    inputs, given = _photos(answer, rival, examples)
    own, places = answer.images[0], other_photos(answer, rival, examples)
    if not places:
        raise FinerCAMError(f"there is no photo of the rival {answer.name(rival)!r} among the examples")
    backend = answer.require_backend()
    target = int(answer.target[0])
    layers, _ = backend.features(answer.images)
    alike, takes = [], []
    for some in _batches([inputs[at] for at in places]):
        theirs, logits = backend.features(some.to(own))
        alike.append(likeness(layers[-1][0], theirs[-1]).cpu())
        logits = answer.contrast.groups.logits(logits)
        takes.append((logits[:, rival] > logits[:, target]).cpu())
    # A photo that the model takes for the target shows little evidence for the rival.
    ranked = torch.cat(alike) + 2.0 * torch.cat(takes)
    best = int(ranked.argmax())
    chosen = places[best]
    there = _reversed(answer, rival, inputs[chosen][None].to(own))
    found, lacking = _compared(answer, there, layers)
    return Beside(answer, there, tuple(found), tuple(lacking), chosen, float(torch.cat(alike)[best]), given[chosen])


def _reversed(answer: Explanation, rival: int, photo: Tensor) -> Explanation:
    """Why the rival's photo is the rival, and not the target."""
    against = References(answer.target[:, None].cpu(), torch.full((1, 1), torch.nan), "explicit")
    contrast = replace(answer.contrast, target=torch.tensor([rival]), references=against.ids)
    return answer.require_backend().answer(photo, answer.question, contrast, against)


def _compared(answer: Explanation, there: Explanation, layers: Sequence[Tensor]) -> tuple[list[Match], list[Region]]:
    assert there.images is not None
    theirs, _ = there.require_backend().features(there.images)
    maps = [_coarse(one.signed) for one in (answer, there)]
    own, other = (
        descriptors(of_photo, (signed.shape[0], signed.shape[1]))[0]
        for of_photo, signed in zip((layers, theirs), maps, strict=True)
    )
    found = matches(maps[0], own, maps[1], other)
    return found, [region for region in only_there(maps[1], found) if region.share >= LACKING]


def _coarse(signed: Tensor) -> Tensor:
    """A map `(1, h, w)` on a grid of at most GRID cells a side."""
    size = (min(signed.shape[1], GRID), min(signed.shape[2], GRID))
    return F.adaptive_avg_pool2d(signed.float()[None], size)[0, 0]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other), other)


def _batches(photos: list[Tensor]) -> Iterator[Tensor]:
    """Photos of one size together; of different sizes, one after another."""
    if len({photo.shape for photo in photos}) == 1:
        yield torch.stack(photos)
    else:
        yield from (photo[None] for photo in photos)
