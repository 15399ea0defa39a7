"""FinerCAM: asks a classifier why it says this class and not that one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core import references as strategies
from finercam.core.capture import Scores
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, Keep, checked_keep, directions
from finercam.core.grid import Layout, find_layout
from finercam.core.head import find_head, head_rows
from finercam.core.layers import resolve_layers, unwrap
from finercam.core.maps import FUSIONS
from finercam.core.references import References
from finercam.core.views import IDENTITY, View, views
from finercam.errors import FinerCAMError, suggest
from finercam.explanation import Explanation, Setting, joined, per_sample_gamma
from finercam.io import one_line
from finercam.methods import Method
from finercam.methods import get as get_method
from finercam.methods.source import Source
from finercam.names import in_order, per_sample, shared_or_per_sample

__all__ = ["FinerCAM"]

Layer = str | nn.Module | Sequence[str | nn.Module] | None
PRESETS: dict[str, dict[str, Any]] = {
    "measured": {"gamma": 0.6, "references": "predicted", "num_references": 1, "weights": "mean"},
    "paper": {"gamma": 0.6, "references": "similar", "num_references": 3, "weights": "mean"},
}
"""What is asked where a call does not say: the best of the measured ones (docs/evaluation.md), and Finer-CAM's own."""
DEFAULT_BATCH_SIZE = {"cpu": 8}
"""Images that run through the model together, by device, where nothing is said; elsewhere all of a call."""
CHEAP_REFERENCES = 8
"""Up to this many references, each one's own gradients are kept where the tail after the layer is cheap."""


