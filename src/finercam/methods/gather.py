"""How evidence is gathered: by gradients, by masking the input with channels, or by removing channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from finercam.core.capture import INPUT, exchanged, guest, run_model
from finercam.core.contrast import Contrast, one_hot
from finercam.core.evidence import Evidence
from finercam.core.maps import aligned, places, upsample
from finercam.core.pixels import gaussian, pixel_evidence
from finercam.errors import FinerCAMError
from finercam.methods.fold import folded
from finercam.methods.source import Source

__all__ = [
    "ablations",
    "channel_scores",
    "gradients",
    "masked_scores",
    "relevance",
    "scored",
    "shares",
    "smoothed",
    "top_channel_scores",
]

SMOOTHING = 0.015
"""Standard deviation of the Gaussian over fine maps, as a share of the shorter side: chosen by docs/fine.md."""
BATCH = {"cpu": 4}
"""How many masked images or ablated variants run at once; more would not fit in a processor's cache."""
USUAL_PIXELS = 224 * 224
"""Pixels of the images that this holds for."""
LAST = {3: torch.channels_last, 4: torch.channels_last_3d}
"""The memory format with channels last of an image `(C, H, W)` and of a volume `(C, D, H, W)`."""

Vary = Callable[[Tensor], Iterable[Tensor]]
"""Makes several masks of each one `(B, 1, H, W)`, whose scores are averaged."""


