"""The answer: maps, logits, target and references, and everything needed to ask again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, NotKept, joined_evidence
from finercam.core.maps import peak, positive, signed_map, upsample
from finercam.core.references import NONE, References, pad_and_concat
from finercam.core.views import View
from finercam.errors import FinerCAMError
from finercam.methods import Method, is_linear
from finercam.methods import get as get_method
from finercam.names import label, per_sample
from finercam.text import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finercam.images import Preprocess

__all__ = ["Explanation", "Setting"]

Seen = tuple[tuple[View, Evidence], ...]
SWEEP = tuple(round(0.2 * step, 1) for step in range(11))
"""Strengths of a sweep where none are given: 0, 0.2, … 2."""


@dataclass(frozen=True)
class Setting:
    """How an explanation was made, the question aside."""

    method: Method
    layers: tuple[str, ...]
    strategy: str
    num_references: int
    fusion: str
    image_size: tuple[int, int]
    class_names: tuple[str, ...] | None


class Backend(Protocol):
    """What an explanation needs of its explainer to answer what its own evidence cannot."""

    def choose(self, logits: Tensor, target: Tensor, against: Any, count: int) -> References: ...

    def explain(
        self, images: Tensor, contrast: Contrast, references: References, setting: Setting
    ) -> Explanation: ...


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why each image is `target` and not `references`, for a batch of N images.

    `signed (N, h, w)` is the map before the ReLU at the layer's resolution, `maps (N, H, W)` in [0, 1] at the
    image's; `logits (N, K)`. Ask again, without a run of the model where the evidence holds the answer:
    `answer.ask(gamma=0.9)`, `answer.ask(against=["Indigo Bunting"])`, `answer.plain`, `answer.reverse()`.
    """

    contrast: Contrast
    signed: Tensor
    logits: Tensor
    similarity: Tensor
    setting: Setting
    images: Tensor | None = None
    seen: Seen = field(default=(), repr=False)
    backend: Backend | None = field(default=None, repr=False)

    @classmethod
    def of(cls, contrast: Contrast, references: References, setting: Setting, seen: Seen, **more: Any) -> Explanation:
        """Answer a question from what was seen."""
        signed = _signed(seen, contrast, setting)
        return cls(contrast, signed, more.pop("logits"), references.similarity, setting, seen=seen, **more)

    @cached_property
    def maps(self) -> Tensor:
        """What speaks for the target under the contrast, `(N, H, W)` in [0, 1], each divided by its own peak."""
        return positive(upsample(self.signed, self.setting.image_size))

    @cached_property
    def signed_maps(self) -> Tensor:
        """For (+) and against (-) the target, `(N, H, W)` in [-1, 1], each divided by its largest magnitude."""
        large = upsample(self.signed, self.setting.image_size)
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
        return self.setting.method.name

    @property
    def layers(self) -> tuple[str, ...]:
        return self.setting.layers

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, `(N, K)`."""
        return self.logits.float().softmax(dim=1)

    @property
    def target_names(self) -> list[str]:
        return [label(c, self.setting.class_names) for c in self.target.tolist()]

    @property
    def reference_names(self) -> list[list[str]]:
        """Names of each sample's references."""
        names = self.setting.class_names
        return [[label(d, names) for d in row if d != NONE] for row in self.references.tolist()]

    @property
    def plain(self) -> Explanation:
        """The plain method's answer for the same targets: gamma 0, from the same evidence."""
        return self.ask(gamma=0.0, weights="mean")

    def reverse(self) -> Explanation:
        """The reverse question: why would it be the first reference, and not the target?"""
        if self.references.shape[1] == 0:
            raise FinerCAMError("the question has no reference and cannot be reversed; the model has one class")
        return self.ask(target=self.references[:, 0], against=self.target[:, None])

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
        """Ask about the same images again; what is not given stays as it was.

        Answered from the kept evidence where its classes suffice (see `keep=` of FinerCAM): any gamma, the plain map,
        any kept references, and another method that gathers the same evidence. Otherwise the model runs again if
        the images were kept, and NotKept (a FinerCAMError) says so if they were not. A new target without `against`
        has its references picked anew.
        """
        setting = self.setting
        if method is not None or fusion is not None:
            chosen = setting.method if method is None else get_method(method)
            setting = replace(setting, method=chosen, fusion=fusion or setting.fusion)
        references = References(self.references, self.similarity, setting.strategy)
        asked = self.target
        if target is not None:
            asked = torch.tensor(per_sample(target, len(self), setting.class_names, self.logits.shape[1]))
        if against is not None or not torch.equal(asked, self.target):
            references = self._require_backend().choose(
                self.seen[0][1].logits, asked, against, setting.num_references
            )
            setting = replace(setting, strategy=references.strategy)
        strength = self.gamma if gamma is None else per_sample_gamma(gamma, len(self))
        weights = self.contrast.weights if weights is None else weights
        contrast = Contrast(asked, references.ids, strength, weights)
        if setting.method.gather is self.setting.method.gather:
            try:
                return replace(
                    self,
                    contrast=contrast,
                    signed=_signed(self.seen, contrast, setting),
                    similarity=references.similarity,
                    setting=setting,
                )
            except NotKept:
                if self.images is None:
                    raise
        elif self.images is None:
            raise NotKept(
                f"method {setting.method.name!r} gathers other evidence than {self.method!r}: explain again with it, "
                "or with keep_images=True to let ask() run the model"
            )
        assert self.images is not None
        return self._require_backend().explain(self.images, contrast, references, setting)

    def sweep(self, gammas: Sequence[float] = SWEEP) -> Tensor:
        """The maps of many strengths, `(G, N, H, W)` in [0, 1]; each is what `ask(gamma=…).maps` gives.

        Where a method is linear in the contrast, two signed maps give them all, so that a whole sweep costs little
        more than one question; the others are asked one after another.

        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
        ... )
        >>> from finercam import FinerCAM
        >>> FinerCAM(model)(torch.rand(2, 3, 16, 16)).sweep([0.0, 0.6, 1.0]).shape
        torch.Size([3, 2, 16, 16])
        """
        if len(gammas) == 0:
            raise FinerCAMError("gammas is empty; give at least one strength")
        strengths = per_sample_gamma(list(gammas), len(gammas))
        if not is_linear(self.setting.method) or len(self.layers) > 1:
            return torch.stack([self.ask(gamma=float(gamma)).maps for gamma in strengths])
        plain, full = self.ask(gamma=0.0).signed, self.ask(gamma=1.0).signed
        signed = plain - strengths.to(plain)[:, None, None, None] * (plain - full)
        return positive(upsample(signed.flatten(0, 1), self.setting.image_size)).unflatten(0, signed.shape[:2])

    def plot(self, image: Any = None, example: Any = None, *, preprocess: Preprocess | None = None) -> Figure:
        """The panel as a matplotlib figure: photo, plain, finer, finer against the closest class, signed difference.

        `image` is the photo, or one for each image; None shows the images that were kept. See `finercam.plot.panel`.
        """
        from finercam.view.plot import panel

        return panel(self, image, example, preprocess=preprocess)

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
        if str(out).lower().endswith((".html", ".htm")):
            from finercam.report import write_report
            from finercam.view.shown import one_each

            images = None if image is None else one_each(image, len(self))
            return write_report(self, out, names=names, images=images, preprocess=preprocess)
        from finercam.export.folder import save

        return save(self, out, names, image, preprocess=preprocess)

    def _repr_png_(self) -> bytes | None:
        """How Jupyter shows it: the panel of the first images, where they were kept."""
        if self.images is None or len(self) == 0:
            return None
        from finercam.view.plot import panel
        from finercam.view.sheet import png

        return png(panel(self[:4]))

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
            contrast=Contrast(self.target[at], self.references[at], self.gamma[at], self.contrast.weights),
            signed=self.signed[at],
            logits=self.logits[at],
            similarity=self.similarity[at],
            images=None if self.images is None else self.images[at],
            seen=tuple((view, evidence.sliced(at)) for view, evidence in self.seen),
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[sample] for sample in range(len(self)))

    def __repr__(self) -> str:
        questions = [
            f"{c} ({p:.0%}) rather than {' / '.join(ds) or 'nothing'}"
            for c, p, ds in zip(self.target_names, self._target_probabilities(), self.reference_names, strict=True)
        ]
        shown = "; ".join(questions[:4]) + ("; …" if len(questions) > 4 else "")
        where = ", ".join(self.layers)
        gammas = self.gamma.tolist()[:4]
        return literal(f"<Explanation of {len(self)} by {self.method} at {where}, gamma {gammas}: {shown}>")

    def _target_probabilities(self) -> list[float]:
        return self.probabilities.cpu().gather(1, self.target[:, None]).flatten().tolist()

    def _require_backend(self) -> Backend:
        if self.backend is None:
            raise FinerCAMError(
                "this explanation was read from a file and cannot pick new classes; explain the images again"
            )
        return self.backend


