"""Maps the slow way, for `fuzz.silent`: one image at a time, autograd through the whole model, nothing of finercam.

The formulas are those of the papers, as the docstrings of `finercam.methods` quote them. A layer is looked at by adding
zeros to what it gives; derivatives with respect to these zeros are those with respect to the activations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuzz.models import Attention, Gate, MultiHead

__all__ = ["Look", "Question", "direction", "logits", "picked", "scaled", "signed"]


LARGER = 1.5
"""Scale of the view whose grid a map then has."""
LAST = ("block.norm", "block.mix")
"""Ends of the names of layers whose channels come last."""


@dataclass(frozen=True)
class Look:
    """How an image is seen; what a `scores=` gets as its view."""

    flip: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Question:
    """One image's question, and where it is looked for."""

    method: str
    layers: tuple[str, ...]
    target: int
    rivals: tuple[int, ...]
    gamma: float
    weights: str
    fusion: str = "mean"
    looks: tuple[Look, ...] = (Look(),)


Read = Callable[[Any, Look], Tensor]
"""Logits `(1, K)` in the model's output for the image, under a look."""


def logits(model: nn.Module, image: Tensor, read: Read, look: Look = Look()) -> Tensor:
    """Logits `(K,)` of one image `(1, 3, H, W)`."""
    return read(model(image), look)[0]


def picked(strategy: str, count: int, y: Tensor, target: int, rows: Tensor, confusion: Tensor) -> list[int]:
    """The rivals of a target by a strategy, the best first, ties to the lower id."""
    others = [k for k in range(len(y)) if k != target]
    cosine = F.cosine_similarity(rows[target][None], rows)
    keys: dict[str, Callable[[int], float]] = {
        "predicted": lambda k: -float(y[k]),
        "nearest": lambda k: abs(float(y[k] - y[target])),
        "similar": lambda k: -float(cosine[k]),
        "confused": lambda k: -float(confusion[k, target] + confusion[target, k]),
        "all": lambda k: k,
    }
    ranked = sorted(others, key=keys[strategy])
    return ranked if strategy == "all" else ranked[:count]


def direction(y: Tensor, question: Question) -> Tensor:
    """`∂z/∂y (K,)` of the contrast at the image's own logits `(K,)`, by autograd through the objective as written."""
    y = y.detach().double().clone().requires_grad_()
    rivals = list(question.rivals)
    own, others = y[question.target], y[rivals]
    if question.weights == "released":
        p = y.softmax(0)[rivals]
        z = (p * (own - question.gamma * others)).sum() / (p.sum() + 1e-9)
    elif question.weights == "probability":
        z = own - question.gamma * (others.detach().softmax(0) * others).sum()
    else:
        z = own - question.gamma * (others.mean() if rivals else 0.0)
    return torch.autograd.grad(z, y)[0]


def signed(model: nn.Module, image: Tensor, question: Question, y: Tensor, read: Read) -> Tensor:
    """The signed map `(h, w)` of one image `(1, 3, H, W)`; `y (K,)` are its logits, which weight the rivals."""
    v, maps, size = direction(y, question), list[Tensor](), ()
    for look in question.looks:
        seen = image.flip(-1) if look.flip else image
        if look.scale != 1.0:
            sides = [max(1, round(side * look.scale)) for side in image.shape[-2:]]
            seen = F.interpolate(seen.double(), sides, mode="bilinear", align_corners=False, antialias=True).to(image)
        of_layers = _of_layers(model, seen, question, v, lambda output, look=look: read(output, look))
        one = _fused(of_layers, question.fusion)
        if look.scale >= LARGER and not look.flip:
            size = tuple(one.shape)
        if len(of_layers) > 1 and len(question.looks) > 1 and one.any():  # fused maps have no common scale
            one = one / one.abs().max()
        maps.append(one.flip(-1) if look.flip else one)
    return torch.stack([_resized(one, size or tuple(maps[0].shape)) for one in maps]).mean(0)


def scaled(one: Tensor, size: tuple[int, int]) -> Tensor:
    """What is shown `(H, W)`: the positive part of the enlarged map, divided by its peak."""
    large = _resized(one, size).clamp(min=0)
    return large / large.max() if large.max() > 0 else large


