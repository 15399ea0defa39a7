"""COCO: lit regions as annotations of the target class, read by pycocotools and most annotation tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from finercam._version import __version__
from finercam.errors import FinerCAMError
from finercam.export.record import LEVEL, Record, lit

__all__ = ["coco", "rle"]

SHAPES = ("rle", "polygon")


def coco(records: Iterable[Record], shape: str = "rle", level: float = LEVEL) -> dict[str, Any]:
    """A dictionary in COCO's object detection format; each lit region is an annotation of the target class.

    `shape` is "rle" (exact masks, uncompressed run lengths) or "polygon" (outer outlines). `score` is the region's
    share of the map; `attributes` holds the question. Category ids are the model's class ids. A map without lit
    regions gives an image without annotations. Raises FinerCAMError for another shape or level.
    """
    if shape not in SHAPES:
        raise FinerCAMError(f"shape={shape!r}: expected one of {', '.join(SHAPES)}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[int, str] = {}
    for record in records:
        answer, (width, height) = record.answer, record.size
        target = int(answer.target[0])
        categories[target] = answer.target_names[0]
        image = {"id": len(images) + 1, "file_name": record.file, "width": width, "height": height}
        question = {
            "against": answer.reference_names[0],
            "gamma": float(answer.gamma[0]),
            "method": answer.method,
            "layers": list(answer.layers),
        }
        for region in lit(record, level):
            outline = rle(region.mask) if shape == "rle" else [region.outline().flatten().tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": target,
                    "segmentation": outline,
                    "bbox": list(region.box),
                    "area": region.area,
                    "iscrowd": 0,
                    "score": region.share,
                    "attributes": question,
                }
            )
        images.append(image)
    return {
        "info": {
            "description": "Regions that speak for the target class rather than its rivals",
            "version": __version__,
        },
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for number, name in sorted(categories.items())
        ],
    }


def rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask `(H, W)` as COCO's uncompressed run lengths: column by column, beginning with the zeros.

    >>> rle(np.array([[1, 0], [1, 1]], bool))
    {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    """
    flat = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