def joined(parts: Sequence[Explanation]) -> Explanation:
    """One explanation of the images of several that were asked alike, without the images."""
    if len(parts) == 1:
        return replace(parts[0], images=None)
    views = zip(*(part.seen for part in parts), strict=True)
    return replace(
        parts[0],
        contrast=Contrast(
            torch.cat([part.target for part in parts]),
            pad_and_concat([part.references for part in parts], NONE),
            torch.cat([part.gamma for part in parts]),
            parts[0].contrast.weights,
        ),
        signed=torch.cat([part.signed for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        similarity=pad_and_concat([part.similarity for part in parts], torch.nan),
        images=None,
        seen=tuple((of_view[0][0], joined_evidence([evidence for _, evidence in of_view])) for of_view in views),
    )


LARGEST = 1e6
"""Above it the target's own share is lost in rounding, and soon the map in infinity."""


def per_sample_gamma(gamma: float | Tensor | list[float], count: int) -> Tensor:
    """Gamma as `(N,)`, from one number or one a sample; finite and at least 0.

    >>> per_sample_gamma(0.6, 2)
    tensor([0.6000, 0.6000], dtype=torch.float64)
    """
    try:
        strength = torch.as_tensor(gamma, dtype=torch.float64).detach().cpu().flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FinerCAMError(f"gamma={gamma!r}: expected a number, or one for each image") from error
    if strength.numel() == 1:
        strength = strength.expand(count)
    if len(strength) != count:
        raise FinerCAMError(f"{len(strength)} values of gamma for {count} images; give one for all, or one for each")
    if not bool(((strength >= 0) & (strength <= LARGEST)).all()):  # false for NaN
        raise FinerCAMError(
            f"gamma={gamma!r}: expected finite numbers of at least 0 (0 is the plain method), at most {LARGEST:g}"
        )
    return strength


def _signed(seen: Seen, contrast: Contrast, setting: Setting) -> Tensor:
    """The signed map of the image itself, or the mean over its views, each brought back to the first one's grid."""
    maps = [signed_map(evidence, contrast, setting.method.rule, setting.fusion) for _, evidence in seen]
    if len(maps) == 1:
        return maps[0]
    size = (maps[0].shape[1], maps[0].shape[2])
    return torch.stack([view.undo(of_view, size) for (view, _), of_view in zip(seen, maps, strict=True)]).mean(0)
