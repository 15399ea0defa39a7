"""The presets on real photographs: CUB of ../shared/data with the bird model of benchmarks/birds.py and the ViT-Tiny."""

from __future__ import annotations

import re

import torch
from benchmarks.birds import FOLDER, network, preprocess
from benchmarks.fine import ROWS, signed_maps, with_interval
from torch import Tensor

from finercam import FinerCAM, load_model, metrics
from finercam.data.cub import CUB
from finercam.evaluation.truth import Truth, read_notes, read_truth
from finercam.images import Preprocess

PHOTOS = FOLDER.parent / "cub-dev" / "CUB_200_2011"
SIZE = 224


def photos() -> None:
    """Tables of the bird model: the most similar species named, and the rival that each preset picks by itself."""
    names = (FOLDER / "labels.txt").read_text("utf-8").splitlines()
    _tables(network(), preprocess(SIZE), names, ("the most alike species named", "the rival predicted"))


def tokens() -> None:
    """Tables of the ViT-Tiny, with the likeliest namesake and the most similar species named."""
    loaded = load_model(str(PHOTOS.parent / "vit-tiny-cub20"))
    named = ("the likeliest namesake named", "the most alike species named")
    _tables(loaded.model, loaded.preprocess, list(loaded.class_names or ()), named)


def _tables(model: torch.nn.Module, prepare: Preprocess, names: list[str], titles: tuple[str, ...]) -> None:
    data = CUB(PHOTOS, "all")
    birds = [_key(name.partition("(")[2] or name) for name in names]
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
    alike = [_nearest(data, data[index].label, list(of_model)) for index in kept]
    likely = logits.scatter(1, target[:, None], -torch.inf).argmax(1)
    predicted = [species.get(int(c), alike[at]) for at, c in enumerate(likely)]
    namesakes = []
    for at, index in enumerate(kept):
        same = [s for s in data.siblings(data[index].label) if s in of_model]
        namesakes.append(max(same, key=lambda s: float(logits[at, of_model[s]])) if same else predicted[at])
    for title in titles:
        rivals = alike if "alike" in title else namesakes if "namesake" in title else predicted
        of_rivals = torch.tensor([of_model[s] for s in rivals])
        asked = None if "predicted" in title else of_rivals
        pairs = [(data[index].label, rival) for index, rival in zip(kept, rivals, strict=True)]
        truth = read_truth(data, notes, sizes, pairs, prepare, (SIZE, SIZE), ("localisation", "parts"))
        known = torch.tensor([asked is not None or int(c) in species for c in likely])
        _table(title, model, images, target, asked, truth, of_rivals, known)


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
