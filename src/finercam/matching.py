"""Lit regions of a map, and the places of another photo that correspond to them in the model's own features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.core.maps import peak
from finercam.errors import FinerCAMError

__all__ = ["Match", "Region", "correspondence", "descriptors", "lit_regions", "matches", "only_there"]

LEVEL = 0.4
"""A region ends where the map falls below this share of the region's own peak."""
SADDLE = 0.7
"""Two peaks are one region if the map stays above this share of the lower one between them."""
SHARPNESS = 16.0
"""How much the likeness of two cells counts beside their evidence: chosen on the Fieldguide, see docs/rival.md."""
SURE = 0.5
"""From this cosine on, most matches lie on the same part: chosen on the Fieldguide, see docs/rival.md."""
LIT = 0.1
"""A cell there counts as lit from this share of the other map's peak on."""
LEAST = 0.05
"""Regions with less than this share of the map's positive mass are left out."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected lit region of a map: its `cells (h, w)` bool, `peak` as row and column, and `share` of the mass.

    `share` is the region's part of the map's positive mass, in (0, 1].
    """

    cells: Tensor
    peak: tuple[int, int]
    share: float

    @property
    def place(self) -> tuple[float, float]:
        """The peak as x and y in shares of the map's width and height."""
        return _place(self.peak, self.cells.shape)


@dataclass(frozen=True, eq=False)
class Match:
    """A lit region here, and two cells (row, column) whose features correspond: `here` in the region, and `there`.

    `cosine` in [-1, 1] is how alike their features are. `evidence` in [0, 1] is the other map at `there`, as a share of
    its peak. `grid` is the size (H, W) of the other map.
    """

    region: Region
    here: tuple[int, int]
    there: tuple[int, int]
    cosine: float
    evidence: float
    grid: tuple[int, int]

    @property
    def place(self) -> tuple[float, float]:
        """The centre of the cell here as x and y in shares of the photo's width and height."""
        return _place(self.here, self.region.cells.shape)

    @property
    def sure(self) -> bool:
        """Whether the features are so alike that the two cells are likely the same part (docs/rival.md)."""
        return self.cosine >= SURE

    @property
    def place_there(self) -> tuple[float, float]:
        """The centre of the cell there as x and y in shares of the other photo's width and height."""
        return _place(self.there, self.grid)


def lit_regions(signed: Tensor, most: int = 3, least: float = LEAST) -> list[Region]:
    """The connected lit regions of a signed map `(h, w)`, those with the largest share first, at most `most`.

    Every peak has a region of its own unless the map between it and a higher peak stays above SADDLE of it. A map
    without positive values has none. Raises FinerCAMError for another shape or values that are not finite.

    >>> [(r.peak, round(r.share, 2)) for r in lit_regions(torch.tensor([[4.0, 3.0, 0.0, 2.0, -9.0]]))]
    [((0, 0), 0.78), ((0, 3), 0.22)]
    """
    if signed.ndim != 2 or 0 in signed.shape or not bool(signed.isfinite().all()):
        raise FinerCAMError(
            f"a map of shape {tuple(signed.shape)}: expected one finite map (h, w); take answer.signed[i]"
        )
    values = signed.detach().double().cpu().clamp(min=0)
    total = float(values.sum())
    basins = _basins(values)
    found = []
    for top in basins.unique().tolist():
        if top < 0:
            continue
        at = divmod(top, values.shape[1])
        cells = (basins == top) & (values >= LEVEL * values[at])
        found.append(Region(cells, at, float(values[cells].sum()) / total))
    kept = (region for region in found if region.share >= least)
    return sorted(kept, key=lambda region: -region.share)[:most]


def _basins(values: Tensor) -> Tensor:
    """The index of the peak that each positive cell belongs to, `(h, w)` int64; -1 where the map is zero."""
    height, width = values.shape
    flat = values.flatten().tolist()
    owner = [-1] * len(flat)

    def root(cell: int) -> int:
        while owner[cell] != cell:
            cell = owner[cell]
        return cell

    lit = [cell for cell, value in enumerate(flat) if value > 0]
    for cell in sorted(lit, key=lambda cell: -flat[cell]):
        row, column = divmod(cell, width)
        around = [
            y * width + x
            for y in range(max(0, row - 1), min(height, row + 2))
            for x in range(max(0, column - 1), min(width, column + 2))
        ]
        tops = sorted({root(other) for other in around if owner[other] >= 0}, key=lambda top: -flat[top])
        owner[cell] = tops[0] if tops else cell
        for lower in tops[1:]:
            if flat[cell] >= SADDLE * flat[lower]:
                owner[lower] = tops[0]
    return torch.tensor([root(cell) if owner[cell] >= 0 else -1 for cell in range(len(flat))]).view(height, width)


