"""Extractors that need no gradient: the head's weights, or the scores of masked inputs."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

from finercam.compat.torchcam.methods.core import Extractor
from finercam.compat.torchcam.methods.hooked import WrongType
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.core.layers import resolve_layers
from finercam.core.maps import aligned
from finercam.errors import FinerCAMError
from finercam.methods.smoothscore import integrated_scores, noisy_scores
from finercam.methods.source import Source

__all__ = ["CAM", "ISCAM", "SSCAM", "ScoreCAM"]

logger = logging.getLogger("finercam.compat.torchcam")


class CAM(Extractor):
    """CAM (Zhou et al., CVPR 2016): channels weighted by the class's row of a linear head on their mean.

    `fc_layer` is the head, a module or its name; None takes the model's only `nn.Linear`.
    """

    rectified = False
    needs_scores = False
    needs_graph = False

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        fc_layer: nn.Module | str | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        if isinstance(target_layer, list) and len(target_layer) > 1:
            raise FinerCAMError("CAM reads the one layer before the pooling; give one target_layer")
        self.rows = _rows(model, fc_layer)
        super().__init__(model, target_layer, input_shape, **kwargs)

    def gather(self, source: Source, contrast: Contrast, kept: Tensor) -> Evidence:
        (activation,) = source.activations
        rows = self.rows.to(activation)
        if rows.shape != (kept.shape[2], activation.shape[1]):
            raise FinerCAMError(
                f"the head's weights are {tuple(rows.shape)}, and there are {kept.shape[2]} classes and "
                f"{activation.shape[1]} channels; name the head that follows the layer's mean with fc_layer="
            )
        alpha = aligned(kept.to(rows) @ rows, activation[None])
        return Evidence(source.logits.cpu().double(), kept, (activation,), (alpha,))


class ScoreCAM(Extractor):
    """Score-CAM: channels weighted by the scores of the input masked by them.

    `batch_size` is taken for torch-cam's sake: how many masked inputs run at once is chosen by the device.
    """

    method = "scorecam-softmax"
    needs_scores = False
    needs_graph = False
    reruns = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.bs = batch_size

    def _extra_repr(self) -> str:
        return f"batch_size={self.bs}"


class SSCAM(ScoreCAM):
    """SS-CAM: Score-CAM with noise of `std` on the masks, averaged over `num_samples`."""

    method = "sscam"

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def gather(self, source: Source, contrast: Contrast, kept: Tensor) -> Evidence:
        return noisy_scores(source, contrast, kept, self.num_samples, self.std)

    def _extra_repr(self) -> str:
        return f"batch_size={self.bs}, num_samples={self.num_samples}, std={self.std}"


class ISCAM(ScoreCAM):
    """IS-CAM: Score-CAM averaged over `num_samples` strengths of the masks."""

    method = "iscam"

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples

    def gather(self, source: Source, contrast: Contrast, kept: Tensor) -> Evidence:
        return integrated_scores(source, contrast, kept, self.num_samples)


def _rows(model: nn.Module, layer: Any) -> Tensor:
    """The weights `(K, C)` of the head that the caller named, or of the only linear layer."""
    if layer is None:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if len(linear) != 1:
            raise FinerCAMError(f"CAM needs one linear head, and the model has {len(linear)}; name it with fc_layer=")
        layer = linear[0]
        logger.warning("no fc_layer was given: %r was found", layer)
    if not isinstance(layer, (str, nn.Module)):
        raise WrongType(f"fc_layer={layer!r}: expected a module or its dotted name")
    ((name, module),) = resolve_layers(model, layer, next(model.parameters()))
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or weight[0, 0].numel() != 1:
        raise FinerCAMError(f"fc_layer {name!r} has no weights (K, C); name a linear layer or a 1×1 convolution")
    return weight.detach().flatten(1)
