"""Groups of regions whose features are alike."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ALIKE", "MOST", "centres_of", "groups_of"]

ALIKE = 0.2
"""Groups are joined while the mean cosine between their regions is above this: chosen by benchmarks/traits.py."""
MOST = 6
"""More groups than this are joined further: photographs differ in so much that few regions are that much alike."""


def groups_of(features: Tensor, weights: Tensor, alike: float = ALIKE) -> Tensor:
    """The group `(R,)` of each region, from unit features `(R, D)` and weights `(R,)`; groups count from 0.

    Average linkage: the two groups with the largest mean cosine are joined until no two have more than `alike` and there
    are at most MOST of them.

    >>> groups_of(torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.2]]), torch.ones(3)).tolist()
    [0, 0, 1]
    """
    cosine = (features @ features.T).double().numpy()
    np.fill_diagonal(cosine, -np.inf)
    weight, group = weights.double().numpy().copy(), np.arange(len(features))
    for left in range(len(features), 1, -1):
        one, other = divmod(int(cosine.argmax()), len(cosine))
        if not cosine[one, other] > alike and left <= MOST:
            break
        joined = weight[one] + weight[other]
        row = (weight[one] * cosine[one] + weight[other] * cosine[other]) / joined
        cosine[one], cosine[:, one] = row, row
        cosine[one, one] = -np.inf
        cosine[other], cosine[:, other] = -np.inf, -np.inf
        weight[one], group[group == other] = joined, one
    return torch.from_numpy(np.unique(group, return_inverse=True)[1])


def centres_of(features: Tensor, weights: Tensor, groups: Tensor) -> Tensor:
    """The weighted mean feature of each group, of length 1: `(G, D)`."""
    count = int(groups.max()) + 1 if len(groups) else 0
    sums = torch.zeros(count, features.shape[1]).index_add_(0, groups, features * weights[:, None])
    return F.normalize(sums, dim=1)
