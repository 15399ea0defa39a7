"""Whether matched places lie on the same part: `python -m benchmarks.matches fieldguide|cub|absence`; for docs/rival.md.

`fieldguide` counts by the painted masks: a match is near if both places are on the bird, and the same if both are on the
same visible part. `cub` counts by the 15 keypoints, as Vandenhende et al. (ECCV 2022) do, in a window of a seventh of
the side around each place: near if both windows hold a keypoint, the same if they share one. `absence` asks about parts
that only the rival has: what lights on the target's photo, and what lights on the rival's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.fine import with_interval
from torch import Tensor

from finercam import FinerCAM, load_model, metrics
from finercam.beside import GRID, Beside, Examples
from finercam.data.cub import CUB
from finercam.data.fieldguide import Fieldguide
from finercam.data.fieldguide.species import SPECIES, discriminative_parts
from finercam.images import Preprocess
from finercam.matching import descriptors

Place = tuple[float, float]
Parts = Callable[[Place], set[str]]
"""The parts at a place of one photo."""

CANDIDATES = 12
KINDS = ("evidence and features", "of these, sure ones", "features alone", "random cells")
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "cub-dev"


def fieldguide(count: int, seed: int) -> None:
    birds = Fieldguide(count, seed=seed)
    labels = birds.labels(range(count))
    for name in ("cnn", "resnet", "vit"):
        explain, prepare = _explainer(name)
        images = torch.stack([prepare(birds.image(i)) for i in range(count)])
        of_class = {int(c): images[np.flatnonzero(labels == c)] for c in set(labels.tolist())}
        numbers = {int(c): np.flatnonzero(labels == c).tolist() for c in set(labels.tolist())}
        rivals = [birds.nearest_sibling(int(c)) for c in labels]
        asked = [(i, d) for i, d in enumerate(rivals) if d in of_class]

        def shown(explain=explain, images=images, of_class=of_class, numbers=numbers, asked=asked):
            examples = Examples(of_class, most=CANDIDATES)
            for i, d in asked:
                (one,) = explain(images[i : i + 1], target=int(labels[i]), against=[d]).beside(examples)
                yield one, _painted(birds, i), _painted(birds, numbers[d][one.chosen])

        _table(f"Fieldguide, {name}, seed {seed}, nearest sibling", shown())


def cub(size: int) -> None:
    data = CUB(PHOTOS / "CUB_200_2011", "all")
    for name, explain, prepare, of_model in _models(data, size):
        kept = [at for at in range(len(data)) if data[at].label in of_model]
        opened = {at: data[at].open() for at in kept}
        photos = {of_model[s]: [at for at in kept if data[at].label == s] for s in of_model}
        inputs = {c: torch.stack([prepare(opened[at]) for at in own]) for c, own in photos.items() if own}
        points = {at: _keypoints(data[at].annotation.keypoints, opened[at].size, prepare) for at in kept}

        def shown(explain=explain, inputs=inputs, photos=photos, points=points, of_model=of_model):
            examples = Examples(inputs, most=CANDIDATES)
            species = [s for s in of_model if of_model[s] in inputs]
            for c, own in photos.items():
                for place, at in enumerate(own):
                    d = of_model[_most_alike(data, data[at].label, species)]
                    (one,) = explain(inputs[c][place][None], target=c, against=[d]).beside(examples)
                    yield one, points[at], points[photos[d][one.chosen]]

        _table(f"CUB (development photos), {name}, the most alike species", shown())


def absence(count: int, seed: int) -> None:
    """Parts that only the rival has: on which photo the evidence lies on them."""
    birds = Fieldguide(count, seed=seed)
    labels = birds.labels(range(count)).tolist()
    asked = [(i, d) for i, c in enumerate(labels) for d in birds.siblings(c) if d in labels and _lacks(c, d)]
    print(f"\nParts that only the rival has: Fieldguide, seed {seed}, {len(asked)} questions")
    print("| model | photo | energy | chance | times chance | pointing | chance |\n|---|---|--:|--:|--:|--:|--:|")
    for name in ("cnn", "resnet", "vit"):
        explain, prepare = _explainer(name)
        images = torch.stack([prepare(birds.image(i)) for i in range(count)])
        numbers = {c: [i for i, own in enumerate(labels) if own == c] for c in set(labels)}
        examples = Examples({c: images[own] for c, own in numbers.items()}, most=CANDIDATES)
        maps, masks = {"its own": [], "the rival's": []}, {"its own": [], "the rival's": []}
        for i, d in asked:
            (one,) = explain(images[i : i + 1], target=labels[i], against=[d]).beside(examples)
            j = numbers[d][one.chosen]
            for whose, answer, mask in (
                ("its own", one.answer, birds.contrast_mask(i, d)),
                ("the rival's", one.rival, birds.contrast_mask(j, labels[i])),
            ):
                maps[whose].append(answer.maps[0])
                masks[whose].append(torch.from_numpy(mask))
        for whose, own in maps.items():
            print(f"| {name} | {whose} | {_absence_row(torch.stack(own), torch.stack(masks[whose]))} |", flush=True)


def _absence_row(maps: Tensor, masks: Tensor) -> str:
    energy, share = metrics.energy(maps, masks), metrics.mask_share(masks)
    known = energy.isfinite()
    times = metrics.bootstrap_ratio(energy[known], share[known])
    ratio = f"{times.estimate:.2f} [{times.low:.2f}, {times.high:.2f}]"
    chance = metrics.pointing_chance(masks)
    cells = [with_interval(energy), f"{float(share[known].mean()):.3f}", ratio]
    return " | ".join([*cells, with_interval(metrics.pointing(maps, masks)), f"{float(chance.nanmean()):.3f}"])


def _table(title: str, shown: Iterable[tuple[Beside, Parts, Parts]]) -> None:
    """Shares of matches near a part and on the same one, in all numbers and in the first of each photo."""
    random = np.random.default_rng(0)
    found: dict[str, list[tuple[int, float, float]]] = {kind: [] for kind in KINDS}
    for one, here, there in shown:
        for number, (places, match) in enumerate(zip(_alone(one), one.matches, strict=True)):
            ours = (match.place, match.place_there)
            pairs = [ours, ours, places, (tuple(random.random(2)), tuple(random.random(2)))]
            for kind, (a, b) in zip(KINDS, pairs, strict=True):
                if kind == KINDS[1] and not match.sure:
                    continue
                own, other = here(a), there(b)
                found[kind].append((number, float(bool(own) and bool(other)), float(bool(own & other))))
    values = {kind: torch.tensor(rows, dtype=torch.float64) for kind, rows in found.items()}
    first = values[KINDS[0]][:, 0] == 0
    print(f"\n{title}: {int(first.sum())} photos, {len(first)} matches")
    print("| matched by | matches | near | same | first near | first same |\n|---|--:|--:|--:|--:|--:|")
    for kind, rows in values.items():
        leading = rows[rows[:, 0] == 0]
        cells = [with_interval(column) for some in (rows, leading) for column in some[:, 1:].unbind(1)]
        print(f"| {kind} | {len(rows)} | {' | '.join(cells)} |", flush=True)


def _alone(one: Beside) -> Iterator[tuple[Place, Place]]:
    """For each match the same cell here, and the cell there with the nearest features, whatever its evidence."""
    sizes = [tuple(min(side, GRID) for side in each.signed.shape[1:]) for each in (one.answer, one.rival)]
    layers = [each.require_backend().features(each.images)[0] for each in (one.answer, one.rival)]
    here, there = (descriptors(of, (s[0], s[1]))[0] for of, s in zip(layers, sizes, strict=True))
    height, width = sizes[1]
    for match in one.matches:
        alike = torch.einsum("c,chw->hw", here[:, match.here[0], match.here[1]], there)
        row, column = divmod(int(alike.argmax()), width)
        yield match.place, ((column + 0.5) / width, (row + 0.5) / height)


def _painted(birds: Fieldguide, index: int) -> Parts:
    parts = birds.picture(index).parts

    def at(place: Place) -> set[str]:
        part = int(parts[int(place[1] * parts.shape[0]), int(place[0] * parts.shape[1])])
        return {str(part)} if part else set()

    return at


def _keypoints(points: dict[str, tuple[float, float]], size: tuple[int, int], prepare: Preprocess) -> Parts:
    """Keypoints within a window of a seventh of the model's input around a place."""
    x0, y0, x1, y1 = prepare.crop_box(size)
    shares = {part: ((x - x0) / (x1 - x0), (y - y0) / (y1 - y0)) for part, (x, y) in points.items()}

    def at(place: Place) -> set[str]:
        return {part for part, p in shares.items() if max(abs(p[0] - place[0]), abs(p[1] - place[1])) <= 1 / 14}

    return at


