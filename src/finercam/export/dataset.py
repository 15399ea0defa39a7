"""Hugging Face datasets: photos, maps and questions as one table. Needs the package `datasets`."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from finercam.errors import FinerCAMError
from finercam.export.record import Record
from finercam.names import label

__all__ = ["dataset"]


def dataset(records: Iterable[Record]) -> Any:
    """A `datasets.Dataset` with the columns image, map (a gray picture of the photo's size), target and question.

    `.to_parquet(path)` or `.save_to_disk(folder)` keeps it, pictures included. Raises FinerCAMError without the
    package `datasets`.
    """
    try:
        from datasets import Dataset, Features, Sequence, Value
        from datasets import Image as Picture
    except ImportError:
        raise FinerCAMError("a Hugging Face dataset needs the package datasets: pip install datasets") from None
    text, number = Value("string"), Value("float32")
    features = Features(
        {"file": text, "image": Picture(), "map": Picture(), "target": text, "references": Sequence(text)}
        | {"gamma": number, "method": text, "probability": number, "prediction": text}
    )
    return Dataset.from_list([_row(record) for record in records], features=features)


def _row(record: Record) -> dict[str, Any]:
    answer = record.answer
    target = int(answer.target[0])
    return {
        "file": record.file,
        "image": {"bytes": _png(record.open()), "path": None},
        "map": {"bytes": _png(Image.fromarray((record.map * 255).round().astype(np.uint8))), "path": None},
        "target": answer.target_names[0],
        "references": answer.reference_names[0],
        "gamma": float(answer.gamma[0]),
        "method": answer.method,
        "probability": answer.probability(target),
        "prediction": label(int(answer.logits[0].argmax()), answer.class_names),
    }


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
