"""FinerCAM explains a classifier by contrast: why this class and not that one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from finercam.classifier import Classifier
from finercam.core.capture import run_model
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, Keep, checked_keep, directions
from finercam.core.grid import Layout
from finercam.core.layers import LayerSpec
from finercam.core.logits import Scores
from finercam.core.presets import LAST_TOKENS, Recipe, checked_preset
from finercam.core.references import References
from finercam.core.split import checked_backend
from finercam.core.stages import stage_count
from finercam.core.views import IDENTITY, LARGER, View, views
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation, checked_link, joined
from finercam.methods import Method, gather
from finercam.methods.kept import KeptTail
from finercam.methods.source import Source
from finercam.names import in_order, names_in
from finercam.question import Question

__all__ = ["FinerCAM"]

DEFAULT_BATCH_SIZE = {"cpu": 8}
"""Images that run through the model together, by device; on a device that is not listed, all images of a call."""
CHEAP_REFERENCES = 8
"""Up to this many references, each one's own gradients are kept where the tail after the layer is cheap."""


class FinerCAM:
    """Explains an image classifier by contrast: which pixels make it say this class rather than that one.

    Args:
        model: any PyTorch classifier of images; it is left exactly as it was.
        method: base method, see `finercam.methods.names()`; None takes the preset's.
        gamma: strength of the contrast; 0 is the plain method, 1 weighs both sides alike; None takes the preset's.
        references: the strategy that picks the rival classes when a call names none in `against`: "predicted"
            (highest logits, the default), "similar" (rows of the linear head), "nearest" (nearest logits), "all", or
            "confused".
        num_references: how many rivals the strategy picks, T, by default 1; capped at the classes there are.
        weights: how several rivals are weighted: "mean" (the default), "probability", "orthogonal" or "released".
        layer: target layer: None to find it, a module, a dotted name, a list of either, or "stages" for one layer of each
            of the three coarsest resolutions ("stages:2" for two).
        scores: picks the logits `(N, K)` out of what the model returns; needed where the model returns several tensors.
        class_names: names in the order of the logits, or by id; classes can then be named in questions and answers.
            None takes those that the model carries, such as `config.id2label` of transformers.
        fusion: "mean", "product", "geometric" or "weighted", of the maps of several layers.
        smooth: "flip", "scale", "larger" or several: the mean over mirrored, scaled and larger (1.5 times) views of the
            image; the question, the probabilities and the classes are always those of the image itself.
        keep: which later questions can be answered without running the model: "question" (this one only; the
            cheapest), "contrast" (any gamma), "closest" (also the first rival alone), "references" (also any of the
            rivals alone), a number of top classes, or class ids. None takes "references" where that is nearly free
            (feature maps, at most 8 rivals). On tokens, where each kept direction costs one more backward pass through
            the last block, it keeps the question and what the block needs to run again for others; without
            keep_images, or where the block cannot run alone, it takes "contrast".
        keep_images: let `Explanation.ask` run the model again for what was not kept (the images stay in memory).
        confusion: confusion matrix `(K, K)` for `references="confused"`, rows the truth.
        layout: a `finercam.core.grid.Layout`, where token grid or channel axis cannot be found.
        batch_size: how many images run through the model at once, so that memory does not grow with the call; None
            takes 8 on a CPU, where more is no faster, and all of them on an accelerator.
        link: what makes probabilities of the logits in everything that is shown: "softmax", "sigmoid" (several
            classes at once) or "none" (similarities, regression); None takes "softmax", or "sigmoid" where the model ends
            in one.
        groups: sets of classes with a name, such as genera, which can then be a target or a rival: a mapping from names to
            classes, from classes to names, or a CSV file with the columns class and group. See docs/rival.md.
        preset: what is used where nothing else is given: "fast" (the price of a prediction), "fine" (two), "finest"
            (seven), "measured" (Grad-CAM at the last layer) or "paper" (Finer-CAM's three similar classes). None is
            "fine", or "measured" where method, layer, fusion or smooth is given. See docs/fine.md.
        compile: True runs the model, up to the target layers and from there to the logits and backwards, by
            `torch.compile`, or by the backend of that name; each shape of images is compiled at its first call. None does
            so where the model or a part of it was compiled already, False never.

    Example, with a model of two classes:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explain = FinerCAM(model, class_names=["wren", "robin"])
        >>> answer = explain(torch.rand(5, 3, 16, 16), target="wren")
        >>> answer.maps.shape, answer.reference_names[0]
        (torch.Size([5, 16, 16]), ['robin'])
        >>> answer.ask(gamma=0.9).signed.shape
        torch.Size([5, 14, 14])
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method | None = None,
        *,
        gamma: float | None = None,
        references: str | None = None,
        num_references: int | None = None,
        weights: str | None = None,
        layer: LayerSpec | Sequence[LayerSpec] | None = None,
        scores: Scores | None = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        fusion: str | None = None,
        smooth: str | tuple[str, ...] | None = None,
        keep: Keep | None = None,
        keep_images: bool = True,
        confusion: Tensor | None = None,
        layout: Layout | None = None,
        batch_size: int | None = None,
        link: str | None = None,
        groups: Any = None,
        preset: str | None = None,
        compile: bool | str | None = None,
    ) -> None:
        made = {"method": method, "layer": layer, "fusion": fusion, "smooth": smooth}
        self.preset = checked_preset(preset, said=any(value is not None for value in made.values()))
        asked = {"gamma": gamma, "references": references, "num_references": num_references, "weights": weights}
        self._given = {name: value for name, value in {**made, **asked, "keep": keep}.items() if value is not None}
        self.classifier = Classifier(model, layer, scores, layout, checked_backend(compile, model))
        self.confusion = confusion
        self.groups = groups
        self._use(self.preset.maps)
        self._recipe_chosen = not self.preset.needs_family
        self._carried = names_in(self.model) if class_names is None else None
        self.class_names = in_order(class_names) if class_names is not None else self._carried
        if not isinstance(keep_images, bool):
            raise FinerCAMError(f"keep_images={keep_images!r}: expected True or False")
        self.keep_images = keep_images
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
        ):
            raise FinerCAMError(f"batch_size={batch_size!r}: expected a number of images, at least 1, or None")
        self.batch_size = batch_size
        self.link = None if link is None else checked_link(link)

    @property
    def model(self) -> nn.Module:
        """The model, without the wrappers of `torch.compile` and `DataParallel`."""
        return self.classifier.model

    @property
    def layers(self) -> tuple[str, ...] | None:
        """Names of the target layers; None until the first image has been explained, if they are to be found."""
        return self.classifier.layers

    def __call__(
        self,
        images: Tensor,
        target: Any = None,
        against: Any = None,
        *,
        gamma: float | Tensor | list[float] | None = None,
        weights: str | None = None,
        method: str | Method | None = None,
    ) -> Explanation:
        """Explain images `(N, 3, H, W)`, as the model takes them (normalised floats).

        `target` is a class id or name, one for all images or one for each; None takes each prediction. `against`
        names the rival classes: one class, a flat list for all images, or one list (of any length) for each image;
        None lets the strategy pick. To explain why the prediction is not the true class `y (N,)`, give
        `against=y[:, None]`. Runs the model once, and the tail after the target layer backwards.

        Raises FinerCAMError for images, classes or layers that cannot be used.
        """
        given = {"target": target, "against": against, "gamma": gamma, "weights": weights, "method": method}
        question = self.question.changed(**given)
        images = self.classifier.prepared(images)
        bound = question.bind(len(images), self._num_classes(), self.class_names)
        self._choose_recipe(images)
        question = self.question.changed(**given)
        parts = []
        for at in self._batches(images):
            source = self.capture(images[at], at.start, question.method)
            num_classes = source.logits.shape[1]
            if not parts:  # the first run shows how many classes there are
                bound = question.bind(len(images), num_classes, self._names(num_classes))
            contrast, references = bound[at].resolve(source.logits, self.head_rows(num_classes), at.start)
            parts.append(self._explain_batch(source, question, contrast, references))
        return self._joined(images, parts)

    def answer(
        self,
        images: Tensor,
        question: Question,
        contrast: Contrast,
        references: References,
        samples: Sequence[int] | None = None,
    ) -> Explanation:
        """Answer a question whose classes are resolved, with a new run of the model.

        `samples` are the places of the images in the call that they come from.
        """
        samples = range(len(images)) if samples is None else samples
        parts = []
        for at in self._batches(images):
            picked = References(references.ids[at], references.similarity[at], references.strategy)
            source = self.classifier.capture(images[at], samples[at], relevance=question.method.relevance)
            parts.append(self._explain_batch(source, question, contrast[at], picked))
        return self._joined(images, parts)

    def capture(self, images: Tensor, first: int = 0, method: Method | None = None) -> Source:
        """Run the model once, for a method, on images `(N, 3, H, W)`: a call's samples from `first` on."""
        self._choose_recipe(images)
        relevance = (method or self.question.method).relevance
        return self.classifier.capture(images, range(first, first + len(images)), relevance=relevance)

    def head_rows(self, num_classes: int) -> Tensor | None:
        """Weight rows `(K, D)` of the linear head, or None without one."""
        return self.classifier.head_rows(num_classes)

    def logits(self, images: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        """The model's logits `(N, K)` of images, without a graph; `samples` are their places in a call."""
        samples = range(len(images)) if samples is None else samples
        readout = self.classifier.readout
        return torch.cat([run_model(self.model, images[at], readout.at(samples[at])) for at in self._batches(images)])

    def features(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Activations `(N, C, h, w)` of each target layer, the coarsest grid last, and logits `(N, K)`; without a graph."""
        seen = [self.capture(self.classifier.prepared(images[at])) for at in self._batches(images)]
        layers = [torch.cat(of_layer) for of_layer in zip(*(source.activations for source in seen), strict=True)]
        layers.sort(key=lambda maps: -maps[0, 0].numel())
        return tuple(layers), torch.cat([source.logits for source in seen])

    def without_relevance(self, images: Tensor) -> FinerCAM:
        """An explainer with HiResCAM of the last layer where the preset chose relevance for this model; else itself.

        `images` are one or more that the model takes; the choice depends on what the model makes of them.
        """
        self._choose_recipe(images)
        if not self.question.method.relevance or {"method", "layer"} & set(self._given):
            return self
        other = copy.copy(self)
        other.classifier = copy.copy(self.classifier)
        other._use(LAST_TOKENS)
        return other

    def with_settings(self, *, keep: Keep | None = None, **question: Any) -> FinerCAM:
        """An explainer of the same model with other settings; what is None stays as it was."""
        other = copy.copy(self)
        own = {field.name for field in fields(Recipe)} | set(self.preset.question)
        given = {name: value for name, value in question.items() if value is not None and name in own}
        other._given = {**self._given, **given}
        other.question = self.question.changed(**question)
        other.keep = self.keep if keep is None else checked_keep(keep)
        return other

    def __enter__(self) -> FinerCAM:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo: hooks live only while the model runs."""

    def _num_classes(self) -> int | None:
        names = None if self.class_names is self._carried else self.class_names
        return self.classifier.num_classes if names is None else len(names)

    def _batches(self, images: Tensor) -> list[slice]:
        """Which images run together: the graph of the tail is alive for so many at a time."""
        size = self.batch_size or DEFAULT_BATCH_SIZE.get(images.device.type, len(images))
        return [slice(first, first + size) for first in range(0, len(images), size)]

    def _explain_batch(
        self, source: Source, question: Question, contrast: Contrast, references: References
    ) -> Explanation:
        question = self._with_usable_fusion(question, len(source.layers))
        logits = source.logits.cpu().double()
        tail = self._kept_tail(source, question)
        kept = directions(logits, contrast, self._keep(source, question, contrast) if tail is None else "question")
        seen: list[tuple[View, Evidence]] = []
        for view in self.views:  # one after another, so that only one graph is alive
            of_view = self._seen_under(view, source)
            if of_view is None:
                continue
            evidence = question.method.gather(of_view, contrast, kept)
            # Every view answers the question about the image itself, whose logits weight the references.
            seen.append((view, replace(evidence, logits=logits)))
        answer = Explanation.of(
            contrast,
            references,
            question,
            tuple(seen),
            logits=source.logits,
            layers=source.run.layers,
            image_size=tuple(source.images.shape[2:]),
            class_names=self._names(logits.shape[1]),
            samples=source.readout.samples,
            link=self.link or self.classifier.link,
            backend=self,
            tail=tail,
        )
        _check_finite(answer)
        return answer

    def _seen_under(self, view: View, source: Source) -> Source | None:
        """A run on a view; None, from now on, for a larger one that only the preset wants and the model cannot take."""
        if view == IDENTITY:
            return source
        try:
            return self.classifier.capture(view.apply(source.images), source.readout.samples, view, source.relevance)
        except FinerCAMError as error:
            if "smooth" in self._given or view.scale < LARGER:
                raise
            warnings.warn(f"the preset's larger view is left out: {error}", stacklevel=4)
            self.views = tuple(one for one in self.views if one != view)
            return None

    def _use(self, recipe: Recipe) -> None:
        """Take the recipe's values, and the preset's for the question, for all that was not given."""
        own = {name: value for name, value in self._given.items() if name in {field.name for field in fields(Recipe)}}
        recipe = replace(recipe, **own)
        chosen = {name: self._given.get(name, value) for name, value in self.preset.question.items()}
        self.question = Question.make(
            recipe.method, fusion=recipe.fusion, confusion=self.confusion, groups=self.groups, **chosen
        )
        if len(self.question.gamma) != 1:
            raise FinerCAMError(
                f"{len(self.question.gamma)} values of gamma; give one here, or one an image in a call"
            )
        self.classifier.look_for(recipe.layer)
        self.views = views(recipe.smooth)
        self.keep = None if recipe.keep is None else checked_keep(recipe.keep)

    def _choose_recipe(self, images: Tensor) -> None:
        """Use the preset's recipe for tokens if the model reads tokens of one grid; checked once."""
        if not self._recipe_chosen:
            if self.classifier.stages(images).tokens:
                self._use(self.preset.tokens)
                self._check_recipe(images)
            self._recipe_chosen = True

    def _check_recipe(self, images: Tensor) -> None:
        """Use the last layer if the preset's relevance fails on this model, as where a part runs without a graph."""
        if not self.question.method.relevance or {"method", "layer"} & set(self._given):
            return
        try:
            source = self.classifier.capture(images[:1], [0], relevance=True)
            source.gradients(torch.eye(source.logits.shape[1], dtype=torch.float64)[None, :1])
        except FinerCAMError as error:
            warnings.warn(f"the preset's relevance is replaced by HiResCAM of the last layer: {error}", stacklevel=5)
            self._use(LAST_TOKENS)

    def _with_usable_fusion(self, question: Question, count: int) -> Question:
        """The question; a fusion that was meant for several stages is none where a model has one."""
        if count > 1 or question.fusion == "mean":
            return question
        if "fusion" in self._given and stage_count(self.classifier.layer) is None:
            raise FinerCAMError(
                f"fusion={question.fusion!r} joins the maps of several layers, and there is one: give layer='stages' or "
                "a list of layers"
            )
        return question.changed(fusion="mean")

    def _joined(self, images: Tensor, parts: list[Explanation]) -> Explanation:
        return replace(joined(parts), images=images if self.keep_images else None)

    def _keep(self, source: Source, question: Question, contrast: Contrast) -> Keep:
        if self.keep is not None:
            return self.keep
        maps = all(layout.kind in ("nchw", "nhwc") for layout in source.layouts)
        if maps and contrast.references.shape[1] <= CHEAP_REFERENCES:
            return "references"
        compiled = self.classifier.splits is not None and question.method.gather is gather.gradients
        return "question" if compiled and self.keep_images and not maps else "contrast"

    def _kept_tail(self, source: Source, question: Question) -> KeptTail | None:
        """What later questions about tokens need besides this question's evidence, if nothing else was wanted."""
        usual = self.keep is None and self.keep_images and len(self.views) == 1
        return KeptTail.of(source) if usual and question.method.gather is gather.gradients else None

    def _names(self, num_classes: int) -> tuple[str, ...] | None:
        if self.class_names is not None and len(self.class_names) != num_classes:
            if self.class_names is self._carried:  # the head was replaced, and the model's own list was not
                self.class_names = self._carried = None
                return None
            raise FinerCAMError(
                f"{len(self.class_names)} class names for a model with {num_classes} classes; give one for each"
            )
        return self.class_names


def _check_finite(answer: Explanation) -> None:
    finite = answer.signed.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [answer.samples[n] for n in (~finite).nonzero().flatten().tolist()]
        raise FinerCAMError(
            f"the gradients at layer {', '.join(answer.layers)} are not finite for samples {bad[:8]}; leave those "
            "images out, or run the model in float32"
        )