def descriptors(activations: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Unit features of each place, `(N, C, h, w)`, from the activations `(N, C_l, h_l, w_l)` of one or several layers.

    From each layer the mean of the photo is taken away, so that what all places share does not count. Layers weigh
    alike.

    >>> descriptors([torch.rand(2, 8, 4, 4), torch.rand(2, 16, 2, 2)], (4, 4)).shape
    torch.Size([2, 24, 4, 4])
    """
    layers = []
    for activation in activations:
        own = activation.detach().float()
        own = F.normalize(own - own.mean(dim=(2, 3), keepdim=True), dim=1)
        if own.shape[2:] != size:
            own = F.interpolate(own, size=size, mode="bilinear", align_corners=False)
        layers.append(F.normalize(own, dim=1))
    return F.normalize(torch.cat(layers, 1), dim=1)


def correspondence(weights: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """How alike each place `there (C, H, W)` is to the weighted places `here (C, h, w)`: cosine `(H, W)` in [-1, 1].

    `weights (h, w)` are at least 0, such as the cells of a region or their evidence.

    >>> here = torch.eye(2)[:, None]  # two places with features (1, 0) and (0, 1)
    >>> correspondence(torch.tensor([[0.0, 1.0]]), here, here)
    tensor([[0., 1.]])
    """
    mean = torch.einsum("hw,chw->c", weights.to(here), here)
    return torch.einsum("c,chw->hw", F.normalize(mean, dim=0), F.normalize(there.float(), dim=0))


def matches(
    signed: Tensor, here: Tensor, signed_there: Tensor, there: Tensor, most: int = 3, sharpness: float = SHARPNESS
) -> list[Match]:
    """For each lit region of `signed (h, w)` the pair of cells, in it and in the other photo, that correspond best.

    `here (C, h, w)` and `there (C, H, W)` are `descriptors` of the two photos on the grids of the two maps, and
    `signed_there (H, W)` is the answer to the reversed question. A pair counts by the evidence of both cells and by
    their likeness, `S_i · S'_j · exp(sharpness · cosine_ij)`: the idea of Goyal et al. (ICML 2019) and Vandenhende et
    al. (ECCV 2022), who search for the exchange of cells that turns one class into the other. What lies next to a cell
    that was taken is not taken again; a region for which no lit cell is left has no match.
    """
    weights, free = (one.detach().float().cpu().clamp(min=0) for one in (signed, signed_there))
    opposite = free / peak(free[None])[0]
    free = opposite.where(opposite >= LIT, 0.0)
    grid = (free.shape[0], free.shape[1])
    alike = F.normalize(here.float().cpu().flatten(1), dim=0).T @ F.normalize(there.float().cpu().flatten(1), dim=0)
    likely = (sharpness * alike).exp()
    found = []
    for region in lit_regions(signed, most):
        if not bool(free.any()):
            break
        score = (weights * region.cells).flatten()[:, None] * likely * free.flatten()
        own, other = divmod(int(score.argmax()), score.shape[1])
        (row, column), cell = divmod(other, grid[1]), divmod(own, signed.shape[1])
        evidence = float(opposite[row, column])
        found.append(Match(region, cell, (row, column), float(alike[own, other]), evidence, grid))
        free[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 0
    return found


def only_there(signed_there: Tensor, found: Sequence[Match], most: int = 3) -> list[Region]:
    """The lit regions of the other map that no match lies in: what is lit only on the rival's photo."""
    taken = [match.there for match in found]
    kept = (r for r in lit_regions(signed_there, most + len(taken)) if not any(r.cells[cell] for cell in taken))
    return list(kept)[:most]


def _place(cell: tuple[int, int], grid: Sequence[int]) -> tuple[float, float]:
    return (cell[1] + 0.5) / grid[1], (cell[0] + 0.5) / grid[0]
