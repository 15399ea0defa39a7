"""Fills: the values that replace removed pixels. Each has a name, because the choice changes every masking metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.errors import FinerCAMError, suggest
from finercam.metrics.impute import impute

__all__ = ["Fill", "as_fill", "black", "blur", "mean_colour", "road_fill", "zero"]

Painter = Callable[[Tensor], Tensor]  # removed (n, S, H, W) bool -> pictures (n, S, C, H, W)


@dataclass(frozen=True)
class Fill:
    """A named fill: `background(images (N, C, H, W))` broadcasts to the images and replaces their removed pixels.

    `background` is None if the fill depends on the removed pixels (ROAD); `imputer(images, known)` then fills them.
    """

    name: str
    background: Callable[[Tensor], Tensor] | None = None
    imputer: Callable[[Tensor, Tensor], Tensor] | None = None

    def backdrop(self, images: Tensor) -> Tensor:
        """The fill as a picture. Raises `FinerCAMError` if the fill depends on the mask."""
        if self.background is None:
            raise FinerCAMError(
                f"the fill {self.name!r} depends on the mask and cannot be blended in: use zero, mean, blur or black()."
            )
        return self.background(images)

    def prepare(self, images: Tensor) -> Painter:
        """Compute once what does not depend on the mask; the returned painter then fills each masked batch."""
        if self.imputer is None:
            background = self.backdrop(images)[:, None]
            return lambda removed: torch.where(removed[:, :, None], background, images[:, None])
        fill_in = self.imputer

        def paint(removed: Tensor) -> Tensor:
            shape = (*removed.shape[:2], *images.shape[1:])
            filled = fill_in(images[:, None].expand(shape).flatten(0, 1), ~removed.flatten(0, 1))
            return filled.reshape(shape)

        return paint


def black(mean: float | Sequence[float], std: float | Sequence[float]) -> Fill:
    """True black, `(0 − mean) / std` per channel, for images normalised as `(x − mean) / std` with x in [0, 1].

    >>> black(0.5, 0.25).backdrop(torch.ones(1, 3, 2, 2)).unique()
    tensor([-2.])
    """
    mu, sigma = torch.as_tensor(mean).reshape(-1, 1, 1), torch.as_tensor(std).reshape(-1, 1, 1)
    if bool((sigma <= 0).any()):
        raise FinerCAMError(f"std is {std}, expected positive numbers: the ones the images were normalised with.")
    return Fill("black", lambda images: (-mu / sigma).to(images).expand(1, images.shape[1], 1, 1))


def zero() -> Fill:
    """The value 0. In images that were normalised by the mean of a dataset, this is its *mean colour*, not black.

    >>> zero().name
    'zero'
    """
    return Fill("zero", lambda images: images.new_zeros(1, 1, 1, 1))


def mean_colour() -> Fill:
    """The mean colour of each picture.

    >>> mean_colour().backdrop(torch.tensor([[[[1.0, 3.0]]]])).item()
    2.0
    """
    return Fill("mean", lambda images: images.mean((2, 3), keepdim=True))


def blur(sigma: float = 0.05) -> Fill:
    """The picture blurred by a Gaussian whose standard deviation is `sigma` times the picture's shorter side.

    >>> flat = torch.ones(1, 3, 16, 16)
    >>> torch.allclose(blur().backdrop(flat), flat)
    True
    """
    if sigma <= 0:
        raise FinerCAMError(f"sigma is {sigma}, expected a positive share of the picture's side, such as 0.05.")
    return Fill(f"blur({sigma:g})", lambda images: _gaussian(images, sigma * min(images.shape[2:])))


def road_fill(noise: float = 0.01, seed: int = 0) -> Fill:
    """ROAD's noisy linear imputation (see `impute`), which estimates removed pixels from the others.

    >>> road_fill().name
    'road(0.01)'
    """
    return Fill(f"road({noise:g})", imputer=lambda images, known: impute(images, known, noise=noise, seed=seed))


_BY_NAME: dict[str, Callable[[], Fill]] = {"zero": zero, "mean": mean_colour, "blur": blur, "road": road_fill}


def as_fill(fill: str | Fill) -> Fill:
    """The fill with a name: "zero", "mean", "blur" or "road". Black needs the normalisation: `black(mean, std)`.

    >>> as_fill("mean").name
    'mean'
    """
    if isinstance(fill, Fill):
        return fill
    if fill == "black":
        raise FinerCAMError(
            "black depends on how images were normalised: pass metrics.black(mean, std), not 'black'."
        )
    if fill not in _BY_NAME:
        raise FinerCAMError(
            f"no fill is called {fill!r}, expected one of {sorted(_BY_NAME)}.{suggest(fill, _BY_NAME)}"
        )
    return _BY_NAME[fill]()


def _gaussian(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian convolution in single precision, with the border pixels repeated."""
    radius = max(1, round(3 * sigma))
    reach = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.softmax(-(reach**2) / (2 * sigma**2), 0)
    x = images.float().flatten(0, 1)[:, None]
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None])
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None])
    return x.reshape(images.shape).to(images.dtype)
