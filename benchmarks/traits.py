"""Whether trait pages find what tells two species apart, and what a guide costs: the numbers of docs/traits.md.

    python -m benchmarks.traits pairs                            # sibling pairs of Fieldguide, three built-in models
    python -m benchmarks.traits pairs --models cnn --pairs 20 --photos 20 --seed 11
    python -m benchmarks.traits shuffled                         # the same with the two labels shuffled
    python -m benchmarks.traits absent                           # a part that the target lacks: both photos
    python -m benchmarks.traits guide --classes 49 --photos 30   # time through that of plain inference, with a kill

- pairs: how often the first trait is a part in which the two species differ, and how often both parts of pairs that
  differ in two are among the first three. A trait has the name that the part masks give it. Chance is a part drawn from
  those visible on either bird. An eye lies in its eye-ring, and is counted as wrong and, apart, as right.
- shuffled: the same photos, whose two labels were drawn at random; how many traits are still called consistent.
- absent: for parts that the target lacks, how far the map exceeds chance (mass in the pixels that differ, over their share
  of the area) and points at them, on the target's photos and, with the question reversed, on the rival's.
- guide: a guide that is killed half-way and continued, compared with running the model once over the same photos.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from finercam import FinerCAM, load_model, metrics
from finercam.annotation import Annotation
from finercam.core.maps import upsample
from finercam.data.fieldguide import CHANGED, PARTS, SPECIES, Fieldguide, discriminative_parts, siblings
from finercam.data.sample import Sample
from finercam.data.source import ReaderSource
from finercam.models import LoadedModel
from finercam.traits import Pair, compare
from finercam.traits.album import Album, Photo
from finercam.traits.collect import Collector

MODELS = ("cnn", "resnet", "vit")
SPEED = "fieldguide/resnet"


class Painted:
    """Scenes of Fieldguide with chosen species in them: `items` are scene, species, and the label that they are given."""

    name = "painted"

    def __init__(self, seed: int, items: list[tuple[int, int, int]]) -> None:
        self.birds, self.items = Fieldguide(10**7, seed=seed), items
        self.classes = self.birds.classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        scene, species, label = self.items[index]
        return Sample(
            f"{scene}-{index}", label, partial(self._image, scene, species), partial(self._note, scene, species)
        )

    def _image(self, scene: int, species: int) -> Image.Image:
        return Image.fromarray(self.birds.picture(scene, species).image)

    def _note(self, scene: int, species: int) -> Annotation:
        parts = self.birds.picture(scene, species).parts
        masks = {part: parts == number for number, part in enumerate(PARTS, 1)}
        return Annotation(masks={part: mask for part, mask in masks.items() if mask.any()})


def sibling_pairs(count: int, seed: int) -> list[tuple[int, int]]:
    """All pairs of species of one genus, or a sample of them."""
    pairs = [(c, d) for c in range(len(SPECIES)) for d in siblings(c) if c < d]
    return pairs if not count or count >= len(pairs) else random.Random(seed).sample(pairs, count)


def album_of(pair: tuple[int, int], seed: int, first: int, photos: int, shuffled: bool) -> Album:
    species = [pair[side] for side in (0, 1) for _ in range(photos)]
    labels = list(species)
    if shuffled:
        random.Random(f"{seed} {pair}").shuffle(labels)
    items = [(first + at, shown, label) for at, (shown, label) in enumerate(zip(species, labels, strict=True))]
    dataset = Painted(seed, items)
    album = Album(ReaderSource(dataset), {}, "painted")
    for at, (_, _, label) in enumerate(items):
        album.of_class.setdefault(label, []).append(Photo(at, dataset[at].id))
    return album


def compared(loaded: LoadedModel, options: argparse.Namespace, shuffled: bool) -> Iterator[Pair]:
    explain = FinerCAM(loaded.model, preset=options.preset, class_names=loaded.class_names, keep_images=False)
    for number, (c, d) in enumerate(sibling_pairs(options.pairs, options.seed)):
        album = album_of((c, d), options.seed, 2 * number * options.photos, options.photos, shuffled)
        collector = Collector(explain, album, loaded.preprocess, options.removed, readers=0)
        yield compare(collector.collect(c, [d]), collector.collect(d, [c]))


def chance(pair: Pair) -> float:
    """How likely a part is a deciding one, if it is drawn from those that can be seen on either bird."""
    worn = set(SPECIES[pair.target].marks) | set(SPECIES[pair.rival].marks) | {"legs", "body", "wing", "eye"}
    return len(discriminative_parts(pair.target, pair.rival)) / len(worn)


def pairs(options: argparse.Namespace) -> None:
    print(f"{options.photos} photos a class of seed {options.seed}, {options.removed} with removal")
    print("| model | pairs | first trait decides | eye counted as its ring | both in the first three | chance |")
    print("|---|---|---|---|---|---|")
    for name in options.models.split(","):
        begun = time.process_time()
        strict, kind, both, by_chance = [], [], [], []
        for pair in compared(load_model(f"fieldguide/{name}"), options, shuffled=False):
            parts = set(discriminative_parts(pair.target, pair.rival))
            order = [trait.name for trait in pair.traits]
            ring = ["eye_ring" if part == "eye" and "eye_ring" in parts else part for part in order]
            strict.append(bool(order) and order[0] in parts)
            kind.append(bool(order) and ring[0] in parts)
            if len(parts) == 2:
                both.append(parts <= set(ring[:3]))
            by_chance.append(chance(pair))
            if options.verbose and not (kind[-1] and (len(parts) < 2 or both[-1])):
                print(
                    f"  {SPECIES[pair.target].name} / {SPECIES[pair.rival].name}: {sorted(parts)}, found {ring[:4]}"
                )
        cells = [f"{np.mean(strict):.3f}", f"{np.mean(kind):.3f}", f"{np.mean(both):.3f} of {len(both)}"]
        spent = time.process_time() - begun
        print(
            f"| {name} | {len(strict)} | {' | '.join(cells)} | {np.mean(by_chance):.3f} |  {spent:.0f} s", flush=True
        )


def shuffled(options: argparse.Namespace) -> None:
    print(f"{options.photos} photos a class of seed {options.seed}")
    print("| model | labels | traits | consistent | pairs with a consistent trait |\n|---|---|---|---|---|")
    for name in options.models.split(","):
        for drawn in (False, True):
            found = list(compared(load_model(f"fieldguide/{name}"), options, drawn))
            traits = [trait for pair in found for trait in pair.traits]
            share = np.mean([trait.consistent for trait in traits])
            of_pairs = np.mean([bool(pair.consistent) for pair in found])
            labels = "shuffled" if drawn else "true"
            print(f"| {name} | {labels} | {len(traits)} | {share:.3f} | {of_pairs:.3f} |", flush=True)


def absent(options: argparse.Namespace) -> None:
    birds = Fieldguide(10**7, seed=options.seed)
    print("| model | pairs | target's photo: over chance, pointing | rival's photo: over chance, pointing |")
    print("|---|---|---|---|")
    lacking = []
    for c, d in sibling_pairs(0, 0):
        parts = discriminative_parts(c, d)
        for one, other in ((c, d), (d, c)):
            if len(parts) == 1 and parts[0] not in SPECIES[one].marks and parts[0] in SPECIES[other].marks:
                lacking.append((one, other))
    lacking = lacking[: options.pairs or None]
    for name in options.models.split(","):
        loaded = load_model(f"fieldguide/{name}")
        explain = FinerCAM(loaded.model, preset=options.preset, keep_images=False)
        values: dict[str, list[float]] = {"own": [], "own points": [], "rival": [], "rival points": []}
        for number, (c, d) in enumerate(lacking):
            scenes = range(number * options.photos, (number + 1) * options.photos)
            shown = {k: [birds.picture(scene, k).image for scene in scenes] for k in (c, d)}
            truth = torch.from_numpy(np.stack([differ(a, b) for a, b in zip(shown[c], shown[d], strict=True)]))
            seen = truth.flatten(1).any(1)
            for key, one, other in (("own", c, d), ("rival", d, c)):
                images = torch.stack([loaded.preprocess(Image.fromarray(image)) for image in shown[one]])
                answer = explain(images, target=one, against=[[other]] * len(images))
                maps = upsample(answer.signed, answer.image_size)
                energy = metrics.energy(maps, truth) / truth.flatten(1).float().mean(1)
                values[key] += energy[seen].tolist()
                values[f"{key} points"] += metrics.pointing(maps, truth)[seen].tolist()
        cells = {key: np.nanmean(of) for key, of in values.items()}
        print(
            f"| {name} | {len(lacking)} | {cells['own']:.2f}, {cells['own points']:.2f} "
            f"| {cells['rival']:.2f}, {cells['rival points']:.2f} |",
            flush=True,
        )


def differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The pixels in which two pictures of one scene differ."""
    return (np.maximum(one, other) - np.minimum(one, other)).max(-1) > CHANGED


