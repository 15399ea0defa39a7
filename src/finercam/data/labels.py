"""What labels mean: numbers or names, and the classes of a dataset among those of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from finercam.errors import FinerCAMError, suggest
from finercam.names import class_id

__all__ = ["is_number", "label_ids", "match_classes"]


def is_number(label: str) -> bool:
    """Whether a label of a list can be a class id: a whole number of at most six digits.

    >>> is_number("17"), is_number("--5"), is_number("x")
    (True, False, False)
    """
    return re.fullmatch("-?[0-9]{1,6}", label) is not None


def label_ids(
    labels: Sequence[str | None], classes: Sequence[str], where: object
) -> tuple[list[int | None], list[str]]:
    """One label a row (None: not known), and the class names.

    Labels that are all numbers are class ids; then the names are `classes`. Otherwise they are names, of `classes` if
    there are any, else in alphabetical order. Raises FinerCAMError for a name that is not among `classes`.
    """
    given = {label for label in labels if label is not None}
    if all(map(is_number, given)):
        ids = [None if label is None or int(label) < 0 else int(label) for label in labels]
        return ids, list(classes)
    unknown = sorted(given - set(classes)) if classes else []
    if unknown:
        raise FinerCAMError(
            f"{where}: class {unknown[0]!r} is not among the {len(classes)} classes given."
            f"{suggest(unknown[0], classes)}"
        )
    names = list(classes) or sorted(given)
    position = {name: index for index, name in enumerate(names)}
    return [None if label is None else position[label] for label in labels], names


def match_classes(
    classes: Sequence[str],
    names: Sequence[str],
    needed: Iterable[int] | None = None,
    dataset: str = "the dataset",
    whose: str = "model",
) -> list[int | None]:
    """The position among a model's `names` of each of a dataset's `classes`, None where the model has no such class.

    Names match as in `finercam.names.class_id`, and if that finds nothing without apostrophes and other signs. Raises
    FinerCAMError if no class matches, if two match the same name, and for one of `needed` (labels) that matches none;
    `dataset` and `whose` names are in its message.

    >>> match_classes(["Brewer Blackbird", "dodo"], ["Euphagus cyanocephalus (Brewer's Blackbird)", "Turdus merula"])
    [0, None]
    """
    if list(classes) == list(names):
        return list(range(len(names)))
    simple = [_without_signs(name) for name in names]
    found: list[int | None] = []
    matched: dict[int, str] = {}
    for name in classes:
        at = _position(name, names)
        at = _position(_without_signs(name), simple) if at is None else at
        found.append(at)
        if at is not None and matched.setdefault(at, name) != name:
            raise FinerCAMError(
                f"{dataset}: classes {matched[at]!r} and {name!r} both match {names[at]!r} of the {whose}"
            )
    lacking = [classes[label] for label in sorted(set(needed or ())) if found[label] is None]
    if lacking or not matched:
        first = (lacking or list(classes) or ["(none)"])[0]
        raise FinerCAMError(
            f"{dataset}: class {first!r} is not among the {len(names)} classes of the {whose} "
            f"({len(classes) - len(matched)} of {len(classes)} do not match).{suggest(first, names)}"
        )
    return found


def _position(name: str, names: Sequence[str]) -> int | None:
    try:
        return class_id(name, names, len(names))
    except FinerCAMError:
        return None


def _without_signs(name: str) -> str:
    """Lower case letters and digits; commas and parentheses stay, which separate synonyms.

    >>> _without_signs("Brewer's Black-bird (male)")
    'brewer black bird (male)'
    """
    return " ".join(re.sub(r"[^\w(),]|_", " ", re.sub(r"['’]s\b|['’]", "", name.casefold())).split())
