"""Label Studio: lit regions as predictions that annotators can correct."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from finercam._version import __version__
from finercam.export.record import LEVEL, Record, lit

__all__ = ["label_config", "label_studio"]

FROM, TO = "part", "image"


def label_studio(records: Iterable[Record], prefix: str = "", level: float = LEVEL) -> list[dict[str, Any]]:
    """Tasks with polygons as predictions, for Label Studio's import.

    `prefix` is put before each file's name to make the address that Label Studio opens, for example
    "/data/local-files/?d=birds/". The score of a task is the target's probability. `label_config` gives the labelling
    interface that fits.
    """
    tasks = []
    for number, record in enumerate(records):
        answer = record.answer
        regions = [
            _polygon(record, region.outline(), f"{number}-{place}", region.share)
            for place, region in enumerate(lit(record, level))
        ]
        prediction = {
            "model_version": f"finercam {__version__}: {answer.method}, gamma {float(answer.gamma[0]):g}",
            "score": answer.probability(int(answer.target[0])),
            "result": regions,
        }
        question = {"target": answer.target_names[0], "against": ", ".join(answer.reference_names[0])}
        tasks.append({"data": {"image": f"{prefix}{record.file}", **question}, "predictions": [prediction]})
    return tasks


def label_config(class_names: Iterable[str]) -> str:
    """The labelling interface (XML) for the tasks: polygons with one label for each class.

    >>> print(label_config(["wren"]))
    <View>
      <Header value="Why $target rather than $against?"/>
      <Image name="image" value="$image"/>
      <PolygonLabels name="part" toName="image">
        <Label value="wren"/>
      </PolygonLabels>
    </View>
    """
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in class_names)
    return (
        f'<View>\n  <Header value="Why $target rather than $against?"/>\n  <Image name="{TO}" value="$image"/>\n'
        f'  <PolygonLabels name="{FROM}" toName="{TO}">\n{labels}\n  </PolygonLabels>\n</View>'
    )


def _polygon(record: Record, outline: np.ndarray, number: str, share: float) -> dict[str, Any]:
    width, height = record.size
    points = (outline * [100 / width, 100 / height]).tolist()  # Label Studio counts in percent
    return {
        "id": number,
        "type": "polygonlabels",
        "from_name": FROM,
        "to_name": TO,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": share,
        "value": {"points": points, "closed": True, "polygonlabels": [record.answer.target_names[0]]},
    }
