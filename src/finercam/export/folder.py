"""Explanations as files: a panel and the maps for each image, and one index of them all."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finercam.core.references import NONE
from finercam.errors import FinerCAMError
from finercam.io import write_whole

if TYPE_CHECKING:
    from finercam.beside import Beside
    from finercam.explanation import Explanation
    from finercam.images import Preprocess

__all__ = ["INDEX", "SCHEMA", "Folder", "safe_stem", "save"]

SCHEMA = 1
"""Version of what `explanations.json` holds; raised when a reader of the old one would go wrong."""

INDEX = "explanations.json"

_LONGEST = 80
"""Bytes of a file name's stem: file systems allow 255, and archives and panels want fewer."""

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def save(
    answer: Explanation,
    out_dir: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    image: Any = None,
    *,
    preprocess: Preprocess | None = None,
    model_id: str | None = None,
) -> Path:
    """Write an explanation of N images into a folder, and give the path of its `explanations.json`.

    A path that ends in `.html` gives one live report of them all instead, see `finercam.report.write_report`.

    For each image `<name>.png` is the panel and `<name>.npz` holds the maps (see `arrays`; no pickle), under safe and
    distinct names made of `names`, or numbers. `image` and `preprocess` are the photos as in
    `finercam.plot.panel`. Every file is complete or absent, however the program ends.

    Raises FinerCAMError for a folder that can't be written, or names or photos that do not fit the explanation.
    """
    from finercam.report import write_report
    from finercam.view.shown import one_each

    if names is not None and len(names) != len(answer):
        raise FinerCAMError(f"{len(names)} names for an explanation of {len(answer)}; give one for each")
    photos = [None] * len(answer) if image is None else one_each(image, len(answer))
    if str(out_dir).lower().endswith((".html", ".htm")):
        images = None if image is None else photos
        return write_report(answer, out_dir, names=names, images=images, preprocess=preprocess)
    folder = Folder(Path(out_dir), model_id)
    for sample, one in enumerate(answer):
        folder.add(one, names[sample] if names else f"image-{sample:04d}", photos[sample], preprocess=preprocess)
    return folder.finish()


@dataclass
class Folder:
    """A folder that explanations of one image each are added to, with the index written at the end."""

    path: Path
    model_id: str | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def add(
        self,
        answer: Explanation,
        name: str,
        image: Any = None,
        *,
        preprocess: Preprocess | None = None,
        source: str | None = None,
        example: Any = None,
        beside: Beside | None = None,
    ) -> dict[str, Any]:
        """Write panel and maps of an explanation of one image; gives its entry of the index.

        `example` is a picture of the rival in question, for the panel; `beside` is what `answer.beside` gave, and is drawn
        as `<name>.beside.png`; `source` is where the photo is from, for the index alone.
        """
        from finercam.view.plot import panel_png
        from finercam.view.sheet import png

        drawn = panel_png(answer, image, example, preprocess=preprocess)  # first: it is what can fail
        both = None if beside is None else png(beside.plot(image, preprocess=preprocess))
        stem = safe_stem(name, self.taken)
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays(answer))  # type: ignore[arg-type]
        write_whole(self.path / f"{stem}.npz", stream.getvalue())
        write_whole(self.path / f"{stem}.png", drawn)
        entry = describe(answer)
        entry = {"name": name, "source": source, "files": {"panel": f"{stem}.png", "maps": f"{stem}.npz"}, **entry}
        if beside is not None and both is not None:
            write_whole(self.path / f"{stem}.beside.png", both)
            entry["files"]["beside"] = f"{stem}.beside.png"
            entry["beside"] = beside.describe()
        size = getattr(image, "size", None)
        if preprocess is not None and isinstance(size, tuple) and hasattr(preprocess, "crop_box"):
            entry["photo"] = {"width": size[0], "height": size[1], "shown": list(preprocess.crop_box(size))}
        self.entries.append(entry)
        return entry

    def finish(self) -> Path:
        """Write the index."""
        from finercam._version import __version__

        index = {"schema": SCHEMA, "finercam": __version__, "model": self.model_id, "explanations": self.entries}
        text = json.dumps(index, indent=1, allow_nan=False)
        return write_whole(self.path / INDEX, text.encode())