class FinerCAM:
    """Explains an image classifier by contrast: which pixels make it say this class rather than that one.

    Args:
        model: any PyTorch classifier of images; a guest, left exactly as it was.
        method: base method, see `finercam.methods.names()`.
        gamma: strength of the contrast; 0 is the plain method, 0.6 the default, 1 weighs both sides alike.
        references: which classes the target is held against, when a call does not name them: "predicted" (highest
            logits, the default), "similar" (rows of the linear head), "nearest" (nearest logits), "all", or "confused".
        num_references: how many, T, by default 1; capped at the classes there are.
        weights: "mean" (the default), "probability", "orthogonal" or "released".
        layer: target layer: None to find it, a module, a dotted name, or a list of either.
        scores: picks the logits `(N, K)` out of what the model returns, where that is not evident.
        class_names: names in the order of the logits, or by id; classes can then be named in questions and answers.
        fusion: "mean" or "product" of the maps of several layers.
        smooth: "flip", "scale" or both: the mean over mirrored and scaled views of the image.
        keep: what later questions can be answered without the model: "question" (none but this one; the cheapest),
            "contrast" (any gamma), "closest" (the first reference alone besides), "references", a number of top
            classes, or class ids; None takes "references" where that is nearly free (feature maps, T of at most 8)
            and "contrast" on tokens, where each kept direction costs one more pass backwards through the last block.
        keep_images: let `Explanation.ask` run the model again for what was not kept (holds on to the images).
        confusion: confusion matrix `(K, K)` for `references="confused"`, rows the truth.
        layout: a `finercam.core.grid.Layout`, where token grid or channel axis cannot be found.
        batch_size: how many images run through the model at once, whatever a call is given, so that memory does not
            grow with the call; None takes 8 on a processor, where more is no faster, and all on an accelerator.
        preset: where those four are not given: "measured", or "paper" for Finer-CAM's three similar classes.

    Example, with a model of two classes:
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
        method: str | Method = "gradcam",
        gamma: float | None = None,
        references: str | None = None,
        num_references: int | None = None,
        weights: str | None = None,
        layer: Layer = None,
        scores: Scores | None = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        *,
        fusion: str = "mean",
        smooth: str | tuple[str, ...] | None = None,
        keep: Keep | None = None,
        keep_images: bool = True,
        confusion: Tensor | None = None,
        layout: Layout | None = None,
        batch_size: int | None = None,
        preset: str = "measured",
    ) -> None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise FinerCAMError(
                f"preset={preset!r}: expected one of {', '.join(PRESETS)}.{suggest(str(preset), PRESETS)}"
            )
        usual = PRESETS[preset]
        strength: float = usual["gamma"] if gamma is None else gamma
        references = str(usual["references"]) if references is None else references
        num_references = usual["num_references"] if num_references is None else num_references
        weighting: str = usual["weights"] if weights is None else weights
        if not isinstance(model, nn.Module):
            raise FinerCAMError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        if not isinstance(references, str) or references not in strategies.STRATEGIES:
            known = ", ".join(strategies.STRATEGIES)
            raise FinerCAMError(
                f"references={references!r}: expected one of {known}; name classes in the call, as against=[…]."
                f"{suggest(str(references), strategies.STRATEGIES)}"
            )
        if references == "confused" and confusion is None:
            raise FinerCAMError("references='confused' needs confusion=, a (K, K) matrix of counts, rows the truth")
        if not isinstance(fusion, str) or fusion not in FUSIONS:
            raise FinerCAMError(f"fusion={fusion!r}: expected one of {', '.join(FUSIONS)}")
        self.model = unwrap(model)
        self.method = get_method(method)
        self.gamma = float(per_sample_gamma(strength, 1))
        if isinstance(num_references, bool) or not isinstance(num_references, int) or num_references < 1:
            raise FinerCAMError(
                f"num_references={num_references!r}: expected at least 1, or use gamma=0 for the plain map"
            )
        self.references = references
        self.num_references = num_references
        self.weights = weighting
        self.layer: Layer = layer
        self.scores = scores
        self.class_names = in_order(class_names)
        self.fusion = fusion
        self.views = views(smooth)
        self.keep = None if keep is None else checked_keep(keep)
        self.keep_images = keep_images
        self.confusion = None if confusion is None else torch.as_tensor(confusion)
        self.layout = layout
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
        ):
            raise FinerCAMError(f"batch_size={batch_size!r}: expected a number of images, at least 1, or None")
        self.batch_size = batch_size
        self._found: tuple[tuple[str, nn.Module], ...] | None = None
        self._head: tuple[int, nn.Module | None] | None = None
        self._averages: bool | None = None
        Contrast(torch.tensor([0]), torch.tensor([[1]]), torch.tensor([0.0]), weighting)  # checks the weights' name

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
        names the references: one class, a flat list for all images, or one list (of any length) for each image;
        None lets the strategy pick. Runs the model once, and the tail after the target layer backwards.

        Raises FinerCAMError for images, classes or layers that cannot be used.
        """
        images = self._usable(images)
        return self._kept(
            images, [self._turn(images, at, target, against, gamma, weights, method) for at in self._turns(images)]
        )

    def explain(self, images: Tensor, contrast: Contrast, references: References, setting: Setting) -> Explanation:
        """Answer a question whose classes are settled, with a new run of the model."""
        parts = []
        for at in self._turns(images):
            asked = Contrast(contrast.target[at], contrast.references[at], contrast.gamma[at], contrast.weights)
            picked = References(references.ids[at], references.similarity[at], references.strategy)
            parts.append(self._answer(self.look(images[at], at.start), asked, picked, setting))
        return self._kept(images, parts)

    def _turns(self, images: Tensor) -> list[slice]:
        """Which images run together: the graph of the tail is alive for so many at a time."""
        size = self.batch_size or DEFAULT_BATCH_SIZE.get(images.device.type, len(images))
        return [slice(first, first + size) for first in range(0, len(images), size)]

    def _turn(
        self, images: Tensor, at: slice, target: Any, against: Any, gamma: Any, weights: Any, method: Any
    ) -> Explanation:
        """Look at some of the images, settle the question about them, and answer it."""
        source = self.look(images[at], at.start)
        logits = source.logits.cpu().double()
        count, num_classes = len(images), logits.shape[1]
        if target is None:
            chosen = logits.argmax(dim=1)
        else:
            chosen = torch.tensor(per_sample(target, count, self.class_names, num_classes))[at]
        strength = per_sample_gamma(self.gamma if gamma is None else gamma, count)[at]
        named = None if against is None else shared_or_per_sample(against, count, self.class_names, num_classes)[at]
        picked = self.choose(logits, chosen, named, self.num_references, at.start)
        contrast = Contrast(chosen, picked.ids, strength, self.weights if weights is None else weights)
        setting = Setting(
            self.method if method is None else get_method(method),
            source.run.layers,
            picked.strategy,
            self.num_references,
            self.fusion,
            (images.shape[2], images.shape[3]),
            self._names(num_classes),
        )
        return self._answer(source, contrast, picked, setting)

    def _kept(self, images: Tensor, parts: list[Explanation]) -> Explanation:
        return replace(joined(parts), images=images if self.keep_images else None)

    def choose(self, logits: Tensor, target: Tensor, against: Any, count: int, first: int = 0) -> References:
        """The references of each target `(N,)`: those named in `against`, or picked by this explainer's strategy.

        Errors count the samples from `first`.
        """
        num_classes = logits.shape[1]
        head = self._rows(num_classes)
        cosine = None if head is None else strategies.similarity(head[0], target.to(head[0].device)).cpu()
        strategy = self.references if against is None else "explicit"
        if against is not None:
            asked = shared_or_per_sample(against, len(target), self.class_names, num_classes)
            ids = strategies.explicit(asked, target, num_classes, first)
        elif strategy == "similar":
            if cosine is None:
                raise FinerCAMError(
                    f"references='similar' compares rows of a linear head, and none with {num_classes} rows was "
                    "found; use references='predicted', or name the classes with against="
                )
            ids = strategies.highest(cosine, target, count)
        elif strategy == "predicted":
            ids = strategies.predicted(logits, target, count)
        elif strategy == "nearest":
            ids = strategies.nearest(logits, target, count)
        elif strategy == "all":
            ids = strategies.all_other_classes(num_classes, target)
        else:
            assert self.confusion is not None
            if self.confusion.shape != (num_classes, num_classes):
                raise FinerCAMError(
                    f"confusion has shape {tuple(self.confusion.shape)}; expected ({num_classes}, {num_classes})"
                )
            ids = strategies.confused(self.confusion.cpu(), target, count)
        similarity = torch.full(ids.shape, torch.nan)
        if cosine is not None:
            similarity = cosine.gather(1, ids.clamp(min=0)).masked_fill(ids == strategies.NONE, torch.nan)
        return References(ids, similarity, strategy)

    @property
    def layers(self) -> tuple[str, ...] | None:
        """Names of the target layers; None until the first image has been explained, if they were to be found."""
        return None if self._found is None else tuple(name for name, _ in self._found)

    def __enter__(self) -> FinerCAM:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo: hooks live only while the model runs."""

    def _answer(self, source: Source, contrast: Contrast, references: References, setting: Setting) -> Explanation:
        logits = source.logits.cpu().double()
        kept = directions(logits, contrast, self._keep(source, contrast))
        seen: list[tuple[View, Evidence]] = []
        for view in self.views:  # one after another, so that only one graph is alive
            looked = source if view == IDENTITY else self.look(view.apply(source.images))
            evidence = setting.method.gather(looked, contrast, kept)
            # All views are asked what the image itself is asked: its logits weight the references.
            seen.append((view, replace(evidence, logits=logits)))
        return Explanation.of(contrast, references, setting, tuple(seen), logits=source.logits, backend=self)

    def look(self, images: Tensor, first: int = 0) -> Source:
        """Run the model once on images `(N, 3, H, W)`: activations, logits, and the graph of the tail.

        Errors count the samples from `first`.
        """
        version = _version(images)
        if self._found is None:
            found = tuple(resolve_layers(self.model, self.layer, images))
            if len({module for _, module in found}) < len(found):
                raise FinerCAMError(f"layers {[name for name, _ in found]} name a layer twice; name each once")
            self._found = found
        try:
            source = Source.of(self.model, self._found, images, self.scores, self._layout)
        except (FinerCAMError, torch.cuda.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            raise FinerCAMError(
                f"the model could not run on images of shape {tuple(images.shape)}: {one_line(error)}"
            ) from error
        if _version(images) != version:
            raise FinerCAMError(
                "the model writes into the images it is given, which would falsify later questions; let it work on a "
                "copy, as model(x.clone())"
            )
        if len(source.logits) != len(images):
            raise FinerCAMError(
                f"logits of shape {tuple(source.logits.shape)} for {len(images)} images; expected one row each"
            )
        if not bool(source.logits.isfinite().all()):
            bad = ((~source.logits.isfinite().all(dim=1)).nonzero().flatten() + first).tolist()
            raise FinerCAMError(
                f"the model gave logits that are not finite for samples {bad[:8]}; leave those images out"
            )
        return self._averaged(source)

    def _averaged(self, source: Source) -> Source:
        """Spare the run backwards where the head averages one layer's maps.

        Every batch's logits must say so, and once the model's own gradients.
        """
        if self._averages is False:
            return source
        rows = source.averaging(self._rows(source.logits.shape[1]))
        if rows is not None and self._averages is None:
            self._averages = source.gradients_match(rows)
        return replace(source, averaged=rows) if rows is not None and self._averages else source

    def _layout(self, activation: Tensor, images: Tensor, module: nn.Module) -> Layout:
        return find_layout(activation.shape, images.shape, self.model, self.layout, module)

    def _keep(self, source: Source, contrast: Contrast) -> Keep:
        if self.keep is not None:
            return self.keep
        maps = all(layout.kind in ("nchw", "nhwc") for layout in source.layouts)
        return "references" if maps and contrast.references.shape[1] <= CHEAP_REFERENCES else "contrast"

    def _rows(self, num_classes: int) -> tuple[Tensor, Tensor | None] | None:
        """Rows of the linear head as they are now; which module it is, is looked for once."""
        if self._head is None or self._head[0] != num_classes:
            self._head = (num_classes, find_head(self.model, num_classes))
        head = self._head[1]
        return None if head is None else head_rows(head, num_classes)

    def _names(self, num_classes: int) -> tuple[str, ...] | None:
        if self.class_names is not None and len(self.class_names) != num_classes:
            raise FinerCAMError(
                f"{len(self.class_names)} class names for a model with {num_classes} classes; give one for each"
            )
        return self.class_names

    def _usable(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
            raise FinerCAMError(
                f"images are {kind}; expected a float tensor (N, C, H, W), normalised as the model was trained"
            )
        if images.ndim != 4 or 0 in images.shape:
            hint = "; add a batch dimension, images[None]" if images.ndim == 3 else ""
            raise FinerCAMError(
                f"images of shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image{hint}"
            )
        first = next((p for p in self.model.parameters() if p.is_floating_point()), images)
        # An own copy: later questions may need the images when the caller has long refilled the buffer.
        with torch.inference_mode(False):
            images = images.detach().to(first.device, first.dtype, copy=True)
        # A sum is cheap and finite where all pixels are; where it is not, the pixels are looked at one by one.
        if not bool(images.sum().isfinite()) and not bool(images.isfinite().all()):
            bad = (~images.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
            raise FinerCAMError(f"images {bad[:8]} hold NaN or infinite pixels as {images.dtype}; leave them out")
        return images


def _version(images: Tensor) -> int:
    """How often the tensor was written to; inference tensors do not count."""
    return 0 if images.is_inference() else images._version
