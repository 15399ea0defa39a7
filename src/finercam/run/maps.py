"""Some images of a run as `finercam evaluate` takes them: a batch at a time, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.run.reader import Run
from finercam.run.stored import answers

__all__ = ["stored_answers"]


def stored_answers(run: Run, positions: Sequence[int]) -> list[tuple[list[int], Any, Explanation]]:
    """Explanations of some images of a run, with their rows and their places in `positions`; a part for each shard.

    Raises FinerCAMError for an image without explanation.
    """
    place = {position: at for at, position in enumerate(positions)}
    parts = []
    for number in sorted({run._shard_of(position)[0] for position in positions}):
        table = run._read(number)
        table = table.filter([position in place for position in table.column("position").to_pylist()])
        for rows, answer in answers(table, run.manifest.settings):
            parts.append(([place.pop(position) for position in rows.column("position").to_pylist()], rows, answer))
    for position in place:
        raise FinerCAMError(f"image {position} of {run.store.place} was not explained; leave it out")
    return parts