def _models(data: CUB, size: int) -> Iterator[tuple[str, FinerCAM, Preprocess, dict[int, int]]]:
    """The two models of ../shared/data, and the class id that each has for the species of the photos."""
    from benchmarks.birds import FOLDER, network, preprocess
    from benchmarks.fine_photos import _key

    lines = (FOLDER / "labels.txt").read_text("utf-8").splitlines()
    birds = [_key(name.partition("(")[2] or name) for name in lines]
    seen = {data[at].label for at in range(len(data))}
    convolutional = {s: birds.index(_key(data.classes[s])) for s in seen if _key(data.classes[s]) in birds}
    yield "MobileNetV2", FinerCAM(network()), preprocess(size), convolutional
    loaded = load_model(str(PHOTOS / "vit-tiny-cub20"))
    names = [_key(name) for name in loaded.class_names or ()]
    of_vit = {s: names.index(_key(data.classes[s])) for s in seen if _key(data.classes[s]) in names}
    yield "ViT-Tiny", FinerCAM(loaded.model), loaded.preprocess, of_vit


def _most_alike(data: CUB, species: int | None, among: list[int]) -> int:
    from benchmarks.fine_photos import _nearest

    assert species is not None
    return _nearest(data, species, among)


def _explainer(name: str) -> tuple[FinerCAM, Preprocess]:
    loaded = load_model(f"fieldguide/{name}")
    return FinerCAM(loaded.model, class_names=loaded.class_names), loaded.preprocess


def _lacks(c: int, d: int) -> bool:
    """Whether every part in which the species differ is worn by the rival `d` only."""
    return all(part not in SPECIES[c].marks and part in SPECIES[d].marks for part in discriminative_parts(c, d))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("fieldguide", "cub", "absence"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=77013)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    if arguments.what == "cub":
        cub(arguments.size)
    elif arguments.what == "absence":
        absence(arguments.count, arguments.seed)
    else:
        fieldguide(arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
