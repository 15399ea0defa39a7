"""The question: why this class and not those; checked as far as possible before the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from finercam.core import references as strategies
from finercam.core.contrast import Contrast, checked_weights
from finercam.core.fuse import checked_fusion
from finercam.core.references import NONE, STRATEGIES, References
from finercam.errors import FinerCAMError, suggest
from finercam.grouping import Names, checked_groups
from finercam.methods import Method
from finercam.methods import get as get_method
from finercam.names import plain

__all__ = ["LARGEST_GAMMA", "BoundQuestion", "Question", "checked_gammas"]

LARGEST_GAMMA = 1e6
"""Above it the target's own share is lost in rounding, and soon the map in infinity."""

ClassName = int | str | frozenset
"""A class by id or name, or a set of classes that count as one (see `finercam.core.groups`)."""
Against = tuple[ClassName, ...] | tuple[tuple[ClassName, ...], ...]


@dataclass(frozen=True, eq=False)
class Question:
    """What to explain and how, before any image is seen; immutable, made by `Question.make` or `changed`.

    `target` is None (each image's prediction), one class, or one class an image. `against` is None (the strategy
    `references` picks `num_references` rival classes), a flat list of classes for all images, or one list an image. A
    set of classes, or the name of a group, stands wherever a class does.

    >>> question = Question.make(method="layercam", target="wren", against=["robin"])
    >>> question.changed(gamma=0.9).gamma
    tensor([0.9000], dtype=torch.float64)
    """

    method: Method
    gamma: Tensor
    references: str = "predicted"
    num_references: int = 1
    weights: str = "mean"
    fusion: str = "mean"
    target: ClassName | tuple[ClassName, ...] | None = None
    against: Against | None = None
    confusion: Tensor | None = field(default=None, repr=False)
    groups: tuple[tuple[str, frozenset[int | str]], ...] = field(default=(), repr=False)
    """Groups with a name, such as genera; the name can be written for the group."""

    def __post_init__(self) -> None:
        if self.references == "confused" and self.against is None and self.confusion is None:
            raise FinerCAMError("references='confused' needs confusion=, a (K, K) matrix of counts, rows the truth")
        self.method.check_contrast(self.against is not None or bool((self.gamma > 0).any()))

    @classmethod
    def make(cls, method: str | Method = "gradcam", gamma: Any = 0.6, **given: Any) -> Question:
        """A question from what a caller writes; each value may be left out. Raises FinerCAMError for a wrong one."""
        return cls(get_method(method), checked_gammas(gamma), **_checked(given))

    def changed(self, **given: Any) -> Question:
        """The same question with other values; what is None stays as it was."""
        return replace(self, **_checked(given))

    def without_classes(self) -> Question:
        """How to explain, without which classes: neither target nor rivals are named."""
        return replace(self, target=None, against=None)

    def bind(self, count: int, num_classes: int | None, class_names: Sequence[str] | None = None) -> BoundQuestion:
        """The question for `count` images, in class ids; checks everything that needs no logits.

        Where `num_classes` is not known yet, ids that are too large are found by a second call.
        """
        known = len(class_names) if num_classes is None and class_names is not None else num_classes
        names = Names(class_names, known, self.groups)
        target = None
        if self.target is not None:
            wanted = self.target if isinstance(self.target, tuple) else (self.target,) * count
            if len(wanted) != count:
                raise FinerCAMError(f"{len(wanted)} targets for {count} images; give one for all, or one for each")
            target = torch.tensor([names.id_of(one, "target") for one in wanted])
        against = None
        if self.against is not None:
            rows = [[names.id_of(one, "reference") for one in row] for row in self._rival_rows(count)]
            if target is not None:
                rows = names.apart(target.tolist(), rows)
            limit = None if known is None else known + len(names.groups.members)
            against = strategies.explicit(rows, torch.full((count,), NONE) if target is None else target, limit)
        return BoundQuestion(self, checked_gammas(self.gamma, count), target, against, names)

    def _rival_rows(self, count: int) -> Sequence[Sequence[ClassName]]:
        rows: Any = self.against
        if any(isinstance(row, tuple) for row in rows):
            if len(rows) != count:
                raise FinerCAMError(
                    f"{len(rows)} lists of references for {count} images; give one flat list, or a list an image"
                )
            return rows
        if count > 1 and len(rows) == count and (self.target is None or isinstance(self.target, tuple)):
            raise FinerCAMError(
                f"against={list(rows)!r}: {count} classes for {count} images can mean two things; write "
                f"against=[[class], [class], …] (for a tensor, against=y[:, None]) for one rival an image, or "
                f"against=[[class, class, …]] * {count} for all of these rivals for every image"
            )
        return [rows] * count


