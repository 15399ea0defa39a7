"""Class names: from what a person writes to the class id a model knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from finercam.errors import FinerCAMError, suggest

__all__ = ["class_id", "in_order", "label", "names_in", "plain"]

LARGEST_ID = 2**31


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


def names_in(model: Any) -> tuple[str, ...] | None:
    """The class names that a model carries: its `class_names`, its `names` (Ultralytics), or its `config.id2label`.

    None where it carries none, or only numbers in their place, such as `LABEL_0`.

    >>> from types import SimpleNamespace
    >>> names_in(SimpleNamespace(config=SimpleNamespace(id2label={0: "wren", 1: "robin"})))
    ('wren', 'robin')
    """
    config = getattr(model, "config", None)
    for carried in (
        getattr(model, "class_names", None),
        getattr(model, "names", None),
        getattr(config, "id2label", None),
    ):
        try:
            names = in_order(carried if isinstance(carried, Mapping | list | tuple) else None)
        except FinerCAMError:
            continue
        if names and any(name not in (str(index), f"LABEL_{index}") for index, name in enumerate(names)):
            return names
    return None


def class_id(given: Any, names: Sequence[str] | None, num_classes: int | None, what: str = "class") -> int:
    """The id of a class given by id or by name; where `num_classes` is None, any id below 2**31 is one.

    A name matches whole, ignoring case. Either half of "Genus species (Common Name)" matches too, and so does each
    synonym of "indigo bunting, indigo finch", if only one class has it. An unknown name raises FinerCAMError with
    the nearest ones.

    >>> class_id("blue jay", ["Passer montanus (Tree Sparrow)", "Cyanocitta cristata (Blue Jay)"], 2)
    1
    >>> class_id("indigo finch", ["junco, snowbird", "indigo bunting, indigo finch"], 2)
    1
    """
    if isinstance(given, Tensor) and given.ndim == 0 and not given.is_floating_point():
        given = given.item()
    if isinstance(given, str):
        return _by_name(given, names, what)
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise FinerCAMError(f"{what} {given!r}: expected a class id (int) or a class name (str)")
    number, limit = int(given), LARGEST_ID if num_classes is None else num_classes
    if not 0 <= number < limit:
        shown = number if abs(number) < LARGEST_ID else f"a number of {number.bit_length()} bits"
        expected = "at least 0" if num_classes is None and number < 0 else f"in 0…{limit - 1}"
        raise FinerCAMError(f"{what} {shown}: expected a class id {expected}")
    return number


def label(index: int, names: Sequence[str] | None) -> str:
    """The name to show for a class id."""
    return names[index] if names is not None else f"class {index}"


def _by_name(given: str, names: Sequence[str] | None, what: str) -> int:
    if names is None:
        raise FinerCAMError(
            f"{what} {given!r}: the class names are not known; pass class_names=…, or give a class id"
        )
    wanted = given.strip().casefold()
    exact = [index for index, name in enumerate(names) if name.casefold() == wanted]
    matches = exact or [index for index, name in enumerate(names) if wanted in _parts(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise FinerCAMError(
            f"{what} {given!r} names {len(matches)} classes ({matches[:5]}); give the id or the full name"
        )
    known = [part for name in names for part in (name, *_parts(name))]
    raise FinerCAMError(f"{what} {given!r} is not among the {len(names)} class names.{suggest(given, known)}")


def _parts(name: str) -> list[str]:
    """The halves of "Genus species (Common Name)", or the synonyms of "one name, another name"."""
    match = re.fullmatch(r"(.+?)\s*\((.+)\)", name.casefold())
    parts = match.groups() if match else name.casefold().split(",") if "," in name else ()
    return [part.strip() for part in parts]


def plain(value: Any) -> Any:
    """Tensors and arrays as lists and numbers; FinerCAMError for a tensor that holds none."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except (RuntimeError, TypeError) as error:
        raise FinerCAMError(f"{value!r}: expected plain values, and this {type(value).__name__} has none") from error