def _resized(one: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(one.shape) == tuple(size):
        return one
    return F.interpolate(one[None, None], list(size), mode="bilinear", align_corners=False)[0, 0]


def _fused(maps: list[Tensor], fusion: str) -> Tensor:
    if len(maps) == 1:
        return maps[0]
    size = max((tuple(one.shape) for one in maps), key=lambda shape: shape[0] * shape[1])
    large = [_resized(one / one.abs().max() if one.any() else one, size) for one in maps]
    if fusion == "mean":
        return sum(large) / len(large)  # type: ignore[return-value]
    if fusion == "weighted":
        total = sum(one / one.abs().mean() if one.any() else one for one in large)
        return total / total.abs().max() if total.any() else total  # type: ignore[union-attr, return-value]
    both, neither = torch.ones(size, dtype=large[0].dtype), torch.ones(size, dtype=large[0].dtype)
    for one in large:
        both, neither = both * one.clamp(min=0), neither * (-one).clamp(min=0)
    product = both - neither
    return product if fusion == "product" else product.sign() * product.abs() ** (1 / len(large))


# --- where evidence comes from


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """While the model runs: what the layers gave, and the zeros that were added to it."""
    given: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def add(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            given[name], zeros[name] = output.detach().clone(), torch.zeros_like(output, requires_grad=True)
            return output + zeros[name]

        return add

    with ExitStack() as stack:
        for name in layers:
            if name != "input":
                stack.callback(model.get_submodule(name).register_forward_hook(hook(name)).remove)
        yield given, zeros


def _maps(raw: Tensor, name: str, model: Any, image: Tensor) -> Tensor:
    """A layer's output or gradient for one image as `(C, h, w)`."""
    if raw.ndim == 3:
        stride = model.patch.kernel_size[0]
        grid = (image.shape[2] // stride, image.shape[3] // stride)
        return raw[0, -grid[0] * grid[1] :].T.unflatten(1, grid)
    return raw[0].permute(2, 0, 1) if name.endswith(LAST) else raw[0]


def _of_layers(
    model: Any, image: Tensor, question: Question, v: Tensor, read: Callable[[Any], Tensor]
) -> list[Tensor]:
    method = question.method
    if method == "legrad":
        return [_legrad(model, image, question, v, read)]
    if method in ("scorecam", "scorecam-softmax", "gscorecam"):
        return _score_maps(model, image, question, v, read)
    if method in ("ablationcam", "reciprocam"):
        with torch.no_grad(), _watched(model, question.layers) as (given, _):
            y = read(model(image))[0]
        made = _ablation_map if method == "ablationcam" else _reciprocal_map
        return [made(model, image, name, given[name].clone(), question, v, y, read) for name in question.layers]
    if method == "smoothgradcam++":
        return _smooth_maps(model, image, question, v, read)
    if method == "shapleycam":  # fused attention has no second derivative
        model = _swapped(model, keep_weights=True)
    if method == "relevance":
        model, method = _swapped(model, keep_weights=False), "hirescam"
    found = _gradients(model, image, question, v, read, second=method == "shapleycam")
    return [RULES[method](a, g) for a, g in found]


def _gradients(
    model: Any, image: Tensor, question: Question, v: Tensor, read: Callable[[Any], Tensor], second: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """For each layer activations and the gradient of the contrast, `(C, h, w)` each; for ShapleyCAM `G - ½ H A`."""
    image = image.detach().clone().requires_grad_("input" in question.layers)
    with _watched(model, question.layers) as (given, zeros):
        y = read(model(image))[0]
    given, zeros = {**given, "input": image.detach()}, {**zeros, "input": image}
    orthogonal = question.weights == "orthogonal"
    classes = [question.target, *question.rivals]
    seeds = list(F.one_hot(torch.tensor(classes), len(y)).to(y)) if orthogonal else [v.to(y)]
    of_seeds = [_differentiated(seed @ y, question.layers, given, zeros, second) for seed in seeds]
    pairs = []
    for at, name in enumerate(question.layers):
        raws = [found[at] for found in of_seeds]
        a, gs = _maps(given[name], name, model, image), [_maps(raw, name, model, image) for raw in raws]
        if name == "input" and question.method == "finecam":
            a = a - _blurred(a, 0.05 * min(a.shape[1:]))
        elif name == "input":
            a, gs = torch.ones_like(a[:1]), [_pixel_shares(given[name][0], g) for g in gs]
        g = _without_projection(gs, question.gamma, [one.mean((1, 2)) for one in gs]) if orthogonal else gs[0]
        pairs.append((a, g))
    return pairs


def _differentiated(
    z: Tensor, layers: Sequence[str], given: dict[str, Tensor], zeros: dict[str, Tensor], second: bool
) -> list[Tensor]:
    at = [zeros[name] for name in layers]
    first = torch.autograd.grad(z, at, create_graph=second, retain_graph=True, materialize_grads=True)
    if not second:
        return list(first)
    found = []
    for name, gradient in zip(layers, first, strict=True):
        along = (gradient * given[name]).sum()
        curve = None
        if along.requires_grad:
            (curve,) = torch.autograd.grad(along, zeros[name], retain_graph=True, allow_unused=True)
        found.append(gradient.detach() if curve is None else gradient.detach() - curve / 2)
    return found


def _without_projection(of_classes: list[Tensor], gamma: float, alphas: list[Tensor]) -> Tensor:
    """What is left of the target's (the first's) when γ times its projection on the rivals' is taken away."""
    if len(of_classes) == 1:
        return of_classes[0]
    basis = torch.stack(alphas[1:], 1).double()
    beta = torch.linalg.pinv(basis, rtol=1e-5) @ alphas[0].double()
    return of_classes[0] - gamma * sum(b * one for b, one in zip(beta, of_classes[1:], strict=True))


# --- rules: activations and gradients (C, h, w) to a map (h, w)


def _gradcam(a: Tensor, g: Tensor) -> Tensor:
    return sum(g[k].mean() * a[k] for k in range(len(a)))  # type: ignore[return-value]


def _gradcam_plusplus(a: Tensor, g: Tensor) -> Tensor:
    total = torch.zeros_like(a[0])
    for k in range(len(a)):
        below = 2 + a[k].sum() * g[k]
        total = total + (torch.where(below == 0, 0.0, 1 / below) * g[k].clamp(min=0)).sum() * a[k]
    return total


def _xgradcam(a: Tensor, g: Tensor) -> Tensor:
    total = torch.zeros_like(a[0])
    for k in range(len(a)):
        mean, mass, size = g[k].mean(), a[k].sum(), a[k].abs().sum()
        weight = mean
        if mass != 0:
            weight = mean + ((g[k] - mean) * a[k]).sum() / mass * min(1.0, float(32 * mass / size) ** 2)
        total = total + weight * a[k]
    return total


def _eigen(a: Tensor, g: Tensor) -> Tensor:
    features = (g * a).flatten(1).T.double()
    features = features - features.mean(0)
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    component = left[:, 0] * values[0]
    shares = (g * a).flatten(1).T.double()
    if shares.sum(1).abs().sum() < shares.abs().sum() / 32:
        features = shares.clamp(min=0) - shares.clamp(min=0).mean(0)
    return (component if component @ features.sum(1) >= 0 else -component).unflatten(0, a.shape[1:])


def _finecam(a: Tensor, g: Tensor) -> Tensor:
    """HiResCAM, softened by 1.5 % of the shorter side where that is at least a quarter of a cell."""
    found = (a * g).sum(0)
    sigma = 0.015 * min(found.shape)
    return _blurred(found[None], sigma)[0] if sigma >= 0.25 else found


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _gradcam,
    "shapleycam": _gradcam,
    "gradcam++": _gradcam_plusplus,
    "xgradcam": _xgradcam,
    "hirescam": lambda a, g: (a * g).sum(0),
    "layercam": lambda a, g: (g.clamp(min=0) * a).sum(0),
    "gradcam-elementwise": lambda a, g: (g * a).clamp(min=0).sum(0),
    "eigengradcam": _eigen,
    "finecam": _finecam,
}


# --- methods with ways of their own


def _score_maps(
    model: Any, image: Tensor, question: Question, v: Tensor, read: Callable[[Any], Tensor]
) -> list[Tensor]:
    """Finer-CAM, Eq. 9: each channel as a mask before the image, one at a time."""
    with torch.no_grad(), _watched(model, question.layers) as (given, _):
        model(image)
    with torch.no_grad():
        base = read(model(torch.zeros_like(image)))[0]
        found = []
        for name in question.layers:
            a = image[0] if name == "input" else _maps(given[name], name, model, image)
            rows = [_behind(model, image, channel, base, read) for channel in a]
            alpha = _weights_of(torch.stack(rows), question, v) - base[question.target]
            if question.method == "scorecam-softmax":
                alpha = alpha.softmax(0)
            found.append(sum(w * one for w, one in zip(alpha, a, strict=True)))
    return found  # type: ignore[return-value]


def _behind(model: Any, image: Tensor, channel: Tensor, base: Tensor, read: Callable[[Any], Tensor]) -> Tensor:
    if channel.max() == channel.min():
        return base
    mask = _resized(channel, image.shape[-2:])
    low, high = mask.min(), mask.max()
    return read(model(image * (mask - low) / (high - low if high > low else 1.0)))[0]


def _weights_of(rows: Tensor, question: Question, v: Tensor) -> Tensor:
    """Channel weights `(C,)` of the channels' logits `(C, K)` under the contrast."""
    if question.weights != "orthogonal":
        return rows @ v.to(rows)
    of_classes = [rows[:, k] for k in (question.target, *question.rivals)]
    return _without_projection(of_classes, question.gamma, of_classes)


@contextmanager
def _replaced(model: Any, name: str, by: Tensor) -> Iterator[None]:
    handle = model.get_submodule(name).register_forward_hook(lambda *_: by.clone())
    try:
        yield
    finally:
        handle.remove()


def _ablation_map(
    model: Any, image: Tensor, name: str, raw: Tensor, question: Question, v: Tensor, y: Tensor, read: Any
) -> Tensor:
    a, rows = _maps(raw, name, model, image), []
    axis = 1 if raw.ndim == 4 and not name.endswith(LAST) else raw.ndim - 1
    with torch.no_grad():
        for k in range(len(a)):
            without = raw.clone()
            without.select(axis, k).zero_()
            with _replaced(model, name, without):
                rows.append(y - read(model(image))[0])
        alpha = _weights_of(torch.stack(rows), question, v)
    return sum(w * one for w, one in zip(alpha, a, strict=True))  # type: ignore[return-value]


def _reciprocal_map(
    model: Any, image: Tensor, name: str, raw: Tensor, question: Question, v: Tensor, y: Tensor, read: Any
) -> Tensor:
    height, width = _maps(raw, name, model, image).shape[1:]
    found = torch.zeros(height, width, dtype=raw.dtype)
    with torch.no_grad():
        for i in range(height):
            for j in range(width):
                window = torch.zeros(height, width, dtype=raw.dtype)
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < height and 0 <= j + dj < width:
                            window[i + di, j + dj] = (1 - abs(di) / 2) * (1 - abs(dj) / 2)
                with _replaced(model, name, _seen_through(raw, window, name)):
                    found[i, j] = read(model(image))[0] @ v.to(raw)
    return found - found.mean()


def _seen_through(raw: Tensor, window: Tensor, name: str) -> Tensor:
    if raw.ndim == 4:
        return raw * (window[None, :, :, None] if name.endswith(LAST) else window)
    prefix = raw.shape[1] - window.numel()
    return torch.cat([raw[:, :prefix], raw[:, prefix:] * window.flatten()[:, None]], 1)


def _smooth_maps(model: Any, image: Tensor, question: Question, v: Tensor, read: Any) -> list[Tensor]:
    """SmoothGradCAM++ (Omeiza et al., 2019), four copies with noise of 15 % of the range, always the same noise."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.15 * (image.max() - image.min())
    runs, plain = [], question.weights != "orthogonal"
    classes = [question.target, *question.rivals]
    for _ in range(4):
        noisy = image + spread * torch.randn(image.shape[1:], generator=generator).to(image)
        if plain:
            runs.append([_gradients(model, noisy, question, v, read)])
        else:
            seeds = F.one_hot(torch.tensor(classes), len(v)).to(v)
            one = Question(question.method, question.layers, question.target, (), 0.0, "mean")
            runs.append([_gradients(model, noisy, one, seed, read) for seed in seeds])
    found = []
    for at in range(len(question.layers)):
        a = torch.stack([run[0][at][0] for run in runs]).mean(0)
        gs = [torch.stack([run[s][at][1] for run in runs]) for s in range(len(runs[0]))]
        alphas = [g.mean((2, 3)).flatten() for g in gs]
        g = gs[0] if plain else _without_projection(gs, question.gamma, alphas)
        second, third, first = (g**2).mean(0), (g**3).mean(0), g.mean(0)
        ratio = torch.where(second == 0, 0.0, third / second)
        below = 2 + a.sum((1, 2), keepdim=True) * ratio
        weights = (first.clamp(min=0) * torch.where(below == 0, 0.0, 1 / below)).sum((1, 2))
        found.append((weights[:, None, None] * a).sum(0))
    return found


def _legrad(model: Any, image: Tensor, question: Question, v: Tensor, read: Any) -> Tensor:
    """LeGrad, Eq. 8: the positive gradients of all attention weights, averaged over queries, heads and blocks."""
    model = _swapped(model, keep_weights=True)
    y = read(model(image))[0]
    weights = [module.zeros for module in model.modules() if isinstance(module, _WrittenAttention)]
    found = torch.autograd.grad(v.to(y) @ y, weights)
    columns = torch.stack([g[0].clamp(min=0).mean((0, 1)) for g in found]).mean(0)
    return _maps(columns[None, :, None], "", model, image)[0]


# --- models whose gradients are others: attention weights kept or held constant, scales and gates held constant


def _swapped(model: nn.Module, keep_weights: bool) -> Any:
    """A copy whose attentions keep their weights, or whose attentions, normalisations and gates are constant factors."""
    found = copy.deepcopy(model)
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (Attention, MultiHead)):
                setattr(parent, name, _WrittenAttention(child, keep_weights))
            elif not keep_weights and type(child) in _CONSTANT:
                setattr(parent, name, _Rule(child, _CONSTANT[type(child)]))
    if not keep_weights:
        for module in found.modules():
            if type(module).__name__ == "ChannelsLast":
                module.forward = lambda x, m=module: (  # type: ignore[method-assign]
                    x + _gelu(None, m.mix(m.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
                )
    return found


class _WrittenAttention(nn.Module):
    def __init__(self, of: Any, keep_weights: bool) -> None:
        super().__init__()
        self.keep_weights = keep_weights
        whole = isinstance(of, MultiHead)
        self.heads = of.inner.num_heads if whole else of.heads
        self.weight = of.inner.in_proj_weight if whole else of.qkv.weight
        self.bias = of.inner.in_proj_bias if whole else of.qkv.bias
        self.out = of.inner.out_proj if whole else of.proj

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.weight, self.bias).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        if self.keep_weights:
            self.zeros = torch.zeros_like(weights, requires_grad=True)
            weights = weights + self.zeros
        else:
            weights = weights.detach()
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class _Rule(nn.Module):
    def __init__(self, inner: nn.Module, rule: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.rule = inner, rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self.inner, x)


def _layer_norm(norm: Any, x: Tensor) -> Tensor:
    scale = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt().detach()
    return (x - x.mean(-1, keepdim=True)) * scale * norm.weight + norm.bias


def _group_norm(norm: Any, x: Tensor) -> Tensor:  # of one group
    scale = (x.var((1, 2, 3), unbiased=False, keepdim=True) + norm.eps).rsqrt().detach()
    centred = (x - x.mean((1, 2, 3), keepdim=True)) * scale
    return centred * norm.weight[:, None, None] + norm.bias[:, None, None]


def _gelu(_module: Any, x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x / 2**0.5))).detach()


def _gate(gate: Any, x: Tensor) -> Tensor:
    return x * gate.mix(x.mean((2, 3), keepdim=True)).sigmoid().detach()


_CONSTANT: dict[type, Callable[[Any, Tensor], Tensor]] = {
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.GELU: _gelu,
    Gate: _gate,
}


# --- pixels


def _pixel_shares(image: Tensor, gradient: Tensor) -> Tensor:
    """Gradient times the difference from a blurred image (5 % of the side), summed over colours, smoothed (2 %)."""
    side = min(image.shape[-2:])
    shares = (gradient * (image - _blurred(image, 0.05 * side))).sum(0, keepdim=True)
    return _blurred(shares, 0.02 * side)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (1, 2):
        length = x.shape[axis]
        total = torch.zeros_like(x)
        for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
            at = (torch.arange(length) + offset).clamp(0, length - 1)
            total = total + weight * x.index_select(axis, at)
        x = total
    return x
