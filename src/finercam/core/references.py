"""Strategies that pick the reference (rival) classes of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam.errors import FinerCAMError

__all__ = [
    "NONE",
    "STRATEGIES",
    "References",
    "all_other_classes",
    "confused",
    "explicit",
    "highest",
    "nearest",
    "pad_and_concat",
    "predicted",
    "similar",
    "similarity",
    "similarity_to",
]

NONE = -1
"""Fills the places of a sample that has fewer references than another one of its batch."""

STRATEGIES = ("similar", "predicted", "nearest", "all", "confused")


@dataclass(frozen=True)
class References:
    """The picked classes: `ids (N, T)`, filled with -1 where ragged; `similarity (N, T)` to the target, or NaN."""

    ids: Tensor
    similarity: Tensor
    strategy: str


def similar(weight: Tensor, target: Tensor, count: int) -> Tensor:
    """The classes whose rows of the linear head are most similar to the target's, by cosine: ids `(N, T)`.

    `weight (K, D)` are the classifier's rows (for a text classifier, the text embeddings). Paper, section 3.2.

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> similar(rows, torch.tensor([0]), 2)
    tensor([[1, 2]])
    """
    return highest(similarity(weight, target), target, count)


def predicted(logits: Tensor, target: Tensor, count: int) -> Tensor:
    """The classes with the highest logits, without the target: ids `(N, T)`.

    >>> predicted(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 2)
    tensor([[2, 1]])
    """
    return highest(logits.detach(), target, count)


def nearest(logits: Tensor, target: Tensor, count: int) -> Tensor:
    """The classes with the logits nearest to the target's, above or below: ids `(N, T)`.

    The authors' released code picks so. It can pick classes that the model thinks likelier than the target.

    >>> nearest(torch.tensor([[3.0, 2.0, 2.5, -9.0]]), torch.tensor([1]), 2)
    tensor([[2, 0]])
    """
    logits = logits.detach()
    distance = (logits - logits.gather(1, target[:, None])).abs()
    return highest(-distance, target, count)


def all_other_classes(num_classes: int, target: Tensor) -> Tensor:
    """Every class but the target: ids `(N, K - 1)`.

    >>> all_other_classes(3, torch.tensor([1]))
    tensor([[0, 2]])
    """
    order = torch.arange(num_classes, device=target.device).expand(len(target), -1)
    return order[order != target[:, None]].view(len(target), num_classes - 1)


def confused(matrix: Tensor, target: Tensor, count: int) -> Tensor:
    """The classes most often confused with the target: `matrix (K, K)` counts, rows the truth: ids `(N, T)`.

    Both ways of confusion count: taken for another class, and another class taken for it.

    >>> matrix = torch.tensor([[5, 0, 2], [3, 5, 0], [0, 0, 5]])
    >>> confused(matrix, torch.tensor([0]), 1)
    tensor([[1]])
    """
    both = (matrix + matrix.T).to(torch.float64)
    return highest(both.to(target.device)[target], target, count)


def explicit(named: Sequence[Sequence[int]], target: Tensor, num_classes: int | None, first: int = 0) -> Tensor:
    """The classes named by the caller, one list for each sample, ragged: ids `(N, T)` filled with -1.

    A target of -1 or a `num_classes` of None is not known yet and not checked. Errors count the samples from `first`.

    >>> explicit([[1, 2], [0]], torch.tensor([0, 2]), 3)
    tensor([[ 1,  2],
            [ 0, -1]])
    """
    rows = []
    for sample, (ids, own) in enumerate(zip(named, target.tolist(), strict=True), first):
        for entry in ids:
            if num_classes is not None and not 0 <= entry < num_classes:
                raise FinerCAMError(
                    f"reference class {entry} of sample {sample}: expected an id in 0…{num_classes - 1}"
                )
        if own in ids:
            raise FinerCAMError(f"sample {sample}: target class {own} is among its own references; leave it out")
        if len(set(ids)) < len(ids):
            raise FinerCAMError(f"sample {sample}: references {list(ids)} name a class twice; name each once")
        if not ids:
            raise FinerCAMError(
                f"sample {sample}: no reference given; name at least one, or use gamma=0 for the plain map"
            )
        rows.append(torch.tensor(list(ids), dtype=torch.long))
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)
    return padded.to(target.device)


def pad_and_concat(parts: Sequence[Tensor], fill: float) -> Tensor:
    """Concatenate rows `(n, T)` of several batches, padded to the widest."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=fill) for part in parts])


def similarity(weight: Tensor, target: Tensor) -> Tensor:
    """Cosine of the target's row of the head `(K, D)` with every row, in [-1, 1]: `(N, K)`."""
    rows = weight.detach().float()
    # The head is the largest tensor here, so it is read once and no scaled copy is made.
    length = torch.linalg.vector_norm(rows, dim=1).clamp(min=1e-12)
    return rows[target] @ rows.T / (length[target, None] * length)


def similarity_to(weight: Tensor, target: Tensor, ids: Tensor) -> Tensor:
    """Cosine of the target's row of the head `(K, D)` with the rows `ids (N, T)`, in [-1, 1]: `(N, T)`."""
    if ids.numel() > len(weight):
        return similarity(weight, target).gather(1, ids)
    own, others = weight.detach()[target].float(), weight.detach()[ids].float()
    length = torch.linalg.vector_norm(others, dim=2) * torch.linalg.vector_norm(own, dim=1)[:, None]
    return torch.einsum("nd,ntd->nt", own, others) / length.clamp(min=1e-24)


def highest(scores: Tensor, target: Tensor, count: int) -> Tensor:
    """The classes with the highest scores `(N, K)`, ties to the lower id, never the target: ids `(N, T)`, T < K.

    >>> highest(torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([1]), 5)
    tensor([[0, 2]])
    """
    if count < 1:
        raise FinerCAMError(f"num_references={count}: expected at least 1, or use gamma=0 for the plain map")
    # The target is removed by its id, because with tied scores it need not come first.
    others = all_other_classes(scores.shape[1], target)
    order = scores.gather(1, others).sort(dim=1, descending=True, stable=True).indices
    return others.gather(1, order[:, :count])
