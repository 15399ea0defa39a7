"""Sanity checks: a map should change if the model's weights or the explained class are changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finercam.errors import FinerCAMError, suggest
from finercam.metrics.checks import as_classes, as_maps
from finercam.metrics.ranks import spearman

__all__ = ["Cascade", "random_logit", "randomise_parameters"]

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, target (N,)) -> maps (N, H, W)


@dataclass(frozen=True)
class Cascade:
    """Layers from the top down, and the rank correlation `(N, L)` with the trained model's map after each was randomised."""

    layers: tuple[str, ...]
    correlation: Tensor

    @property
    def final(self) -> Tensor:
        """The correlation with all layers randomised, `(N,)` in [−1, 1]; it should be near 0."""
        return self.correlation[:, -1]

    @property
    def mean(self) -> Tensor:
        """The mean correlation over the cascade, `(N,)`, lower is better."""
        return self.correlation.mean(1)


def randomise_parameters(
    model: nn.Module,
    explain: Explain,
    images: Tensor,
    target: int | Tensor | list[int],
    *,
    layers: Sequence[str] | None = None,
    absolute: bool = False,
    seed: int = 0,
) -> Cascade:
    """Randomise the model's layers one after the other from the top down and measure how much the map changes.

    Compares `explain(model, images, target)` before and after each step by `spearman` (of |S| with `absolute`). Layers
    are the modules that have parameters, in reverse order of definition, or `layers` in the given order. A layer is
    initialised by its `reset_parameters`, or from a Gaussian with the mean and deviation of each parameter. The
    model's weights and buffers are restored, also after an error, and torch's random state does not change. Costs one
    explanation per layer. Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
    >>> explain = lambda m, x, c: m(x)[range(len(x)), c].detach()
    >>> randomise_parameters(model, explain, torch.rand(1, 3, 8, 8), 0).layers
    ('1', '0')
    """
    owners = {
        name: module for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))
    }
    chosen = tuple(reversed(owners)) if layers is None else tuple(layers)
    for name in chosen:
        if name not in owners:
            raise FinerCAMError(f"no layer with parameters is called {name!r}.{suggest(name, owners)}")
    if not chosen:
        raise FinerCAMError(f"{type(model).__name__} has no layer with parameters to randomise.")
    ids = as_classes(target, images)
    prepare = torch.abs if absolute else torch.clone
    with _restored(model):
        original = prepare(as_maps(explain(model, images, ids)))
        columns = []
        for step, name in enumerate(chosen):
            _randomise(owners[name], seed + step)
            columns.append(spearman(original, prepare(as_maps(explain(model, images, ids)))))
    return Cascade(chosen, torch.stack(columns, 1))


def random_logit(
    model: nn.Module,
    explain: Explain,
    images: Tensor,
    target: int | Tensor | list[int],
    *,
    classes: int | None = None,
    others: Tensor | None = None,
    absolute: bool = False,
    seed: int = 0,
) -> Tensor:
    """Rank correlation of the target's map and another class's map, `(N,)` in [−1, 1]; lower is better.

    The other class is drawn at random from `classes` classes, or given as `others` `(N,)`. A map that is the same for
    every class does not explain the target. Source: Sixt et al., "When explanations lie", ICML 2020, with Spearman's
    ρ instead of SSIM, as in the cascade.

    >>> explain = lambda m, x, c: m(x)[range(len(x)), c].detach()
    >>> model = nn.Conv2d(3, 5, 1)
    >>> round(random_logit(model, explain, torch.rand(1, 3, 8, 8), 0, others=torch.tensor([0])).item(), 6)
    1.0
    """
    ids = as_classes(target, images)
    if others is None:
        if classes is None or classes < 2:
            raise FinerCAMError(f"classes is {classes}: say how many there are (2 or more), or give others.")
        # A shift of 1 to K − 1 never gives the target itself.
        shift = torch.randint(1, classes, (len(images),), generator=torch.Generator().manual_seed(seed))
        others = (ids + shift.to(ids.device)) % classes
    prepare = torch.abs if absolute else torch.clone
    first = prepare(as_maps(explain(model, images, ids)))
    return spearman(first, prepare(as_maps(explain(model, images, as_classes(others, images, what="others")))))


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore parameters and buffers in place, also after an error."""
    tensors = [*model.parameters(), *model.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, saved in zip(tensors, kept, strict=True):
                tensor.copy_(saved)


def _randomise(layer: nn.Module, seed: int) -> None:
    device = next(layer.parameters(recurse=False)).device
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), torch.no_grad():
        torch.manual_seed(seed)
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
            return
        for parameter in layer.parameters(recurse=False):
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            noise = torch.randn(parameter.shape, dtype=torch.float32).to(parameter)
            parameter.copy_(parameter.mean() + noise * spread)
