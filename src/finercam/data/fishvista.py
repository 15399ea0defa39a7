"""Fish-Vista: museum photographs of fish by species, with traits named per species and masked per picture."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation
from finercam.data.files import SampleList, find_root, pick, read_grey, read_json, read_table
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError
from finercam.images import image_size, read_image

__all__ = ["TRAITS", "FishVista"]

TRAITS = ("adipose_fin", "pelvic_fin", "barbel", "multiple_dorsal_fin")

_SPLITS = {
    "classification": {name: f"classification_{name}.csv" for name in ("train", "val", "test")},
    "identification": {
        name: f"identification_{name}.csv" for name in ("train", "val", "test_insp", "test_lvsp", "test_manual_annot")
    },
    "segmentation": {name: f"segmentation_{name}.csv" for name in ("train", "val", "test")}
    | {"all": "segmentation_data.csv"},
}


class FishVista(SampleList):
    """The published repository (Mehrab et al., CVPR 2025) as cloned, its CSV files and `Images/` with chunks or flat.

    - `task="classification"` (419 species), `"segmentation"` (2,427 pictures with masks): splits train, val, test;
      segmentation also `all`;
    - `task="identification"` (682 species): train, val, `test_insp` (species seen in training; also `test`),
      `test_lvsp` (species left out), `test_manual_annot`.

    Labels are species (`standardized_species`; classes are those of all splits of the task, sorted), or with
    `trait` one of `TRAITS` absent (0) or present (1): pictures for which it is unknown (−1 or blank) are skipped.
    Masks, where the picture has a file in `segmentation_masks/images/`, go by the names in
    `seg_id_trait_map.json` in lower case ("dorsal fin"); `"object"` is all traits together, *not* the whole fish,
    and there is no box: the background is white, so finding the fish proves nothing. Pictures that are listed
    but not on disk are skipped (about 1,000 under CC BY-ND are not distributed).
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "test",
        task: str = "classification",
        trait: str | None = None,
    ) -> None:
        splits = _SPLITS[pick("task", task, _SPLITS)]
        if task == "identification" and split == "test":
            split = "test_insp"
        listing = splits[pick(f"{task} split", split, splits)]
        if trait is not None:
            pick("trait", trait, TRAITS)
        base = find_root("Fish-Vista", root, ["fish-vista"], [listing])
        needed = ("filename", "standardized_species", *((trait,) if trait else ()))
        rows = read_table(base / listing, needed)
        if trait:
            classes = [f"no {trait.replace('_', ' ')}", trait.replace("_", " ")]
        else:
            classes = _species(base, splits.values())
        position = {name: index for index, name in enumerate(classes)}
        place = _index(base)
        masks = base / "segmentation_masks"
        names = _trait_names(masks / "seg_id_trait_map.json")

        samples, skipped = [], []
        self.traits: dict[str, dict[str, bool | None]] = {}
        for row in rows:
            file = row["filename"]
            presence = {name: _presence(row.get(name)) for name in TRAITS}
            label = presence[trait] if trait else position[row["standardized_species"]]
            if label is None:
                skipped.append((file, f"{trait} unknown"))
            elif file not in place:
                skipped.append((file, "not on disk"))
            else:
                path = place[file]
                mask = masks / "images" / f"{Path(file).stem}.png"
                annotate = partial(_annotate, path, mask, names)
                key = path.relative_to(base).as_posix()
                self.traits[key] = presence
                samples.append(Sample(key, int(label), partial(read_image, path, upright=False), annotate))
        about = f"{task} {split}" + (f" {trait}" if trait else "")
        super().__init__(f"Fish-Vista {about}", base, classes, samples, skipped)


def _species(base: Path, listings) -> list[str]:
    found: set[str] = set()
    for listing in listings:
        if (base / listing).exists():
            found |= {row["standardized_species"] for row in read_table(base / listing, ["standardized_species"])}
    return sorted(found)


def _index(base: Path) -> dict[str, Path]:
    """File name to path. A name in a CSV is only looked up here, so that it cannot lead anywhere else."""
    found: dict[str, Path] = {}
    for folder in (base / "Images", base / "AllImages"):
        for where, _, files in os.walk(folder):
            found |= {file: Path(where, file) for file in files}
    if not found:
        raise FinerCAMError(f"Fish-Vista: {base} has no pictures in Images/ (or AllImages/)")
    return found


def _trait_names(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    named = read_json(path)
    try:
        return {int(key): str(name).lower() for key, name in named.items()}
    except (ValueError, AttributeError) as error:
        raise FinerCAMError(f"{path} is not a JSON object of trait numbers and names: {error}") from None


def _presence(text: str | None) -> bool | None:
    """1 is present and 0 absent; −1, blank and anything else is not known."""
    return {"1": True, "1.0": True, "0": False, "0.0": False}.get((text or "").strip())


def _annotate(path: Path, mask: Path, names: dict[int, str]) -> Annotation:
    import numpy as np

    if not mask.exists():
        return Annotation()
    values = read_grey(mask, image_size(path, upright=False))
    masks = {}
    for number in np.unique(values).tolist():
        if number not in names:
            raise FinerCAMError(f"{mask} has trait {number}, which seg_id_trait_map.json does not name")
        if number != 0:  # background
            masks[names[number]] = values == number
    if masks:
        masks["object"] = values != 0
    return Annotation(masks=masks)
