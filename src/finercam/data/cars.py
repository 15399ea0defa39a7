"""Stanford Cars: 196 models of cars, with boxes from the development kit's `.mat` files."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from finercam.annotation import Annotation, clip_box
from finercam.data.files import SampleList, find_root, pick, safe_path
from finercam.data.folder import ImageFolder
from finercam.data.matlab import read_variable
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError
from finercam.images import image_size, read_image

__all__ = ["Cars"]

Box = tuple[float, float, float, float]


class Cars(SampleList):
    """Stanford Cars (Krause et al., 2013), splits `train` (8,144) and `test` (8,041), as published or by classes.

    As published: `cars_train/`, `cars_test/`, `devkit/cars_meta.mat`, `devkit/cars_train_annos.mat` and
    `cars_test_annos_withlabels.mat` (in `root` or `devkit/`); boxes count pixels from 1 with both ends inside and
    are turned into `(x0, y0, x1, y1)` from 0, `x1`, `y1` exclusive. By classes (`{train,test}/<Make Model Year>/`)
    there are no boxes.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        pick("split", split, ("train", "test"))
        root = Path(root)
        name = f"Stanford Cars {split}"
        if _has_class_folders(root, split):
            folder = ImageFolder(root, split)
            super().__init__(f"{name} (by classes, no boxes)", root, folder.classes, folder.samples, folder.skipped)
            return
        base = find_root(name, root, ["stanford_cars"], [f"cars_{split}", "devkit/cars_meta.mat"])
        classes = [str(entry) for entry in _rows(base / "devkit" / "cars_meta.mat", "class_names")]
        source = _annotations(base, split)
        samples, skipped = [], []
        for row in _rows(source, "annotations"):
            file = str(_field(row, "fname", source))
            try:
                path = safe_path(base / f"cars_{split}", file)
            except FinerCAMError as error:
                skipped.append((file, str(error)))
                continue
            x0, y0, x1, y1 = (_number(row, f"bbox_{end}", source) for end in ("x1", "y1", "x2", "y2"))
            annotate = partial(_annotate, path, (x0 - 1, y0 - 1, x1, y1))
            label = int(_number(row, "class", source)) - 1
            samples.append(Sample(f"cars_{split}/{file}", label, partial(read_image, path, upright=False), annotate))
        super().__init__(name, base, classes, samples, skipped)


def _has_class_folders(root: Path, split: str) -> bool:
    return (root / split).is_dir() and not (root / f"cars_{split}").exists()


def _annotations(base: Path, split: str) -> Path:
    file = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    for place in (base / file, base / "devkit" / file):
        if place.exists():
            return place
    if (base / "devkit" / "cars_test_annos.mat").exists() and split == "test":
        raise FinerCAMError(f"Stanford Cars: cars_test_annos.mat has no labels; put {file} into {base / 'devkit'}")
    raise FinerCAMError(f"Stanford Cars: {base} lacks {file}, in it or in devkit/")


def _rows(path: Path, name: str) -> list[Any]:
    """A variable of a MATLAB file as a list."""
    found = read_variable(path, name)
    return found if isinstance(found, list) else [found]


def _field(row: Any, name: str, source: Path) -> Any:
    try:
        return row[name]
    except (IndexError, KeyError, ValueError, TypeError):
        raise FinerCAMError(f"{source} has annotations without the field {name!r}") from None


def _number(row: Any, name: str, source: Path) -> float:
    found = _field(row, name, source)
    if not isinstance(found, int | float) or not math.isfinite(found):
        raise FinerCAMError(f"{source} has an annotation whose {name!r} is {found!r:.80}; expected a number")
    return found


def _annotate(path: Path, box: Box) -> Annotation:
    return Annotation(box=clip_box(box, image_size(path, upright=False)))
