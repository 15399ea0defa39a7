"""Extractors made of others: a contrast under torch-cam's names, and the product of several layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from finercam.compat.torchcam.methods.core import Extractor, checked_cams, resized
from finercam.compat.torchcam.methods.hooked import WrongType
from finercam.compat.torchcam.methods.plain import GradCAM, GradCAMpp
from finercam.core.fuse import fuse
from finercam.errors import FinerCAMError
from finercam.question import checked_gammas

__all__ = ["FinerCAM", "LeGrad", "RefineCAM"]


class _Composed:
    """An extractor over another one, whose hooks and attributes it shares."""

    base_cam: Extractor

    def __getattr__(self, name: str) -> Any:
        if name == "base_cam":
            raise AttributeError(name)
        return getattr(self.base_cam, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.base_cam.__exit__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_method={type(self.base_cam).__name__}, {self._extra_repr()})"

    def _extra_repr(self) -> str:
        return f"target_layer={self.base_cam.target_names}"


class FinerCAM(_Composed):
    """Finer-CAM: why `class_idx`, and not `comparison_idx`? With any extractor as `base_method`.

    Without `comparison_idx` the `num_references` classes with the nearest scores are the rivals.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[Extractor] = GradCAM,
        gamma: float = 0.6,
        num_references: int = 3,
        **base_kwargs: Any,
    ) -> None:
        _check_base(base_method)
        if isinstance(gamma, bool) or not isinstance(gamma, int | float):
            raise WrongType(f"gamma={gamma!r}: expected a real number")
        if isinstance(num_references, bool) or not isinstance(num_references, int):
            raise WrongType(f"num_references={num_references!r}: expected an integer")
        if num_references < 1:
            raise FinerCAMError(f"num_references={num_references}: expected a positive number")
        self.gamma, self.num_references = float(checked_gammas(gamma)), num_references
        self.base_cam = base_method(model, target_layer, input_shape=input_shape, **base_kwargs)

    def __call__(
        self,
        class_idx: int | list[int],
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One map `(N, h, w)` for each layer; `comparison_idx` is one class, a list for all images, or a list an image."""
        if kwargs.get("targets") is not None:
            raise FinerCAMError("FinerCAM does not support targets: a contrast needs class_idx and rival classes")
        if not isinstance(scores, Tensor):
            kind = FinerCAMError if scores is None else WrongType
            raise kind("scores must be a tensor (N, K), what the model returned; scores is required for a contrast")
        rivals = self._rivals(comparison_idx, scores)
        asked = {"against": rivals, "gamma": self.gamma, "num_references": self.num_references}
        return self.base_cam(class_idx, scores, normalized, **asked, **kwargs)

    compute_cams = __call__

    def fuse_cams(self, cams: list[Tensor], target_shape: tuple[int, ...] | None = None) -> Tensor:
        """As the base extractor fuses them."""
        return self.base_cam.fuse_cams(cams, target_shape)

    @staticmethod
    def _rivals(named: Any, scores: Tensor) -> str | list[list[int]]:
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise FinerCAMError(
                f"scores of shape {tuple(scores.shape)}: a comparison class needs shape (N, K), K > 1"
            )
        if named is None:
            return "nearest"
        if not isinstance(named, int | list):
            raise WrongType("comparison_idx: expected an integer, a list, or a nested list of a row for each image")
        if isinstance(named, list) and named and all(isinstance(row, list) for row in named):
            return named
        return [named if isinstance(named, list) else [named]] * len(scores)

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, gamma={self.gamma}, num_references={self.num_references}"


class RefineCAM(_Composed):
    """The product of the maps of several layers, each divided by its peak."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: list[nn.Module | str],
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[Extractor] = GradCAMpp,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(target_layer, list) or len(target_layer) < 2:
            raise FinerCAMError("RefineCAM multiplies maps: give at least two target layers, as a list")
        _check_base(base_method)
        self.base_cam = base_method(model, target_layer, input_shape=input_shape, **base_kwargs)

    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """A list of one map `(N, h, w)`."""
        cams = self.base_cam(class_idx, scores, normalized=False, **kwargs)
        return [self.fuse_cams(cams, target_shape, normalized)]

    compute_cams = __call__

    @staticmethod
    def fuse_cams(cams: list[Tensor], target_shape: tuple[int, ...] | None = None, normalized: bool = True) -> Tensor:
        """The product of maps `(N, h, w)` on the largest of their grids."""
        product = fuse([one.clamp(min=0) for one in resized(checked_cams(cams), target_shape)], "product")
        return Extractor._normalize(product) if normalized else product


class LeGrad:
    """Not part of the drop-in: torch-cam's LeGrad asks each block's own scores, ours the model's logits."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise FinerCAMError("LeGrad reads attention and makes its own pass: take finercam.FinerCAM(model, 'legrad')")


def _check_base(base: Any) -> None:
    if not isinstance(base, type) or not issubclass(base, Extractor):
        raise WrongType(f"base_method={base!r}: expected a CAM extractor class of finercam.compat.torchcam.methods")