@dataclass(frozen=True, eq=False)
class BoundQuestion:
    """A question for N images: `gamma (N,)`; `target (N,)` and `against (N, T)` class ids, or None where the logits decide."""

    question: Question
    gamma: Tensor
    target: Tensor | None
    against: Tensor | None
    names: Names = field(default_factory=lambda: Names(None, None))

    def __getitem__(self, at: slice) -> BoundQuestion:
        target, against = (None if ids is None else ids[at] for ids in (self.target, self.against))
        return replace(self, gamma=self.gamma[at], target=target, against=against)

    def resolve(self, logits: Tensor, rows: Tensor | None, first: int = 0) -> tuple[Contrast, References]:
        """Target and rival classes of each image, from its `logits (N, K)` where the question leaves them open.

        `rows (K, D)` are those of the linear head, or None without one. Errors count the samples from `first`.
        """
        logits = logits.detach().cpu().double()
        target = logits.argmax(dim=1) if self.target is None else self.target
        references = self._references(logits, target, rows, first)
        return Contrast(target, references.ids, self.gamma, self.question.weights, self.names.groups), references

    def _references(self, logits: Tensor, target: Tensor, rows: Tensor | None, first: int) -> References:
        question, num_classes = self.question, logits.shape[1]
        if self.against is not None:
            named = [[entry for entry in row if entry != NONE] for row in self.against.tolist()]
            if self.target is None:
                named = self.names.apart(target.tolist(), named, first)
            limit = num_classes + len(self.names.groups.members)
            ids, strategy = strategies.explicit(named, target, limit, first), "explicit"
        elif bool((target >= num_classes).any()):
            ids, strategy = self._rivals_of_groups(logits, target), question.references
        else:
            ids, strategy = _picked(question, logits, target, rows), question.references
        similarity = torch.full(ids.shape, torch.nan)
        if rows is not None:
            of_classes = (ids != NONE) & (ids < num_classes) & (target < num_classes)[:, None]
            own, rivals = (some.clamp(min=0, max=num_classes - 1).to(rows.device) for some in (target, ids))
            near = strategies.similarity_to(rows, own, rivals).cpu()
            similarity = near.masked_fill(~of_classes, torch.nan)
        return References(ids, similarity, strategy)

    def _rivals_of_groups(self, logits: Tensor, target: Tensor) -> Tensor:
        """The likeliest rivals of targets of which some are groups: other groups with a name if the target has one.

        Otherwise these are the likeliest classes outside of the group.
        """
        if self.question.references != "predicted":
            raise FinerCAMError(
                f"references={self.question.references!r} picks rivals of single classes; for a group of classes take "
                "references='predicted', or name the rivals with against="
            )
        rows = [
            self.names.likeliest_rivals(own, row, self.question.num_references)
            for own, row in zip(target.tolist(), logits, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)


def checked_gammas(gamma: Any, count: int | None = None) -> Tensor:
    """Gamma as float64 `(1,)` or one value an image, `(N,)`; finite and at least 0. `count` expands it to `(count,)`.

    >>> checked_gammas(0.6, 2)
    tensor([0.6000, 0.6000], dtype=torch.float64)
    """
    try:
        strength = torch.as_tensor(gamma, dtype=torch.float64).detach().cpu().to_dense().flatten()
        boolean = torch.as_tensor(gamma).dtype == torch.bool
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FinerCAMError(f"gamma={gamma!r}: expected a number, or one for each image") from error
    # This comparison is false for NaN.
    if boolean or not len(strength) or not bool(((strength >= 0) & (strength <= LARGEST_GAMMA)).all()):
        raise FinerCAMError(
            f"gamma={gamma!r}: expected finite numbers of at least 0 (0 is the plain method), at most {LARGEST_GAMMA:g}"
        )
    if count is None:
        return strength
    if len(strength) not in (1, count):
        raise FinerCAMError(f"{len(strength)} values of gamma for {count} images; give one for all, or one for each")
    return strength.expand(count)


def _picked(question: Question, logits: Tensor, target: Tensor, rows: Tensor | None) -> Tensor:
    """The rival classes `(N, T)` that the question's strategy picks."""
    count, num_classes = question.num_references, logits.shape[1]
    if question.references == "similar":
        if rows is None:
            raise FinerCAMError(
                f"references='similar' compares rows of a linear head, and none with {num_classes} rows was "
                "found; use references='predicted', or name the classes with against="
            )
        return strategies.highest(strategies.similarity(rows, target.to(rows.device)).cpu(), target, count)
    if question.references == "predicted":
        return strategies.predicted(logits, target, count)
    if question.references == "nearest":
        return strategies.nearest(logits, target, count)
    if question.references == "all":
        return strategies.all_other_classes(num_classes, target)
    assert question.confusion is not None
    if question.confusion.shape != (num_classes, num_classes):
        raise FinerCAMError(
            f"confusion has shape {tuple(question.confusion.shape)}; expected ({num_classes}, {num_classes})"
        )
    return strategies.confused(question.confusion, target, count)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    return {name: _CHECKS[name](value) for name, value in given.items() if value is not None}


def _strategy(value: Any) -> str:
    if not isinstance(value, str) or value not in STRATEGIES:
        raise FinerCAMError(
            f"references={value!r}: expected one of {', '.join(STRATEGIES)}; name classes in the call, as "
            f"against=[…].{suggest(str(value), STRATEGIES)}"
        )
    return value


def _num_references(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FinerCAMError(f"num_references={value!r}: expected at least 1, or use gamma=0 for the plain map")
    return value


def _target(value: Any) -> ClassName | tuple[ClassName, ...]:
    value = plain(value)
    if isinstance(value, (str, Integral, Set)):
        return _one(value)
    if not isinstance(value, Sequence):
        raise FinerCAMError(f"target={value!r}: expected a class id or name, or one for each of the images")
    return tuple(_one(one) for one in value)


def _one(value: Any) -> ClassName:
    """A class, or a set of classes as a frozenset."""
    return frozenset(plain(one) for one in value) if isinstance(value, Set) else plain(value)


def _against(value: Any) -> Against:
    padded = getattr(value, "ndim", 0) == 2  # a tensor of ids, like Explanation.references, is filled with -1
    value = plain(value)
    if isinstance(value, str) and value in STRATEGIES:
        raise FinerCAMError(
            f"against={value!r}: expected classes; a strategy is chosen by references={value!r} of FinerCAM"
        )
    if isinstance(value, (str, Integral, Set)):
        return (_one(value),)
    if not isinstance(value, Sequence):
        raise FinerCAMError(f"against={value!r}: expected class ids or names, or a list of them for each image")
    rows: list[Any] = [_one(row) for row in value]
    nested = [isinstance(row, Sequence) and not isinstance(row, str) for row in rows]
    if any(nested) and not all(nested):
        raise FinerCAMError(
            f"against={value!r}: mixes lists and single classes; give a flat list, or a list an image"
        )
    if not nested or not nested[0]:
        return tuple(rows)
    return tuple(tuple(_one(one) for one in row if not padded or one != NONE) for row in rows)


def _confusion(value: Any) -> Tensor:
    try:
        matrix = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise FinerCAMError("confusion: expected a (K, K) matrix of counts, rows the truth") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise FinerCAMError(f"confusion has shape {tuple(matrix.shape)}; expected (K, K), rows the truth")
    return matrix


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "method": get_method,
    "gamma": checked_gammas,
    "references": _strategy,
    "num_references": _num_references,
    "weights": checked_weights,
    "fusion": checked_fusion,
    "target": _target,
    "against": _against,
    "confusion": _confusion,
    "groups": checked_groups,
}
