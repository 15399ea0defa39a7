"""Rasters: for each photo its map as a 16-bit PNG of the photo's size, and the question beside it as JSON."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from finercam.export.folder import describe, safe_stem
from finercam.export.record import Record
from finercam.io import write_whole

__all__ = ["rasters"]


def rasters(records: Iterable[Record], folder: str | os.PathLike[str]) -> Path:
    """Write `<name>.png` (gray, 0 to 65,535 for 0 to 1) and `<name>.json` for each record, and give the folder.

    A pixel of the PNG is a pixel of the photo. The JSON holds the photo's file and what `explanations.json` says of an
    image: question, prediction and setting.
    """
    out, taken = Path(folder), set()
    for record in records:
        stem = safe_stem(record.file.rpartition(".")[0] or record.file, taken)
        stream = io.BytesIO()
        Image.fromarray((record.map * 65535).round().astype(np.uint16)).save(stream, "PNG")
        write_whole(out / f"{stem}.png", stream.getvalue())
        said = {"photo": record.file, "width": record.size[0], "height": record.size[1], **describe(record.answer)}
        write_whole(out / f"{stem}.json", json.dumps(said, indent=1, allow_nan=False).encode())
    return out
