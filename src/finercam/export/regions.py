"""Audiovisual Core: lit regions as regions of interest of biodiversity records, one row a region."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from finercam._version import __version__
from finercam.export.record import LEVEL, Record, lit

__all__ = ["COLUMNS", "regions"]

COLUMNS = (
    "dcterms:identifier", "ac:isROIOf", "dc:type", "ac:xFrac", "ac:yFrac", "ac:widthFrac", "ac:heightFrac",
    "dwc:scientificName", "dcterms:description", "ac:comments", "dcterms:source",
)  # fmt: skip


def regions(records: Iterable[Record], level: float = LEVEL) -> str:
    """A CSV table of rectangles in fractions of the photo, by the terms of Audiovisual Core (formerly Audubon Core).

    `ac:isROIOf` is the photo's file, `dwc:scientificName` the target class as the model names it, and the description
    says which class it was compared with.
    """
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    for record in records:
        (width, height), answer = record.size, record.answer
        name, rivals = answer.target_names[0], ", ".join(answer.reference_names[0])
        for place, region in enumerate(lit(record, level), 1):
            x, y, wide, high = region.box
            table.writerow(
                {
                    "dcterms:identifier": f"{record.file}#region-{place}",
                    "ac:isROIOf": record.file,
                    "dc:type": "StillImage",
                    "ac:xFrac": f"{x / width:.6f}",
                    "ac:yFrac": f"{y / height:.6f}",
                    "ac:widthFrac": f"{wide / width:.6f}",
                    "ac:heightFrac": f"{high / height:.6f}",
                    "dwc:scientificName": name,
                    "dcterms:description": f"what tells {name} from {rivals}"
                    if rivals
                    else f"what speaks for {name}",
                    "ac:comments": f"{region.share:.0%} of the evidence; {answer.method}, gamma {float(answer.gamma[0]):g}",
                    "dcterms:source": f"finercam {__version__}",
                }
            )
    return stream.getvalue()
