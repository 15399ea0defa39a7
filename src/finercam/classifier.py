"""The caller's model with its target layers, token grid and linear head, which are searched for once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from finercam.core.capture import guest, run_model
from finercam.core.grid import Layout, find_layout
from finercam.core.head import find_heads, head_rows
from finercam.core.layers import LayerSpec, resolve_layers, unwrap
from finercam.core.logits import Readout, Scores, ending, uncommon
from finercam.core.split import Backend, Splits
from finercam.core.stages import Stages, find_stages, stage_count
from finercam.core.tail import Tails
from finercam.core.tokens import TOKENS, find_token_layers
from finercam.core.views import IDENTITY, View
from finercam.errors import FinerCAMError
from finercam.io import one_line
from finercam.methods.source import Source

__all__ = ["Classifier"]


class Classifier:
    """Runs a model on images and keeps what later questions need; the model is left as it was.

    `layer` names the target layers or is None to find them; `scores` picks the logits out of what the model returns;
    `layout` overrides the token grid. `backend` of `torch.compile` runs the model compiled. Layers and head are searched for once; their weights are read at every run.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: LayerSpec | Sequence[LayerSpec] | None = None,
        scores: Scores | None = None,
        layout: Layout | None = None,
        backend: Backend | None = None,
    ) -> None:
        model = unwrap(model)
        if not isinstance(model, nn.Module):
            raise FinerCAMError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        if isinstance(model, torch.jit.ScriptModule):
            raise FinerCAMError(
                "model is a torch.jit.ScriptModule, which takes no hooks; give the nn.Module it was made of"
            )
        lazy = [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
        if lazy:
            raise FinerCAMError(
                f"the model's {lazy[0]} has no shape yet; run the model once on an image, then explain it"
            )
        if any(parameter.is_meta for parameter in model.parameters()):
            raise FinerCAMError("the model's parameters are on the meta device and have no values; load its weights")
        if layout is not None and not isinstance(layout, Layout | tuple):
            raise FinerCAMError(f"layout={layout!r}: expected a finercam.core.grid.Layout, a grid (h, w), or None")
        self.model = model
        self.layer = layer
        self.readout = Readout.of(scores)
        self.layout = layout
        self.link = "none" if getattr(self.model, "logits_link", None) == "none" else "softmax"  # similarities
        self.num_classes: int | None = None
        self._stages: Stages | None = None
        self._layers: tuple[tuple[str, nn.Module], ...] | None = None
        self._head: tuple[int, nn.Module | None] | None = None
        self._averages: bool | None = None
        self._tails = Tails()
        self.splits = None if backend is None else Splits(backend)

    @property
    def layers(self) -> tuple[str, ...] | None:
        """Names of the target layers; None until the first run, if they are to be found."""
        return None if self._layers is None else tuple(name for name, _ in self._layers)

    def capture(
        self,
        images: Tensor,
        samples: Sequence[int] | None = None,
        view: View = IDENTITY,
        relevance: bool = False,
    ) -> Source:
        """Run the model once on images `(N, 3, H, W)`: activations, logits, and the graph of the tail.

        The images are those of a call at the places `samples`, seen under `view`. With `relevance` the gradients
        follow the relevance rules.
        """
        version = _version(images)
        samples = range(len(images)) if samples is None else samples
        try:
            source = self._run(images, samples, view, relevance)
            if not self.readout.before_probabilities and (last := ending(source.run.logits)):
                self._read_before(last)
                source = self._run(images, samples, view, relevance)
        except (FinerCAMError, torch.cuda.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            raise FinerCAMError(
                f"the model could not run on images of shape {tuple(images.shape)}: {one_line(error)}"
            ) from error
        if _version(images) != version:
            raise FinerCAMError(
                "the model writes into its input images, so later questions would get wrong answers; let it work on a "
                "copy, as model(x.clone())"
            )
        if len(source.logits) != len(images):
            raise FinerCAMError(
                f"logits of shape {tuple(source.logits.shape)} for {len(images)} images; expected one row each"
            )
        if not bool(source.logits.isfinite().all()):
            bad = [samples[n] for n in (~source.logits.isfinite().all(dim=1)).nonzero().flatten().tolist()]
            raise FinerCAMError(
                f"the model gave logits that are not finite for samples {bad[:8]}; leave those images out"
            )
        self.num_classes = source.logits.shape[1]
        return self._with_averaging_head(source)

    def look_for(self, layer: LayerSpec | Sequence[LayerSpec] | None) -> None:
        """Target other layers from now on."""
        self.layer, self._layers = layer, None

    def stages(self, images: Tensor) -> Stages:
        """One target layer of each resolution of the model; the first call runs it on one of the images."""
        if self._stages is None:
            self._stages = find_stages(self.model, self._usual_layer(images), images)
        return self._stages

    def head_rows(self, num_classes: int) -> Tensor | None:
        """Weight rows `(K, D)` of the linear head as they are now, or None without one."""
        head = self._linear_head(num_classes)
        return None if head is None else head[0]

    def prepared(self, images: Tensor) -> Tensor:
        """A copy of usable images on the model's device and in its precision; raises FinerCAMError for others."""
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
            raise FinerCAMError(
                f"images are {kind}; expected a float tensor (N, C, H, W), normalised as the model was trained"
            )
        if kind := uncommon(images):
            raise FinerCAMError(f"images are a {kind}; expected a dense float tensor (N, C, H, W)")
        if images.ndim not in (4, 5) or 0 in images.shape:
            hint = "; add a batch dimension, images[None]" if images.ndim == 3 else ""
            raise FinerCAMError(
                f"images of shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image{hint}; volumes are "
                "(N, C, D, H, W)"
            )
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), images)
        # A copy, because later questions may need the images after the caller has refilled the buffer.
        with torch.inference_mode(False):
            images = images.detach().to(parameter.device, parameter.dtype, copy=True)
        # A sum is cheap and finite where all pixels are; only where it is not, the pixels are checked one by one.
        if not bool(images.sum().isfinite()) and not bool(images.isfinite().all()):
            bad = (~images.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
            raise FinerCAMError(f"images {bad[:8]} hold NaN or infinite pixels as {images.dtype}; leave them out")
        return images

    def _run(self, images: Tensor, samples: Sequence[int], view: View, relevance: bool) -> Source:
        layers, readout = self._found_layers(images), self.readout.at(samples, view)
        through_relu = self.layer is None
        return Source.of(
            self.model, layers, images, readout, self._find_layout, relevance, through_relu, self._tails, self.splits
        )

    def _read_before(self, last: str) -> None:
        """Take the logits before the model's last function, which made probabilities of them."""
        warnings.warn(f"the model ends in a {last}; its classes are explained by the logits before it", stacklevel=5)
        self.readout = replace(self.readout, before_probabilities=True)
        self.link = "sigmoid" if last == "sigmoid" else "softmax"

    def _usual_layer(self, images: Tensor) -> tuple[str, nn.Module]:
        return resolve_layers(self.model, None, images, scores=self._first_scores)[0]

    @property
    def _first_scores(self) -> Scores | None:
        """What `scores=` makes of the first sample, for the runs that look for layers."""
        return None if self.readout.scores is None else self.readout.at([0]).read

    def _found_layers(self, images: Tensor) -> tuple[tuple[str, nn.Module], ...]:
        if self._layers is None:
            count = stage_count(self.layer)
            if count is not None:
                layers = self.stages(images).coarsest(count)
            elif self.layer == TOKENS:
                layers = find_token_layers(self.model, self._usual_layer(images), images)
            else:
                layers = tuple(resolve_layers(self.model, self.layer, images, scores=self._first_scores))
            if len({module for _, module in layers}) < len(layers):
                raise FinerCAMError(f"layers {[name for name, _ in layers]} name a layer twice; name each once")
            self._layers = layers
        return self._layers

    def _find_layout(self, activation: Tensor, images: Tensor, module: nn.Module) -> Layout:
        return find_layout(activation.shape, images.shape, self.model, self.layout, module)

    def _linear_head(self, num_classes: int, source: Source | None = None) -> tuple[Tensor, Tensor | None] | None:
        if self._head is None or self._head[0] != num_classes:
            with guest(self.model):  # reading a spectrally normalised weight in train mode would change buffers
                heads = find_heads(self.model, num_classes)
            if len(heads) > 1 and source is not None:
                heads = _giving_logits(heads, source) or heads
            self._head = (num_classes, next(iter(heads), None))
        head = self._head[1]
        if head is None:
            return None
        with guest(head), torch.no_grad():
            return head_rows(head, num_classes)

    def _with_averaging_head(self, source: Source) -> Source:
        """Skip the backward pass where the head averages one layer's maps.

        Every batch's logits must agree with that, and once the model's own gradients.
        """
        if self._averages is False:
            return source
        rows = source.averaging(self._linear_head(source.logits.shape[1], source))
        if rows is not None and self._averages is None:
            self._averages = source.gradients_match(rows)
        return replace(source, averaged=rows) if rows is not None and self._averages else source


def _giving_logits(heads: list[nn.Module], source: Source) -> list[nn.Module]:
    """The modules whose output for the first image is its logits: a model may have several heads of one size."""
    outputs: dict[nn.Module, Any] = {}

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[module] = output

    with guest(source.model), ExitStack() as stack:
        for head in heads:
            stack.callback(head.register_forward_hook(keep).remove)
        try:
            logits = run_model(source.model, source.images[:1], source.readout.repeated(0, 1))
        except FinerCAMError:  # a scores= that reads no image alone
            return []
    flat = {head: output.flatten(1) for head, output in outputs.items() if isinstance(output, Tensor)}
    return [
        head
        for head in heads
        if head in flat and flat[head].shape == logits.shape and torch.allclose(flat[head], logits, rtol=1e-3)
    ]


def _version(images: Tensor) -> int:
    """How often the tensor was written to; 0 for inference tensors, which do not count."""
    return 0 if images.is_inference() else images._version