def guide(options: argparse.Namespace) -> None:
    """A guide of class folders, killed when half of the evidence is there, and continued."""
    with tempfile.TemporaryDirectory() as place:
        data, out = Path(place) / "birds", Path(place) / "guide"
        birds = Fieldguide(10**7, seed=options.seed)
        for label in range(options.classes):
            species = label % len(SPECIES)
            folder = data / birds.classes[species]
            folder.mkdir(parents=True, exist_ok=True)
            for at in range(options.photos):
                scene = label * options.photos + at
                Image.fromarray(birds.picture(scene, species).image).save(folder / f"{scene:06d}.png")
        files = sorted(data.rglob("*.png"))
        loaded = load_model(SPEED)
        begun = time.perf_counter()
        with torch.no_grad():
            for at in range(0, len(files), 8):
                loaded.model(torch.stack([loaded.preprocess(Image.open(file)) for file in files[at : at + 8]]))
        plain = time.perf_counter() - begun
        command = [sys.executable, "-m", "finercam.cli", "guide", str(data), "--model", SPEED, "--out", str(out)]
        command += ["--photos", str(options.photos), "--removed", str(options.removed), "--nearest", "2"]
        begun = time.perf_counter()
        first = subprocess.Popen(command)
        while first.poll() is None and len(list((out / "sights").glob("*.safetensors"))) < options.classes // 2:
            time.sleep(0.2)
        first.kill()
        first.wait()
        stopped = time.perf_counter() - begun
        made = {file: file.stat().st_mtime_ns for file in (out / "sights").glob("*.safetensors")}
        begun = time.perf_counter()
        subprocess.run(command, check=True)
        rest = time.perf_counter() - begun
        again = [file for file, when in made.items() if file.stat().st_mtime_ns != when]
        pages = list((out / "pairs").glob("*.html"))
        size = sum(file.stat().st_size for file in pages) / len(pages) / 1024
        print(f"{len(files)} photos of {len(list(data.iterdir()))} classes, {len(pages)} pages of {size:.0f} KiB")
        print(f"killed after {stopped:.0f} s with {len(made)} classes, {len(again)} of which were made again")
        print(f"{stopped + rest:.0f} s, {(stopped + rest) / plain:.1f} times plain inference ({plain:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pairs", "shuffled", "absent", "guide"))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--pairs", type=int, default=0, help="a sample of the pairs; 0 is all of them")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--removed", type=int, default=10)
    parser.add_argument("--classes", type=int, default=len(SPECIES))
    parser.add_argument("--preset")
    parser.add_argument("--seed", type=int, default=77013)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    {"pairs": pairs, "shuffled": shuffled, "absent": absent, "guide": guide}[options.what](options)


if __name__ == "__main__":
    main()
