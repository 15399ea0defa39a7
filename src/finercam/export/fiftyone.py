"""FiftyOne: samples with heatmaps. Needs the package `fiftyone`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from finercam.errors import FinerCAMError
from finercam.export.record import Record

__all__ = ["fiftyone"]


def fiftyone(records: Iterable[Record], field: str = "finercam") -> list[Any]:
    """Samples (`fiftyone.Sample`) of the photos' files, each with a `Heatmap` in [0, 1] and the question as fields.

    Add them to a dataset with `dataset.add_samples(...)`. Raises FinerCAMError without the package `fiftyone`.
    """
    try:
        fo: Any = import_module("fiftyone")
    except ImportError:
        raise FinerCAMError("samples for FiftyOne need the package fiftyone: pip install fiftyone") from None
    samples = []
    for record in records:
        answer = record.answer
        sample = fo.Sample(filepath=record.file)
        sample[field] = fo.Heatmap(map=record.map, range=[0, 1])
        probability = answer.probability(int(answer.target[0]))
        sample[f"{field}_target"] = fo.Classification(label=answer.target_names[0], confidence=probability)
        sample[f"{field}_against"] = answer.reference_names[0]
        samples.append(sample)
    return samples
