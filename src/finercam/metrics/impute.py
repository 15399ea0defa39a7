"""ROAD's noisy linear imputation: every unknown pixel is the weighted mean of its eight neighbours, plus noise.

The linear system is a graph Laplacian on the unknown pixels, with the known pixels as boundary values. It is solved
for a whole batch on its device by conjugate gradients, preconditioned with a multigrid V-cycle. The V-cycle uses
bilinear transfer and Galerkin coarse operators, which are exact for scattered masks, and Jacobi smoothing. The
smoothing needs little damping, because the eigenvalues of D⁻¹A lie in [0, 4/3] for this stencil.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.errors import FinerCAMError

__all__ = ["impute"]

_DAMPING = 0.9  # of Jacobi; keeps the smoother positive definite, as conjugate gradients require
_COARSEST = 4  # longer side in pixels of the grid on which the system is inverted directly
_MAX_ITERATIONS = 60  # of conjugate gradients; usually 5 to 9 are needed


@dataclass(frozen=True)
class _Level:
    """A grid: its operator on `(B, C, h, w)` and the damped inverse of its diagonal (0 where nothing is unknown)."""

    apply: Callable[[Tensor], Tensor]
    weight: Tensor
    size: tuple[int, int]
    live: Tensor | None = None  # 1.0 where unknown, on the finest grid
    inverse: Tensor | None = None  # of the whole operator `(B, hw, hw)`, on the coarsest grid

    def residual(self, x: Tensor, right: Tensor) -> Tensor:
        """`right − A x`, in the memory of `A x`, because allocation costs more than arithmetic here."""
        image = self.apply(x)
        return torch.sub(right, image, out=image)


@torch.no_grad()
def impute(images: Tensor, known: Tensor, *, noise: float = 0.01, seed: int = 0, tolerance: float = 1e-4) -> Tensor:
    """Fill the unknown pixels of `images` `(N, C, H, W)` where `known` `(N, H, W)` is False.

    An unknown pixel is the mean of its neighbours, weighted 1/6 (edge) and 1/12 (corner) and renormalised at the
    border, plus Gaussian noise of standard deviation `noise` in the units of the images. All pictures share one seeded
    noise field, so that the result does not depend on the batch and comparisons between methods are paired. A picture
    without known pixels gets its mean colour.

    Iterates until the estimated largest error is below `tolerance` times the range of values of the picture's channel.
    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022 (ROAD).
    Raises `FinerCAMError` if the shapes differ.

    >>> ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    >>> known = torch.ones(1, 9, 9, dtype=torch.bool)
    >>> known[:, 3:6, 3:6] = False
    >>> impute(ramp, known, noise=0)[0, 0, 4].round(decimals=2).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    """
    if images.ndim != 4 or known.shape != (images.shape[0], *images.shape[2:]):
        raise FinerCAMError(
            f"images {tuple(images.shape)} and known {tuple(known.shape)}: expected (N, C, H, W) and (N, H, W)."
        )
    known = known.to(device=images.device, dtype=torch.bool)
    exact = images if images.dtype in (torch.float32, torch.float64) else images.float()
    # On a CPU, small groups stay in its cache; an accelerator is faster with few large groups.
    pixels = 2**18 if images.device.type == "cpu" else 2**24
    group = max(1, pixels // known[0].numel()) if len(known) else 1
    filled = [_solve(x, ~k[:, None], tolerance) for x, k in zip(exact.split(group), known.split(group), strict=True)]
    result = torch.cat(filled) if filled else exact
    if noise:
        field = torch.randn(exact.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=exact.dtype)
        result = result + noise * field.to(images.device) * ~known[:, None]
    return result.to(images.dtype)


def _solve(images: Tensor, unknown: Tensor, tolerance: float) -> Tensor:
    """Preconditioned conjugate gradients; every picture and channel is a separate system."""
    # A picture without known pixels has no system to solve and keeps the mean colour.
    mask = (unknown & ~unknown.all(-1, keepdim=True).all(-2, keepdim=True)).to(images.dtype)
    levels = _grids(mask)
    floor = torch.finfo(images.dtype).tiny
    start = torch.where(unknown, _mean_colour(images, (~unknown).to(images.dtype)), images)
    goal = tolerance * (images.amax((2, 3), keepdim=True) - images.amin((2, 3), keepdim=True)).clamp_min(floor)

    x = torch.zeros_like(images)  # the correction to `start`, zero on the known pixels
    residual = (start * _rim(start)).sub_(_binomial(start), alpha=1 / 12).mul_(mask).neg_()
    direction = torch.zeros_like(x)
    previous = torch.ones_like(goal)
    for _ in range(_MAX_ITERATIONS):
        # The V-cycle nearly inverts the operator, so its result for the residual estimates the error.
        estimate = _cycle(levels, residual)
        far = estimate.abs().amax((2, 3), keepdim=True) > goal
        if not bool(far.any()):
            return start + x + estimate
        energy = _dot(residual, estimate) * far  # 0 stops the systems that have converged
        direction = direction.mul_(energy / previous).add_(estimate)
        image = levels[0].apply(direction)
        step = energy / _dot(direction, image).clamp_min(floor)
        x.addcmul_(direction, step)
        residual.addcmul_(image, -step)
        previous = energy.clamp_min(floor)
    return start + x


def _mean_colour(images: Tensor, weight: Tensor) -> Tensor:
    """Mean over the known pixels `(B, C, 1, 1)`, or over all pixels if none is known."""
    total = weight.sum((2, 3), keepdim=True)
    weight = torch.where(total > 0, weight, torch.ones_like(weight))
    return (images * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the pixels, `(B, C, 1, 1)`."""
    return (a * b).sum((2, 3), keepdim=True)


