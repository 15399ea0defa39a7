"""Real photographs with known parts: whether the evidence lies on the parts in which target and rival differ.

The 120 photographs of ../shared/data/cub-dev (CUB-200-2011, for research only), the MobileNetV2 of ../shared/data/inat-birds
and the ViT-Tiny beside the photographs. The rival is the likeliest species whose name ends in the same word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import birds

from finercam.data import open_dataset
from finercam.evaluation import evaluate
from finercam.evaluation.summary import Line
from finercam.models import LoadedModel, load_model

FOLDER = birds.FOLDER.parent / "cub-dev"
HEAD = ("model", "layers", "map", "photographs", "pointing", "ρ", "S", "S more than last layer, plain", "E")
VALUES = ("part_pointing", "part_correlation", "part_share", "part_energy")


def models() -> Iterator[tuple[str, LoadedModel, list[tuple[str, str, dict[str, Any]]]]]:
    """The models by name, with the layers and methods to compare."""
    names = (birds.FOLDER / "labels.txt").read_text(encoding="utf-8").splitlines()
    two, three = ("blocks.5.0.bn1", "bn2"), ("blocks.3.0.bn1", "blocks.5.0.bn1", "bn2")
    yield (
        "MobileNetV2",
        LoadedModel(birds.network(), birds.preprocess(224), names, "inat-birds"),
        [
            ("last", "gradcam", {}),
            (" × ".join(two), "hirescam", {"layer": two, "fusion": "product"}),
            (" × ".join(three), "hirescam", {"layer": three, "fusion": "product"}),
        ],
    )
    vit = load_model(str(FOLDER / "vit-tiny-cub20"))
    yield "ViT-Tiny", vit, [("last block's entrance", name, {}) for name in ("gradcam", "hirescam")]


def rows(out: Path) -> list[list[str]]:
    """For each model, layers and map: the values with their controls; S also against plain Grad-CAM of the last layer."""
    photographs = open_dataset(f"cub:{FOLDER / 'CUB_200_2011'}")
    found = []
    for name, model, compared in models():
        lines: list[Line] = []
        for layers, method, options in compared:
            place = out / f"photographs-{name}-{method}-{layers.replace(' × ', 'x').replace(chr(39), '')}"
            lines = evaluate(
                photographs, model, place, [method], ["pair", "random"], ["parts"], baseline="last", **options
            )
            for contrast in ("plain", "pair", "random"):
                found.append(_row(lines, (name, layers, f"{method}, {contrast}"), (method, contrast)))
        found += [
            _row(lines, (name, "", f"control: {which}"), ("control", which)) for which in ("uniform", "gaussian")
        ]
    return found


def _row(lines: Sequence[Line], names: tuple[str, ...], of: tuple[str, str]) -> list[str]:
    by_metric = {line.metric: line for line in lines if (line.method, line.contrast) == of}
    pointing, rho, share, energy = (by_metric.get(name) for name in VALUES)
    more = "" if share is None or share.difference != share.difference else _signed(share)
    cells = ["" if line is None else f"{line.mean:.3f}" for line in (pointing, rho, share)]
    pictures = "" if share is None else str(share.pictures)
    return [*names, pictures, *cells, more, "" if energy is None else f"{energy.mean:.3f}"]


def _signed(line: Line) -> str:
    return f"{line.difference:+.3f} [{line.difference_low:+.3f}, {line.difference_high:+.3f}]"
