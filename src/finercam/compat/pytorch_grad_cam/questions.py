"""The targets of a call as scores `(N, 1)`, which the engine differentiates like logits of one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from finercam.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from finercam.core.logits import describe, find_logits
from finercam.core.views import View
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["Questions", "highest", "one_number"]

Target = Callable[[Any], Tensor]
Pick = Callable[[Tensor], Target]
Back = Callable[[Tensor], Tensor]


class Questions:
    """What is explained of each image: the caller's targets, or what `pick` makes of the image's own logits.

    A picked target stays the same for the whole call, however its image is masked, mirrored or scaled. `back` turns a
    dense output `(N, K, H, W)` of changed images the right way round before a target reads it.
    """

    def __init__(self, targets: Sequence[Target] | None, count: int, pick: Pick) -> None:
        if targets is not None and len(targets) != count:
            raise FinerCAMError(f"{len(targets)} targets for {count} images; give one for each")
        self.targets: dict[int, Target] = {} if targets is None else dict(enumerate(targets))
        self.pick = pick
        self.count = count
        self.back: Back | None = None
        self.outputs: Any = None

    def scores(self, output: Any, samples: Tensor, view: View) -> Tensor:
        """One number for each sample, `(N, 1)`; remembers the model's output for the images themselves."""
        rows = _rows(output, len(samples))
        if self.back is not None and isinstance(rows, Tensor) and rows.ndim == 4:
            rows = self.back(rows)
        if self.outputs is None and samples.tolist() == list(range(self.count)):
            self.outputs = _detached(output)
        return torch.stack([self._score(row, sample) for row, sample in zip(rows, samples.tolist(), strict=True)])

    def _score(self, row: Any, sample: int) -> Tensor:
        if sample not in self.targets:
            self.targets[sample] = self.pick(row)
        return one_number(self.targets[sample], row).reshape(1)

    @property
    def chosen(self) -> list[Target]:
        """The targets of all images, once their logits are known."""
        return [self.targets[sample] for sample in range(self.count)]


def highest(logits: Any) -> Target:
    """The target with the highest of an image's logits `(K,)`."""
    if not isinstance(logits, Tensor) or logits.ndim != 1:
        raise FinerCAMError(
            f"targets=None takes the highest logit of each image, and the model gave {describe(logits)} for one; give "
            "targets, one for each image"
        )
    return ClassifierOutputTarget(int(logits.argmax()))


def one_number(target: Target, output: Any) -> Tensor:
    """What a target reads from one image's output; raises FinerCAMError if it fails or gives more than one number."""
    try:
        value = target(output)
    except FinerCAMError:
        raise
    except Exception as error:
        name = type(target).__name__
        raise FinerCAMError(
            f"target {name} failed on the output of one image, {describe(output)}: {one_line(error)}"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise FinerCAMError(
            f"target {type(target).__name__} gave {describe(value)} for one image; expected one number, such as one "
            "class's logit"
        )
    return value


def _rows(output: Any, count: int) -> Any:
    """The model's output image by image: a tensor `(N, …)` or a list; else the logits that are found in it."""
    if isinstance(output, Tensor) or (isinstance(output, list) and len(output) == count):
        return output
    return find_logits(output)


def _detached(output: Any) -> Any:
    return output.detach() if isinstance(output, Tensor) else output
