"""The answer: maps, logits, target, references, and the evidence for further questions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, Keep, NotKept, joined_evidence
from finercam.core.fuse import signed_map
from finercam.core.groups import Groups
from finercam.core.maps import aligned, peak, positive, upsample
from finercam.core.references import NONE, References, pad_and_concat
from finercam.core.views import View, average
from finercam.errors import FinerCAMError
from finercam.methods import Method
from finercam.methods.kept import KeptTail
from finercam.names import label
from finercam.question import Question, checked_gammas
from finercam.text import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finercam.beside import Beside
    from finercam.certificate import Certificate
    from finercam.images import Preprocess

__all__ = ["Backend", "Explanation"]

Seen = tuple[tuple[View, Evidence], ...]
LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
SWEEP = tuple(round(0.2 * step, 1) for step in range(11))
"""Strengths of a sweep where none are given: 0, 0.2, … 2."""


class Backend(Protocol):
    """What an explanation needs of its explainer to answer what its own evidence cannot."""

    def head_rows(self, num_classes: int) -> Tensor | None:
        """Weight rows `(K, D)` of the linear head, or None where there is none at hand."""
        ...

    def answer(
        self,
        images: Tensor,
        question: Question,
        contrast: Contrast,
        references: References,
        samples: Sequence[int] | None = None,
    ) -> Explanation:
        """Answer a question whose classes are resolved, with a new run of the model."""
        ...

    def logits(self, images: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        """The model's logits `(N, K)` of other images, without a graph."""
        ...

    def features(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Activations `(N, C, h, w)` of each target layer, the coarsest grid last, and logits `(N, K)` of other images."""
        ...

    def with_settings(self, *, keep: Keep | None = None, **question: Any) -> Backend:
        """The same backend with other settings."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why each image is `target` and not `references`, for a batch of N images.

    `signed (N, h, w)` is the map before the ReLU at the layer's resolution, `maps (N, H, W)` in [0, 1] at the
    image's; `logits (N, K)`. Volumes have maps `(N, D, H, W)`. Questions about the kept classes are answered without a run of the model:
    `answer.ask(gamma=0.9)`, `answer.plain`, `answer.ask(against=["Indigo Bunting"])` and `answer.reverse()` where
    the evidence of these classes was kept (see `keep=` of FinerCAM).
    """

    contrast: Contrast
    signed: Tensor
    logits: Tensor
    similarity: Tensor
    question: Question
    strategy: str
    layers: tuple[str, ...]
    image_size: tuple[int, ...]
    class_names: tuple[str, ...] | None
    samples: tuple[int, ...] = ()
    link: str = "softmax"
    images: Tensor | None = None
    seen: Seen = field(default=(), repr=False)
    tail: KeptTail | None = field(default=None, repr=False)
    backend: Backend | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, contrast: Contrast, references: References, question: Question, seen: Seen, **more: Any
    ) -> Explanation:
        """Answer a question from the evidence of each view."""
        return cls(
            contrast=contrast,
            signed=_signed(seen, contrast, question),
            similarity=references.similarity,
            strategy=references.strategy,
            question=question.without_classes(),
            seen=seen,
            **more,
        )

    @cached_property
    def maps(self) -> Tensor:
        """Evidence for the target under the contrast, `(N, H, W)` in [0, 1], each divided by its own peak."""
        return positive(upsample(self.signed, self.image_size))

    @cached_property
    def signed_maps(self) -> Tensor:
        """For (+) and against (-) the target, `(N, H, W)` in [-1, 1], each divided by its largest magnitude."""
        large = upsample(self.signed, self.image_size)
        return large / peak(large.abs())

    @property
    def target(self) -> Tensor:
        """Target class ids `(N,)`."""
        return self.contrast.target

    @property
    def references(self) -> Tensor:
        """Reference class ids `(N, T)`, filled with -1 where a sample has fewer."""
        return self.contrast.references

    @property
    def gamma(self) -> Tensor:
        return self.contrast.gamma

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.question.method.name

    @cached_property
    def probabilities(self) -> Tensor:
        """The logits under the link, `(N, K)`: their softmax, their sigmoid, or with link "none" the logits themselves."""
        return LINKS[self.link](self.logits.float())

    def name(self, index: int) -> str:
        """The name of a class, or of a group of classes, by its id."""
        count = self.logits.shape[1]
        return label(index, self.class_names) if index < count else self.contrast.groups.named(index, count)

    def probability(self, index: int, sample: int = 0) -> float:
        """The probability of a class for one image, or of a group: that any of its classes is right.

        Under the link "none" it is the logit; that of a group is the log-sum-exp of its classes' logits.
        """
        of = list(self.contrast.groups.of(index, self.logits.shape[1]))
        each = self.probabilities[sample, of].cpu().double()
        if len(of) == 1:
            return float(each)
        return float({"softmax": each.sum(), "sigmoid": 1 - (1 - each).prod()}.get(self.link, each.logsumexp(0)))

    @property
    def target_names(self) -> list[str]:
        return [self.name(c) for c in self.target.tolist()]

    @property
    def reference_names(self) -> list[list[str]]:
        """Names of each sample's references."""
        return [[self.name(d) for d in row if d != NONE] for row in self.references.tolist()]

    @property
    def plain(self) -> Explanation:
        """The plain method's answer for the same targets: gamma 0, from the same evidence."""
        return self.ask(gamma=0.0, weights="mean")

    def reverse(self) -> Explanation:
        """The reverse question: why would it be the first reference, and not the target?"""
        if self.references.shape[1] == 0:
            raise FinerCAMError("the question has no reference and cannot be reversed; the model has one class")
        return self.ask(
            target=self._written(self.references[:, 0]), against=[[c] for c in self._written(self.target)]
        )

    def ask(
        self,
        *,
        target: Any = None,
        against: Any = None,
        gamma: float | Tensor | list[float] | None = None,
        weights: str | None = None,
        method: str | Method | None = None,
        fusion: str | None = None,
    ) -> Explanation:
        """Answer a further question about the same images; what is not given stays as it was.

        Answered from the kept evidence where its classes suffice (see `keep=` of FinerCAM): any gamma, the plain map,
        any kept references, and another method that reads the same evidence. On tokens the layers after the target
        layer run again where they were kept for that. Otherwise the model runs again if the images were kept; if they were not, NotKept (a FinerCAMError) is raised. For a new target without `against`
        the strategy picks the references again.
        """
        strength = checked_gammas(self.gamma if gamma is None else gamma, len(self))
        question = self.question.changed(weights=weights, method=method, fusion=fusion)
        if fusion is not None and question.fusion != "mean" and len(self.layers) == 1:
            raise FinerCAMError(
                f"fusion={fusion!r} joins the maps of several layers, and this answer has one: {self.layers[0]!r}"
            )
        chosen, references, groups = self._chosen(target, against)
        contrast = Contrast(chosen, references.ids, strength, question.weights, groups)
        if question.method.shares_evidence(self.question.method):
            try:
                return self._again(self.seen, contrast, references, question)
            except NotKept:
                seen = self._seen_by_tail(contrast)
                if seen is not None:
                    return self._again(seen, contrast, references, question)
                if self.images is None:
                    raise
        elif self.images is None:
            raise NotKept(
                f"method {question.method.name!r} reads other evidence than {self.method!r}: explain again with it, "
                "or with keep_images=True to let ask() run the model"
            )
        assert self.images is not None
        return self.require_backend().answer(self.images, question, contrast, references, self.samples or None)

    def _again(self, seen: Seen, contrast: Contrast, references: References, question: Question) -> Explanation:
        """The same answer to another question, from evidence that holds it; raises NotKept where it does not."""
        return replace(
            self,
            contrast=contrast,
            signed=_signed(seen, contrast, question),
            similarity=references.similarity,
            strategy=references.strategy,
            question=question,
            seen=seen,
        )

    def _seen_by_tail(self, contrast: Contrast) -> Seen | None:
        """The evidence with what a question needs besides, by a run of the tail; None without a tail."""
        if self.tail is None:
            return None
        ((view, kept),) = self.seen
        widened = self.tail.widened(kept, contrast)
        return None if widened is None else ((view, widened),)

    def _chosen(self, target: Any, against: Any) -> tuple[Tensor, References, Groups]:
        """Target and references of a further question, and its groups; those of this answer where neither changes."""
        own = References(self.references, self.similarity, self.strategy)
        if target is None and against is None:
            return self.target, own, self.contrast.groups
        num_classes = self.logits.shape[1]
        own_target = self._written(self.target) if target is None else target
        question = self.question.changed(target=own_target, against=against, gamma=self.gamma)
        bound = question.bind(len(self), num_classes, self.class_names)
        same = bound.target is not None and self._written(bound.target, bound.names.groups) == self._written(
            self.target
        )
        if against is None and same:
            return self.target, own, self.contrast.groups
        contrast, references = bound.resolve(self.seen[0][1].logits, self.require_backend().head_rows(num_classes))
        return contrast.target, references, contrast.groups

    def _written(self, ids: Tensor, groups: Groups | None = None) -> list[int | frozenset[int]]:
        """Ids as a caller writes them: a group as the set of its classes."""
        groups, count = groups or self.contrast.groups, self.logits.shape[1]
        return [index if index < count else frozenset(groups.of(index, count)) for index in ids.tolist()]

    def sweep(self, gammas: Sequence[float] = SWEEP) -> Tensor:
        """The maps of many strengths, `(G, N, H, W)` in [0, 1]; each is what `ask(gamma=…).maps` gives.

        Where a method is linear in the contrast, two signed maps give them all, so that a whole sweep costs little
        more than one question; for other methods each strength is computed separately.

        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
        ... )
        >>> from finercam import FinerCAM
        >>> FinerCAM(model)(torch.rand(2, 3, 16, 16)).sweep([0.0, 0.6, 1.0]).shape
        torch.Size([3, 2, 16, 16])
        """
        if len(gammas) == 0:
            raise FinerCAMError("gammas is empty; give at least one strength")
        strengths = checked_gammas(list(gammas), len(gammas))
        one_kept = self.seen[0][1].directions.shape[1] == 1 and self.references.shape[1] > 0
        if one_kept and self.tail is None and self.images is not None:  # one more run serves all strengths
            own = References(self.references, self.similarity, self.strategy)
            backend = self.require_backend().with_settings(keep="contrast")
            answer = backend.answer(self.images, self.question, self.contrast, own, self.samples or None)
            return answer.sweep(gammas)
        if not self.question.method.linear or len(self.layers) > 1:
            return torch.stack([self.ask(gamma=float(gamma)).maps for gamma in strengths])
        plain, full = self.ask(gamma=0.0).signed, self.ask(gamma=1.0).signed
        signed = plain - aligned(strengths.to(plain), plain[None]) * (plain - full)
        return positive(upsample(signed.flatten(0, 1), self.image_size)).unflatten(0, signed.shape[:2])

    def verify(self, share: float = 0.05) -> Certificate:
        """What the margin becomes without the lit share of the pixels; see `finercam.certificate.certify`."""
        from finercam.certificate import certify

        return certify(self, share)

    def beside(self, photos: Any, preprocess: Preprocess | None = None) -> list[Beside]:
        """For each image the reversed question on a photo of the rival class, with the places that correspond.

        `photos` are photos of the rival, a mapping from classes to photos, or a folder; see `finercam.beside.beside`.
        """
        from finercam.beside import beside

        return beside(self, photos, preprocess)

    def plot(
        self,
        image: Any = None,
        example: Any = None,
        *,
        preprocess: Preprocess | None = None,
        verify: bool = False,
    ) -> Figure:
        """The panel as a matplotlib figure: photo, plain, finer, finer against the closest class, signed difference.

        `image` is the photo, or one for each image; None shows the images that were kept. `verify` adds
        what the margin becomes without the lit pixels. See `finercam.plot.panel`.
        """
        from finercam.view.plot import panel

        return panel(self, image, example, preprocess=preprocess, verify=verify)

    def save(
        self,
        out: str | os.PathLike[str],
        names: Sequence[str] | None = None,
        image: Any = None,
        *,
        preprocess: Preprocess | None = None,
    ) -> Path:
        """Write a panel and the maps of each image into a folder, or all as one live report, `answer.save("x.html")`.

        Gives the path of the folder's `explanations.json`, or of the report. See `finercam.export` and `finercam.report`.
        """
        from finercam.export.folder import save

        return save(self, out, names, image, preprocess=preprocess)

    def to_coco(self, photos: Any, preprocess: Preprocess | None = None, **options: Any) -> dict[str, Any]:
        """Lit regions in COCO's format, in the photos' own pixels. See `finercam.export.coco` for the options."""
        from finercam.export import coco, record

        return coco.coco(record.records(self, photos, preprocess), **options)

    def to_label_studio(self, photos: Any, preprocess: Preprocess | None = None, **options: Any) -> list[dict]:
        """Lit regions as Label Studio's predictions. See `finercam.export.label_studio` for the options."""
        from finercam.export import label_studio, record

        return label_studio.label_studio(record.records(self, photos, preprocess), **options)

    def to_regions(self, photos: Any, preprocess: Preprocess | None = None, **options: Any) -> str:
        """Lit regions as CSV by Audiovisual Core's terms. See `finercam.export.regions` for the options."""
        from finercam.export import record, regions

        return regions.regions(record.records(self, photos, preprocess), **options)

    def to_rasters(self, folder: str | os.PathLike[str], photos: Any, preprocess: Preprocess | None = None) -> Path:
        """16-bit PNGs of the photos' size, with the question as JSON. See `finercam.export.rasters`."""
        from finercam.export import rasters, record

        return rasters.rasters(record.records(self, photos, preprocess), folder)

    def to_dataset(self, photos: Any, preprocess: Preprocess | None = None) -> Any:
        """A Hugging Face dataset with photos, maps and questions. See `finercam.export.dataset`."""
        from finercam.export import dataset, record

        return dataset.dataset(record.records(self, photos, preprocess))

    def to_fiftyone(self, photos: Any, preprocess: Preprocess | None = None, **options: Any) -> list[Any]:
        """FiftyOne samples with heatmaps. See `finercam.export.fiftyone` for the options."""
        from finercam.export import fiftyone, record

        return fiftyone.fiftyone(record.records(self, photos, preprocess), **options)

    def _repr_png_(self) -> bytes | None:
        """How Jupyter shows it: the panel of the first images, where they were kept."""
        if self.images is None or len(self) == 0:
            return None
        from finercam.view.plot import panel_png

        return panel_png(self[:4])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The maps `(N, H, W)` in [0, 1], for `np.asarray(answer)`."""
        return np.array(self.maps.detach().cpu().numpy(), dtype=dtype)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, sample: int | slice) -> Explanation:
        """The explanation of one image, as a batch of one, or of a slice of them."""
        if isinstance(sample, slice):
            at = sample
        elif -len(self) <= sample < len(self):
            at = slice(sample % len(self), sample % len(self) + 1)
        else:
            raise IndexError(f"sample {sample}: the explanation has {len(self)}")
        return replace(
            self,
            contrast=self.contrast[at],
            signed=self.signed[at],
            logits=self.logits[at],
            similarity=self.similarity[at],
            images=None if self.images is None else self.images[at],
            samples=self.samples[at],
            seen=tuple((view, evidence.sliced(at)) for view, evidence in self.seen),
            tail=None if self.tail is None else self.tail[at],
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[sample] for sample in range(len(self)))

    def __repr__(self) -> str:
        shown = ".2f" if self.link == "none" else ".0%"
        questions = [
            f"{c} ({p:{shown}}) rather than {' / '.join(ds) or 'nothing'}"
            for c, p, ds in zip(self.target_names, self._target_probabilities(), self.reference_names, strict=True)
        ]
        listed = "; ".join(questions[:4]) + ("; …" if len(questions) > 4 else "")
        where = ", ".join(self.layers)
        if len(self.layers) > 1:
            where = f"the {self.question.fusion} of {where}"
        views = "" if len(self.seen) < 2 else f", {len(self.seen)} views"
        gammas = self.gamma.tolist()[:4]
        return literal(f"<Explanation of {len(self)} by {self.method} at {where}, gamma {gammas}{views}: {listed}>")

    def _target_probabilities(self) -> list[float]:
        return [self.probability(c, sample) for sample, c in enumerate(self.target.tolist())]

    def require_backend(self) -> Backend:
        """What can run the model for this explanation; raises FinerCAMError where nothing can."""
        if self.backend is None:
            raise FinerCAMError(
                "this explanation was read from a file and cannot pick new classes; explain the images again"
            )
        return self.backend


def joined(parts: Sequence[Explanation]) -> Explanation:
    """One explanation that joins several with the same settings, without the images."""
    if len(parts) == 1:
        return replace(parts[0], images=None)
    tail = KeptTail.joined([part.tail for part in parts])
    views = zip(*(part.seen for part in parts), strict=True)
    return replace(
        parts[0],
        contrast=_joined_contrast([part.contrast for part in parts], parts[0].logits.shape[1]),
        signed=torch.cat([part.signed for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        similarity=pad_and_concat([part.similarity for part in parts], torch.nan),
        images=None,
        samples=tuple(sample for part in parts for sample in part.samples),
        tail=tail,
        seen=tuple((of_view[0][0], joined_evidence([evidence for _, evidence in of_view])) for of_view in views),
    )


def _joined_contrast(parts: Sequence[Contrast], num_classes: int) -> Contrast:
    groups, whole = parts[0].groups, []
    for part in parts:
        groups, new = groups.joined(part.groups, num_classes)
        known = [(ids.clone(), ids) for ids in (part.target, part.references)]
        for changed, ids in known:
            for before, after in new.items():
                changed[ids == before] = after
        whole.append([changed for changed, _ in known])
    return Contrast(
        torch.cat([target for target, _ in whole]),
        pad_and_concat([references for _, references in whole], NONE),
        torch.cat([part.gamma for part in parts]),
        parts[0].weights,
        groups,
    )


def checked_link(link: Any) -> str:
    """The name of a link, as it was given; raises FinerCAMError for another one."""
    if not isinstance(link, str) or link not in LINKS:
        raise FinerCAMError(f"link={link!r}: expected one of {', '.join(LINKS)}, or None to choose by the model")
    return link


def _signed(seen: Seen, contrast: Contrast, question: Question) -> Tensor:
    """The signed map of the image itself, or the mean over its views, each brought to one grid."""
    question.method.check_contrast(bool((contrast.gamma > 0).any()))
    maps = [
        signed_map(evidence, contrast, question.method.rule, question.method.fused_by(question.fusion))
        for _, evidence in seen
    ]
    return average(maps, [view for view, _ in seen], fused=len(seen[0][1].activations) > 1)
