"""The presets on real photographs: CUB of ../shared/data and the bird model of benchmarks/birds.py."""

from __future__ import annotations

import re

import torch
from benchmarks.birds import FOLDER, network, preprocess
from benchmarks.fine import ROWS, signed_maps, with_interval
from torch import Tensor

from finercam import FinerCAM, metrics
from finercam.data.cub import CUB
from finercam.evaluation.truth import Truth, read_notes, read_truth

PHOTOS = FOLDER.parent / "cub-dev" / "CUB_200_2011"
SIZE = 224


def photos() -> None:
    """Tables with the most similar species named, and with the rival that each preset picks by itself."""
    data, model, prepare = CUB(PHOTOS, "all"), network(), preprocess(SIZE)
    birds = [_key(name.partition("(")[2] or name) for name in (FOLDER / "labels.txt").read_text("utf-8").splitlines()]
    of_model = {species: birds.index(_key(name)) for species, name in enumerate(data.classes) if _key(name) in birds}
    kept = [index for index in range(len(data)) if data[index].label in of_model]
    opened = [data[index].open() for index in kept]
    images = torch.stack([prepare(image) for image in opened])
    target = torch.tensor([of_model[data[index].label] for index in kept])
    notes, _ = read_notes(data, kept)
    sizes = [image.size for image in opened]
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in images.split(16)])
    species = {c: s for s, c in of_model.items()}
    named = [_nearest(data, data[index].label, list(of_model)) for index in kept]
    likely = logits.scatter(1, target[:, None], -torch.inf).argmax(1)
    picked = [species.get(int(c), named[at]) for at, c in enumerate(likely)]
    for title, rivals, asked in (
        ("the most alike species named", named, torch.tensor([of_model[s] for s in named])),
        ("the rival predicted", picked, None),
    ):
        pairs = [(data[index].label, rival) for index, rival in zip(kept, rivals, strict=True)]
        truth = read_truth(data, notes, sizes, pairs, prepare, (SIZE, SIZE), ("localisation", "parts"))
        known = torch.tensor([asked is not None or int(c) in species for c in likely])
        _table(title, model, images, target, asked, truth, torch.tensor([of_model[s] for s in rivals]), known)


def _table(
    title: str,
    model: torch.nn.Module,
    images: Tensor,
    target: Tensor,
    asked: Tensor | None,
    truth: Truth,
    rivals: Tensor,
    known: Tensor,
) -> None:
    assert truth.regions is not None and truth.differences is not None and truth.boxes is not None
    chance = metrics.part_evidence_chance(truth.regions, truth.differences)["part_share"][known]
    print(
        f"\n{title}: {int(known.sum())} photos, {int(chance.isfinite().sum())} with a deciding part; chance S {with_interval(chance)}"
    )
    print(
        "| preset | S | S against plain | E | box | box against plain | RD@5 | RD against plain |\n|---|---|---|---|---|---|---|---|"
    )
    base: list[Tensor] = []
    for row, options in ROWS.items():
        maps = signed_maps(FinerCAM(model, **options), images, target, asked)
        parts = metrics.part_evidence(maps, truth.regions, truth.differences)
        drop = metrics.relative_drop(model, images, maps, target, rivals[:, None], shares=[0.05]).rd.flatten()
        own = [parts["part_share"][known], metrics.energy(maps, truth.boxes)[known], drop[known]]
        base = base or own
        share, box, rd = (with_interval(values) for values in own)
        gains = [with_interval(values, plain) for values, plain in zip(own, base, strict=True)]
        energy = with_interval(parts["part_energy"][known])
        print(f"| {row} | {share} | {gains[0]} | {energy} | {box} | {gains[1]} | {rd} | {gains[2]} |", flush=True)


def _nearest(data: CUB, species: int, among: list[int]) -> int:
    """The other species that differs least over all parts."""
    return min((s for s in among if s != species), key=lambda s: sum(data.attribute_difference(species, s).values()))


def _key(name: str) -> str:
    return re.sub(r"[^a-z]|s(?=\b)", "", name.lower().replace("'s", "").replace("grey", "gray"))


if __name__ == "__main__":
    photos()
