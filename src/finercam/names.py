"""Class names: from what a person writes to the class id a model knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from finercam.core.references import NONE
from finercam.errors import FinerCAMError, suggest

__all__ = ["class_id", "in_order", "label", "per_sample", "plain", "shared_or_per_sample"]


def in_order(names: Sequence[str] | Mapping[int, str] | None) -> tuple[str, ...] | None:
    """Class names in the order of the logits, from a list of them or from a mapping like `config.id2label`.

    >>> in_order({1: "robin", 0: "wren"})
    ('wren', 'robin')
    """
    if names is None:
        return None
    listed: Any = names
    if isinstance(names, Mapping):
        given = {str(index): name for index, name in names.items()}  # a JSON file's keys are strings
        listed = [given.get(str(index)) for index in range(len(given))]
    try:
        listed = None if isinstance(listed, str) else list(listed)  # once: an iterator gives its names but once
    except TypeError:  # no sequence, or an array without an axis
        listed = None
    if listed is None or not all(isinstance(n, str) for n in listed):
        raise FinerCAMError(
            "class_names: expected one name (str) for each class, in the order of the logits, or a mapping from ids 0…"
        )
    return tuple(listed)


def class_id(asked: Any, names: Sequence[str] | None, num_classes: int, what: str = "class") -> int:
    """The id of a class given by id or by name.

    A name matches whole, capitals aside, and so does either half of "Genus species (Common Name)" if it is the
    only one. Nothing is guessed: an unknown name raises FinerCAMError with the nearest ones.

    >>> class_id("blue jay", ["Passer montanus (Tree Sparrow)", "Cyanocitta cristata (Blue Jay)"], 2)
    1
    """
    if isinstance(asked, Tensor) and asked.ndim == 0 and not asked.is_floating_point():
        asked = asked.item()
    if isinstance(asked, str):
        return _by_name(asked, names, what)
    if isinstance(asked, bool) or not isinstance(asked, Integral):
        raise FinerCAMError(f"{what} {asked!r}: expected a class id (int) or a class name (str)")
    if not 0 <= int(asked) < num_classes:
        raise FinerCAMError(f"{what} {int(asked)}: expected a class id in 0…{num_classes - 1}")
    return int(asked)


def label(index: int, names: Sequence[str] | None) -> str:
    """The name to show for a class id."""
    return names[index] if names is not None else f"class {index}"


def per_sample(asked: Any, count: int, names: Sequence[str] | None, num_classes: int) -> list[int]:
    """Targets as the caller wrote them, one for all or one a sample, as `count` class ids."""
    asked = plain(asked)
    if isinstance(asked, (str, Integral)):
        return [class_id(asked, names, num_classes, "target")] * count
    if not _listed(asked):
        raise FinerCAMError(f"target={asked!r}: expected a class id or name, or one for each of the {count} images")
    if len(asked) != count:
        raise FinerCAMError(f"{len(asked)} targets for {count} images; give one for all, or one for each")
    return [class_id(entry, names, num_classes, "target") for entry in asked]


def shared_or_per_sample(asked: Any, count: int, names: Sequence[str] | None, num_classes: int) -> list[list[int]]:
    """References as the caller wrote them: one class, a flat list shared by all images, or one list an image."""
    padded = getattr(asked, "ndim", 0) == 2  # a tensor of ids, like Explanation.references, is filled with -1
    asked = plain(asked)
    if isinstance(asked, (str, Integral)):
        asked = [asked]
    if not _listed(asked):
        raise FinerCAMError(f"against={asked!r}: expected class ids or names, or a list of them for each image")
    asked = [plain(entry) for entry in asked]
    nested = [_listed(entry) for entry in asked]
    if any(nested) and not all(nested):
        raise FinerCAMError(
            f"against={asked!r}: mixes lists and single classes; give a flat list, or a list an image"
        )
    rows = list(asked) if nested and all(nested) else [asked] * count
    if len(rows) != count:
        raise FinerCAMError(
            f"{len(rows)} lists of references for {count} images; give one flat list, or a list an image"
        )
    if padded:
        rows = [[entry for entry in row if entry != NONE] for row in rows]
    return [[class_id(entry, names, num_classes, "reference") for entry in row] for row in rows]


def _by_name(asked: str, names: Sequence[str] | None, what: str) -> int:
    if names is None:
        raise FinerCAMError(
            f"{what} {asked!r}: the class names are not known; pass class_names=…, or give a class id"
        )
    wanted = asked.strip().casefold()
    exact = [index for index, name in enumerate(names) if name.casefold() == wanted]
    found = exact or [index for index, name in enumerate(names) if wanted in _halves(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise FinerCAMError(
            f"{what} {asked!r} names {len(found)} classes ({found[:5]}); give the id or the full name"
        )
    halves = [half for name in names for half in (name, *_halves(name))]
    raise FinerCAMError(f"{what} {asked!r} is not among the {len(names)} class names.{suggest(asked, halves)}")


def _halves(name: str) -> list[str]:
    match = re.fullmatch(r"(.+?)\s*\((.+)\)", name.casefold())
    return [half.strip() for half in match.groups()] if match else []


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def plain(value: Any) -> Any:
    """Tensors and arrays as lists and numbers; FinerCAMError for a tensor that holds none."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except (RuntimeError, TypeError) as error:
        raise FinerCAMError(f"{value!r}: expected plain values, and this {type(value).__name__} has none") from error