def arrays(answer: Explanation) -> dict[str, np.ndarray]:
    """What the `.npz` of one image holds; every array is of numbers and loads with `allow_pickle=False`.

    `map` and `plain_map (H, W)` in [0, 1], float16; `signed` and `plain_signed (h, w)` at the layer's resolution
    before the ReLU, float32; `logits (K,)`, `target ()`, `references (T,)` and `gamma ()`.
    """
    plain = answer.plain
    return {
        "map": _numpy(answer.maps[0], np.float16),
        "plain_map": _numpy(plain.maps[0], np.float16),
        "signed": _numpy(answer.signed[0], np.float32),
        "plain_signed": _numpy(plain.signed[0], np.float32),
        "logits": _numpy(answer.logits[0], np.float32),
        "target": np.asarray(int(answer.target[0]), np.int64),
        "references": np.asarray([d for d in answer.references[0].tolist() if d != NONE], np.int64),
        "gamma": np.asarray(float(answer.gamma[0]), np.float64),
    }


def describe(answer: Explanation) -> dict[str, Any]:
    """What `explanations.json` says of one image: question, prediction and setting, in plain values."""
    from finercam.view.drawn import strength_of

    blank, held = not bool((answer.maps[0] > 0).any()), strength_of(answer)
    return {
        "prediction": _class(answer, int(answer.logits[0].argmax())),
        "target": _class(answer, int(answer.target[0])),
        "references": [
            {**_class(answer, d), "similarity": _number(float(answer.similarity[0, place]))}
            for place, d in enumerate(answer.references[0].tolist())
            if d != NONE
        ],
        "link": answer.link,
        "gamma": float(answer.gamma[0]),
        "weights": answer.contrast.weights,
        "strategy": answer.strategy,
        "method": answer.method,
        "layers": list(answer.layers),
        "fusion": answer.question.fusion,
        "input_size": list(answer.image_size),
        "map_size": list(answer.signed.shape[1:]),
        "nothing_speaks_for_target": blank,
        "evidence": {"of_plain_map": held.relative, "of_both_sides": held.share, "weak": held.weak},
    }


def safe_stem(name: str, taken: set[str] | None = None) -> str:
    """A file name's stem that stays in its folder on every file system, and unlike those `taken` (then added).

    Letters and digits of any script stay, with `-`, `_` and inner dots; all else becomes `_`.

    >>> taken = set()
    >>> [safe_stem(name, taken) for name in ("../../etc/passwd", "a b.c", "A b.c", "con", "🐦", "")]
    ['etc_passwd', 'a_b.c', 'A_b.c-2', 'con_', 'image', 'image-2']
    """
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in unicodedata.normalize("NFC", name))
    stem = _shortened(kept.strip("._-"), _LONGEST) or "image"
    stem += "_" if stem.split(".")[0].casefold() in _RESERVED else ""
    taken = set() if taken is None else taken
    number, free = 1, stem
    # case folded: some file systems take "A" and "a" for the same file
    while unicodedata.normalize("NFKC", free).casefold() in taken:
        number += 1
        free = f"{stem}-{number}"
    taken.add(unicodedata.normalize("NFKC", free).casefold())
    return free


def _class(answer: Explanation, index: int) -> dict[str, Any]:
    found = {"id": index, "name": answer.name(index), "probability": answer.probability(index)}
    of = answer.contrast.groups.of(index, answer.logits.shape[1])
    return found if len(of) == 1 else {**found, "id": None, "classes": list(of)}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if np.isfinite(value) else None


def _numpy(tensor: Any, dtype: type) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().astype(dtype)


def _shortened(stem: str, limit: int) -> str:
    return stem.encode("utf-8", "ignore")[:limit].decode("utf-8", "ignore").rstrip("._-")
