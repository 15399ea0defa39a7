"""Writes Fieldguide to disk, for tools that read folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .dataset import Fieldguide
from .species import PARTS, SPECIES, caption, discriminative_parts, nearest_sibling, siblings

__all__ = ["export", "guide"]


def export(out_dir: str | Path, count: int, seed: int = 0, size: int = 128) -> Path:
    """Write an ImageFolder with masks; returns the folder.

    `images/<class>/<index>.png` are the pictures, `masks/<class>/<index>.png` maps of part numbers (8-bit grey:
    0 is not the bird, `n` is part `n` of the guide), `contrast/<class>/<index>.png` the pixels (255) that tell
    the picture from its nearest sibling; `guide.json` holds classes, parts and discriminative parts, `captions.jsonl`
    a line a picture. Pictures that are there already are kept: a run that was cut off goes on.
    """
    from PIL import Image

    birds, out = Fieldguide(count, seed, size), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "guide.json").write_text(json.dumps(guide() | {"count": count, "seed": seed, "size": size}, indent=1))
    lines = []
    for index in range(count):
        label = birds.label(index)
        place = Path(SPECIES[label].name) / f"{index:06d}.png"
        rival = nearest_sibling(label)
        lines.append(
            {"file": f"images/{place.as_posix()}", "label": label, "rival": rival, "caption": caption(label)}
        )
        # The picture is written last: where it is, the others are.
        if (out / "images" / place).exists():
            continue
        picture = birds.picture(index)
        contrast = birds.contrast_mask(index, rival).astype(np.uint8) * 255
        for kind, pixels in (("masks", picture.parts), ("contrast", contrast), ("images", picture.image)):
            path = out / kind / place
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            Image.fromarray(pixels).save(partial, format="PNG")
            partial.replace(path)
    (out / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def guide() -> dict[str, object]:
    """The species, their marks and what tells each from its siblings, as plain data."""
    return {
        "parts": {part: number for number, part in enumerate(PARTS, 1)},
        "classes": [
            {
                "label": label,
                "name": species.name,
                "genus": species.genus.name,
                "caption": caption(label),
                "marks": {part: {"style": mark.style, "colour": mark.colour} for part, mark in species.marks.items()},
                "nearest_sibling": nearest_sibling(label),
                "discriminative_parts": {
                    SPECIES[d].name: list(discriminative_parts(label, d)) for d in siblings(label)
                },
            }
            for label, species in enumerate(SPECIES)
        ],
    }
