"""Writes Fieldguide to disk for tools that read folders: `python -m training.export OUT --count 500`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finercam.data.fieldguide import (
    PARTS,
    SPECIES,
    Fieldguide,
    caption,
    discriminative_parts,
    nearest_sibling,
    siblings,
)

__all__ = ["export", "guide"]


def export(out_dir: str | Path, count: int, seed: int = 0, size: int = 128) -> Path:
    """Write an ImageFolder with masks and return the folder.

    `images/<class>/<index>.png` are the pictures, `masks/<class>/<index>.png` maps of part numbers (8-bit grey:
    0 is not the bird, `n` is part `n` of the guide), `contrast/<class>/<index>.png` the pixels (255) that differ
    from the nearest sibling. `guide.json` holds classes, parts and discriminative parts, `captions.jsonl` has one
    line per picture. Pictures that exist already are kept, so an interrupted export can be continued.
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
        # The picture is written last, so its presence means that its masks are complete.
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
    """The species, their marks and the parts in which each differs from its siblings, as plain data."""
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Write Fieldguide as an ImageFolder."
    )
    parser.add_argument("out", type=Path, help="folder for pictures, labels and part masks")
    parser.add_argument("--count", type=int, default=200, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels")
    options = parser.parse_args(arguments)
    print(f"{options.count} pictures: {export(options.out, options.count, options.seed, options.size)}")


if __name__ == "__main__":
    main()
