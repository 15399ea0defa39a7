"""Contrastive maps as a Captum attribution, for its noise tunnels, metrics and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from finercam.core.maps import upsample
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM

try:
    from captum.attr import Attribution
    from captum.log import log_usage  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:
    raise FinerCAMError("FinerCAMAttribution needs Captum: pip install 'finercam[captum]'") from None

__all__ = ["FinerCAMAttribution"]


class FinerCAMAttribution(Attribution):
    """Why the target and not its rivals, as an attribution of each input value.

    `settings` are those of FinerCAM (`method`, `layer`, `gamma`, `references`, `preset`, …).

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> FinerCAMAttribution(model).attribute(torch.rand(2, 3, 16, 16), target=1, against=3).shape
    torch.Size([2, 3, 16, 16])
    """

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__(model)
        self.explain = FinerCAM(model, **{"keep": "question", "keep_images": False, **settings})

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: Any = None,
        against: Any = None,
        *,
        gamma: float | None = None,
        relu_attributions: bool = False,
        broadcast: bool = True,
    ) -> Any:
        """The signed map on the inputs' grid, `(N, C, H, W)`: each channel holds an equal share of it.

        `target` and `against` are as in FinerCAM; a mapping `{target: rivals}` names rivals by the target's class, and
        is what to use under a noise tunnel, which repeats inputs and targets but not `against`. `relu_attributions`
        sets what speaks against the target to zero. Without `broadcast` the map has one channel, `(N, 1, H, W)`.

        Raises FinerCAMError for inputs, classes or layers that cannot be used.
        """
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        if isinstance(inputs, tuple) and len(inputs) != 1:
            raise FinerCAMError(f"{len(inputs)} input tensors: expected one, the images (N, C, H, W)")
        classes = target.flatten().tolist() if isinstance(target, Tensor) else target
        if isinstance(against, Mapping):
            against = _rivals_of(against, classes, len(images))
        answer = self.explain(images, classes if not _is_single(classes) else classes[0], against, gamma=gamma)
        maps = upsample(answer.signed, answer.image_size)[:, None]
        maps = maps.clamp(min=0) if relu_attributions else maps
        maps = (maps / images.shape[1]).expand_as(images) if broadcast else maps
        return (maps.contiguous(),) if isinstance(inputs, tuple) else maps.contiguous()


def _rivals_of(against: Mapping[Any, Any], classes: Any, count: int) -> list[list[Any]]:
    """For each image the rivals of its target."""
    if classes is None:
        raise FinerCAMError("against={target: rivals} needs targets; give target=")
    of_each = classes if isinstance(classes, list | tuple) else [classes]
    of_each = list(of_each) * count if len(of_each) == 1 else of_each
    missing = [one for one in of_each if one not in against]
    if missing:
        raise FinerCAMError(f"against={dict(against)!r} names no rival of the target {missing[0]!r}")
    rivals = [against[one] for one in of_each]
    return [list(one) if isinstance(one, list | tuple) else [one] for one in rivals]


def _is_single(classes: Any) -> bool:
    """Whether one class is meant for all images, as Captum writes it in a tensor or list of one."""
    return isinstance(classes, list) and len(classes) == 1
