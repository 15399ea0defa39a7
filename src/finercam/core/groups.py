"""Groups: sets of classes that count as one class, whose logit is the log-sum-exp of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NO_GROUPS", "Groups"]


@dataclass(frozen=True)
class Groups:
    """The groups of a question. The id of a group is the number of classes K plus its place in `members`.

    The logit of a group is `log Σ exp y_k` over its classes, so that its probability under a softmax is the sum of
    theirs. Its gradient is a direction in logit space, the softmax over its classes at the logits of the image, which
    is held fixed: in γ, rivals and methods a group counts like a class.

    >>> groups = Groups(((0, 1),), ("either",))
    >>> groups.logits(torch.zeros(1, 3)).tolist()[0][3] == torch.tensor(2.0).log().item()
    True
    >>> groups.folded(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.zeros(1, 3))
    tensor([[0.5000, 0.5000, 0.0000]])
    """

    members: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()

    def logits(self, logits: Tensor) -> Tensor:
        """Logits `(N, K)` with those of the groups after them, `(N, K + G)`."""
        if not self.members:
            return logits
        return torch.cat([logits, *(logits[:, list(of)].logsumexp(1, keepdim=True) for of in self.members)], 1)

    def folded(self, direction: Tensor, logits: Tensor) -> Tensor:
        """A direction over classes and groups `(N, K + G)` as one over the classes `(N, K)`, at these logits."""
        if not self.members:
            return direction
        classes = direction[:, : logits.shape[1]].clone()
        for place, of in enumerate(self.members):
            share = logits.detach()[:, list(of)].softmax(1).to(direction)
            classes[:, list(of)] += direction[:, logits.shape[1] + place, None] * share
        return classes

    def direction(self, ids: Tensor, logits: Tensor) -> Tensor:
        """What the logits of classes or groups with ids `(N,)` are the gradient of: `(N, K)`; zeros for an id of -1."""
        rows = F.one_hot(ids.clamp(min=0), logits.shape[1] + len(self.members)).to(logits)
        return self.folded(rows * (ids >= 0)[:, None].to(logits), logits)

    def of(self, index: int, num_classes: int) -> tuple[int, ...]:
        """The classes of an id: those of the group, or the class itself."""
        return (index,) if index < num_classes else self.members[index - num_classes]

    def named(self, index: int, num_classes: int) -> str:
        """The name of a group by its id."""
        return self.names[index - num_classes]

    def with_group(self, of: Sequence[int], name: str, num_classes: int) -> tuple[Groups, int]:
        """These groups with one more, and its id; a group that is known keeps its id, and a single class is itself."""
        of = tuple(sorted(of))
        if len(of) == 1:
            return self, of[0]
        if of in self.members:
            return self, num_classes + self.members.index(of)
        return Groups((*self.members, of), (*self.names, name)), num_classes + len(self.members)

    def joined(self, other: Groups, num_classes: int) -> tuple[Groups, dict[int, int]]:
        """These groups with those of another question, and the new ids of the other's groups by their own."""
        groups, ids = self, {}
        for place, (of, name) in enumerate(zip(other.members, other.names, strict=True)):
            groups, ids[num_classes + place] = groups.with_group(of, name, num_classes)
        return groups, ids


NO_GROUPS = Groups()