def gradients(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Gradients of each kept direction, by one backward pass of the tail for each."""
    return _evidence(source.under(relevance=False), directions)


def relevance(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Gradients by the relevance rules, which hold attention weights, gates and scales constant."""
    return _evidence(source.under(relevance=True), directions)


def _evidence(source: Source, directions: Tensor) -> Evidence:
    activations, found = list(source.activations), list(source.gradients(directions))
    for at, (name, _) in enumerate(source.layers):
        if name == INPUT:
            activations[at], found[at] = pixel_evidence(activations[at], found[at])
    return Evidence(source.logits.cpu().double(), directions, tuple(activations), tuple(found))


def shares(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """HiResCAM's map of each kept direction in place of channels, since fine layers have millions of numbers.

    Activations are ones `(N, 1, h, w)`, gradients the maps `(N, M, 1, h, w)`, lightly smoothed; both steps are linear,
    so the contrast may come after them. Weights of references that compare channels ("orthogonal") are not possible.
    """
    if contrast.weights == "orthogonal":
        raise FinerCAMError("weights='orthogonal' compare channels, which this method does not keep; use 'hirescam'")
    maps = tuple(smoothed(of_layer) for of_layer in source.under(relevance=False).shares(directions))
    ones = tuple(torch.ones_like(of_layer[:, :1]) for of_layer in maps)
    found = tuple(of_layer[:, :, None] for of_layer in maps)
    return Evidence(source.logits.cpu().double(), directions, ones, found, has_channels=False)


def smoothed(maps: Tensor) -> Tensor:
    """Gaussian blur of `(N, M, h, w)` by SMOOTHING of the shorter side; coarse grids are left as they are."""
    sigma = SMOOTHING * min(maps.shape[-2:])
    return maps if sigma < 0.25 else gaussian(maps, sigma)


def channel_scores(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Score-CAM (Wang et al., CVPRW 2020) under a contrast (Finer-CAM, Eq. 9): the image masked by each channel."""
    return scored(source, directions, source.activations)


def top_channel_scores(source: Source, contrast: Contrast, directions: Tensor, count: int = 300) -> Evidence:
    """gScoreCAM (Chen et al., ACCV 2022): only the channels with the largest mean gradient of the target.

    The channels are chosen for the target, so another target needs another run.
    """
    if contrast.groups.members:  # its evidence could not be distinguished from that for another group
        raise FinerCAMError("gscorecam explains single classes, not groups of them; use scorecam")
    own = source.under(relevance=False).gradients(one_hot(contrast.target, directions[:, 0])[:, None])
    activations = []
    for activation, gradient in zip(source.activations, own, strict=True):
        size = gradient[:, 0].mean(dim=places(activation, 2)).abs()
        best = size.sort(dim=1, descending=True, stable=True).indices[:, :count]
        activations.append(activation.gather(1, aligned(best, activation).expand(-1, -1, *activation.shape[2:])))
    evidence = scored(source, directions, tuple(activations))
    return Evidence(
        evidence.logits,
        directions,
        evidence.activations,
        evidence.gradients,
        evidence.baseline,
        contrast.target,
    )


def ablations(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Ablation-CAM (Desai & Ramaswamy, WACV 2020): how far each class falls when a channel is set to zero.

    The fall is not divided by `y_c`. The quotient would be the same map, or its negative where `y_c < 0`.
    """
    _check_rows_are_independent(source)
    falls = tuple(
        torch.stack([_falls(source, layer, sample) for sample in range(len(source.images))])
        for layer in range(len(source.layers))
    )
    return Evidence(
        source.logits.cpu().double(),
        directions,
        source.activations,
        tuple(_project(f, directions) for f in falls),
    )


def scored(source: Source, directions: Tensor, activations: tuple[Tensor, ...], vary: Vary | None = None) -> Evidence:
    """Logits of the images masked by each channel of `activations`, or their mean over what `vary` makes of a mask."""
    _check_rows_are_independent(source)
    source, count = _quick(source), len(source.images)
    empty = torch.zeros_like(source.images[:1])
    if source.readout.takes_samples:
        baseline = torch.cat([run_model(source.model, empty, source.readout.repeated(n, 1)) for n in range(count)])
    else:
        baseline = run_model(source.model, empty, source.readout).expand(count, -1)
    scores = tuple(
        torch.stack([masked_scores(source, n, of_layer[n], baseline[n], vary) for n in range(count)])
        for of_layer in activations
    )
    projected = tuple(_project(of_layer, directions) for of_layer in scores)
    return Evidence(
        source.logits.cpu().double(),
        directions,
        activations,
        projected,
        baseline,
    )


def _check_rows_are_independent(source: Source) -> None:
    """Refuse a `scores` that holds data of each image: variants of one image would be read with another's data."""
    readout = source.readout
    if readout.scores is None or readout.takes_samples or len(source.images) == 1:
        return
    try:
        alone = run_model(source.model, source.images[1:2], readout)
        same = torch.allclose(alone, source.logits[1:2], rtol=1e-2, atol=1e-3 * float(source.logits.abs().amax()))
    except (FinerCAMError, RuntimeError):
        same = False
    if not same:
        raise FinerCAMError(
            "scores= gives other logits for an image alone than within its batch, so it seems to hold data of each "
            "image; let it take the samples, as scores=lambda output, samples, view: …, or explain one image at a time"
        )


def _quick(source: Source) -> Source:
    """The same source with a model that runs faster and gives the same logits, where there is one."""
    if source.readout.scores is not None:
        return source
    with guest(source.model):
        quick = folded(source.model, source.images[:1], source.logits[:1])
    return source if quick is None else replace(source, model=quick)


def masked_scores(
    source: Source, sample: int, activation: Tensor, baseline: Tensor, vary: Vary | None = None
) -> Tensor:
    """Logits of one image masked by each of its channels `(C, h, w)`, scaled to [0, 1]: `(C, K)`.

    A constant channel masks everything out, so it scores exactly what the empty input does, without a run.
    """
    # On processors convolutions are faster on channels-last input, whatever layout the model's weights have.
    image = source.images[sample]
    memory = LAST[image.ndim] if image.device.type == "cpu" else torch.contiguous_format
    low, high = activation.flatten(1).aminmax(dim=1)
    alive = (high > low if vary is None else torch.ones_like(high)).nonzero().flatten()
    found = baseline.repeat(len(activation), 1)
    for chosen in _groups(alive, masks_at_once(image)):
        masks = upsample(activation[chosen], tuple(image.shape[1:]))[:, None]
        bottom, top = masks.flatten(1).aminmax(dim=1)
        span = (top - bottom).clamp(min=torch.finfo(masks.dtype).tiny)
        masks = (masks - aligned(bottom, masks)) / aligned(span, masks)
        readout = source.readout.repeated(sample, len(masks))
        runs = [
            run_model(source.model, (image * mask).contiguous(memory_format=memory), readout)
            for mask in ([masks] if vary is None else vary(masks))
        ]
        found[chosen] = torch.stack(runs).mean(0)
    return found


def batch_size(x: Tensor) -> int:
    return BATCH.get(x.device.type, 64)


def masks_at_once(image: Tensor) -> int:
    """How many masked copies of an image `(3, H, W)` run together: more where they are small, up to 64."""
    usual = batch_size(image)
    return max(usual, min(64, usual * USUAL_PIXELS // max(1, image[0].numel())))


def _groups(places: Tensor, size: int) -> tuple[Tensor, ...]:
    """Groups of at most `size`, and none of nothing: many models cannot run on no image."""
    return places.split(size) if len(places) else ()


def _project(scores: Tensor, directions: Tensor) -> Tensor:
    """Channel scores of all classes `(N, C, K)` along the kept directions `(N, M, K)`: `(N, M, C, 1, 1)`."""
    along = directions.to(scores.device, torch.promote_types(scores.dtype, torch.float32))
    with torch.autocast(scores.device.type, enabled=False):
        return torch.einsum("nck,nmk->nmc", scores.to(along), along)[..., None, None]


def _falls(source: Source, layer: int, sample: int) -> Tensor:
    """Logits lost by one sample when each channel of the layer is zero: `(C, K)`; nothing for a zero channel."""
    raw = source.run.activations[layer].detach()
    tokens_first = source.layouts[layer].kind == "tokens-first"
    own = raw[:, sample : sample + 1] if tokens_first else raw[sample : sample + 1]
    axis = source.channels(layer, own)
    alive = own.transpose(0, axis).flatten(1).any(dim=1).nonzero().flatten()
    logits = source.logits[sample]
    falls = logits.new_zeros(own.shape[axis], len(logits))
    copies = VariantRuns(source, layer, sample, batch_axis=1 if tokens_first else 0)
    for chosen in _groups(alive, batch_size(own)):
        keep = torch.ones(len(chosen), own.shape[axis], dtype=own.dtype, device=own.device)
        keep.scatter_(1, chosen[:, None], 0)
        shape = [1] * own.ndim
        shape[copies.batch_axis], shape[axis] = keep.shape
        falls[chosen] = logits - copies.run(own * keep.view(shape))
    return falls


class VariantRuns:
    """Runs one sample with the layer's output exchanged for many variants of it.

    The trunk runs once for all variants where the tail takes a batch of them beside a trunk of one, which a
    first trial decides by comparing the unchanged copies with the known logits; else once for each variant.
    """

    def __init__(self, source: Source, layer: int, sample: int, batch_axis: int) -> None:
        self.source, self.layer, self.sample, self.batch_axis = source, layer, sample, batch_axis
        self.image = source.images[sample : sample + 1]
        raw = source.run.activations[layer].detach().narrow(batch_axis, sample, 1)
        expected = source.logits[sample].expand(2, -1)
        try:
            once = self._run(torch.cat([raw, raw], dim=batch_axis), self.image)
            self.once = once.shape == expected.shape and torch.allclose(once, expected, rtol=1e-3, atol=1e-4)
        except (RuntimeError, ValueError, IndexError, AssertionError, FinerCAMError):
            self.once = False

    def run(self, variants: Tensor) -> Tensor:
        count = variants.shape[self.batch_axis]
        return self._run(variants, self.image if self.once else self.image.expand(count, *self.image.shape[1:]))

    def _run(self, variants: Tensor, images: Tensor) -> Tensor:
        name, module = self.source.layers[self.layer]
        readout = self.source.readout.repeated(self.sample, variants.shape[self.batch_axis])
        if name == INPUT:
            return run_model(self.source.model, variants, readout)
        with guest(self.source.model), exchanged(module, variants):  # no other thread may meet the exchange
            return run_model(self.source.model, images, readout)