def _binomial(x: Tensor) -> Tensor:
    """Convolution with [1 2 1] along both axes, zero outside."""
    rows = x * 2
    rows[..., 1:, :] += x[..., :-1, :]
    rows[..., :-1, :] += x[..., 1:, :]
    both = rows * 2
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both


def _rim(x: Tensor) -> Tensor:
    """The weights of the neighbours inside the picture, plus the 1/3 that `_binomial` gives the pixel itself."""
    return _binomial(x.new_ones(1, 1, *x.shape[-2:])) / 12


def _grids(mask: Tensor) -> list[_Level]:
    """The operator on the unknown pixels and its coarser versions; `mask` `(B, 1, H, W)` is 1.0 where unknown.

    The operator sums weight × (value of the pixel − value of the neighbour). `_binomial` also counts the pixel itself,
    with four twelfths, both in `own` and in the sum, so that these terms cancel.
    """
    rim = _rim(mask)
    own = rim * mask

    def apply(x: Tensor) -> Tensor:
        return (x * own).addcmul_(_binomial(x), mask, value=-1 / 12)

    weight = mask / (rim - 1 / 3).clamp_min(1e-3) * _DAMPING
    levels = [_Level(apply, weight, (mask.shape[-2], mask.shape[-1]), live=mask)]
    # The finest operator expects zeros on the known pixels, so it must not be inverted.
    while len(levels) == 1 or max(levels[-1].size) > _COARSEST:
        levels.append(_coarser(levels[-1]))
    levels[-1] = _inverted(levels[-1])
    return levels


def _inverted(level: _Level) -> _Level:
    """The coarsest grid with its pseudo-inverse, which gives 0 for points that are in no equation."""
    height, width = level.size
    unit = torch.eye(height * width, dtype=level.weight.dtype, device=level.weight.device)
    columns = level.apply(unit.reshape(1, -1, height, width).expand(len(level.weight), -1, -1, -1))
    return replace(level, inverse=torch.linalg.pinv(columns.flatten(2), hermitian=True))


def _coarser(fine: _Level) -> _Level:
    """The Galerkin product on the next grid. Pixels three apart do not interact, so nine probes give the stencil."""
    height, width = ((side + 1) // 2 for side in fine.size)
    like = fine.weight
    row = torch.arange(height, device=like.device)
    column = torch.arange(width, device=like.device)
    third = torch.arange(3, device=like.device)
    probes = (row % 3 == third[:, None])[:, None, :, None] & (column % 3 == third[:, None])[None, :, None, :]
    lifted = _prolong(probes.flatten(0, 1).to(like.dtype)[None], fine.size)
    lifted = lifted.expand(len(like), *lifted.shape[1:]) if fine.live is None else lifted * fine.live
    answers = _restrict(fine.apply(lifted)).unflatten(1, (3, 3))
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    stencil = torch.stack(
        [answers[:, ((row + i) % 3)[:, None], (column + j) % 3, row[:, None], column] for i, j in shifts], 1
    )
    diagonal = stencil[:, 4:5]
    weight = torch.where(diagonal > 1e-6, _DAMPING / diagonal.clamp_min(1e-6), torch.zeros_like(diagonal))

    def apply(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1))
        total = x * diagonal
        for k, (i, j) in enumerate(shifts):
            if k != 4:
                neighbour = padded[..., 1 + i : 1 + i + height, 1 + j : 1 + j + width]
                total.addcmul_(stencil[:, k : k + 1], neighbour)
        return total

    return _Level(apply, weight, (height, width))


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """One V-cycle: an approximate solution of `A x = residual`, linear and symmetric in the residual."""
    level = levels[0]
    if level.inverse is not None:
        return (residual.flatten(2) @ level.inverse).reshape(residual.shape)
    x = residual * level.weight
    correction = _prolong(_cycle(levels[1:], _restrict(level.residual(x, residual))), level.size)
    # The correction must stay 0 on known pixels.
    x = x.add_(correction) if level.live is None else x.addcmul_(correction, level.live)
    return x.addcmul_(level.weight, level.residual(x, residual))


def _prolong(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation with the coarse pixels on the even fine ones; the last value is repeated."""
    for dim, side in ((-2, size[0]), (-1, size[1])):
        coarse = x.shape[dim]
        shape = list(x.shape)
        shape[dim] = 2 * coarse
        fine = x.new_empty(shape)
        here, between = fine.unflatten(dim, (coarse, 2)).unbind(dim)
        here.copy_(x)
        last = coarse - 1
        torch.add(x.narrow(dim, 0, last), x.narrow(dim, 1, last), out=between.narrow(dim, 0, last)).mul_(0.5)
        between.narrow(dim, last, 1).copy_(x.narrow(dim, last, 1))
        x = fine.narrow(dim, 0, side)
    return x


def _restrict(x: Tensor) -> Tensor:
    """The transpose of `_prolong`."""
    for dim in (-2, -1):
        if x.shape[dim] % 2:
            x = F.pad(x, (0, 0, 0, 1) if dim == -2 else (0, 1))
        even, odd = x.unflatten(dim, (-1, 2)).unbind(dim)
        odd = odd * 0.5
        x = even + odd
        last = x.shape[dim] - 1
        x.narrow(dim, 1, last).add_(odd.narrow(dim, 0, last))
        x.narrow(dim, last, 1).add_(odd.narrow(dim, last, 1))
    return x
