"""The measurements of docs/zeroshot.md: the maps of texts in the two-tower model, and the results of the audit.

    python -m benchmarks.concepts [--count 441] [--per-pair 12] [--model twotower] [--only TABLE …] [--write]

All on fresh Fieldguide pictures. `--write` puts the tables into docs/zeroshot.md between their markers.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from training.classifiers import normed
from training.twotower import zero_shot_accuracy

from finercam import FinerCAM, load_model
from finercam.concept import audit, concept_maps, load_image_text
from finercam.concept.audit import MEASURES
from finercam.concept.maps import ImageText
from finercam.core.maps import positive, upsample
from finercam.data.fieldguide import PARTS, SPECIES, Fieldguide, discriminative_parts, siblings, traits
from finercam.data.fieldguide.species import NAMED
from finercam.metrics.bootstrap import bootstrap, bootstrap_ratio
from finercam.metrics.localisation import energy, pointing
from finercam.models import LoadedModel
from finercam.view.blend import overlay

SEED = 40_000
"""Seed that no built-in model was trained, tuned or tested on."""
VISIBLE = 12
"""Smallest number of visible pixels of a part for its picture to count."""
PAGE = Path(__file__).parents[1] / "docs" / "zeroshot.md"
SETTINGS = {"alone": 0.0, "against": 0.3, "against, 0.6": 0.6}
Scores = dict[str, Tensor]


def located(words: ImageText, count: int, method: str, seed: int = SEED) -> dict[str, Scores]:
    """Energy and pointing of the phrase of each part in the pictures that show it, alone and against "bird".

    The chance levels are the part's share of the picture and of the bird. The control is the phrase of another visible part.
    "picture" is the picture's number, so that what comes of one picture is drawn together by the bootstrap.
    """
    birds = Fieldguide(count, seed)
    by_label = defaultdict(list)
    for index in range(count):
        by_label[birds.label(index)].append(index)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for label, indices in sorted(by_label.items()):
        named = traits(label)
        pictures = [birds.picture(index) for index in indices]
        pixels = normed(torch.stack([torch.from_numpy(picture.image) for picture in pictures]).numpy())
        numbers = torch.stack([torch.from_numpy(picture.parts) for picture in pictures])
        maps = {name: _maps(words, pixels, list(named.values()), gamma, method) for name, gamma in SETTINGS.items()}
        for place, part in enumerate(named):
            masks = numbers == PARTS.index(part) + 1
            shown = masks.flatten(1).sum(1) >= VISIBLE
            if not shown.any():
                continue
            row = found[part]
            row["picture"] += [index for index, seen in zip(indices, shown.tolist(), strict=True) if seen]
            for name, of_texts in maps.items():
                row[name] += energy(of_texts[shown, place], masks[shown]).nan_to_num(0).tolist()
            row["pointing"] += pointing(maps["against"][shown, place], masks[shown]).tolist()
            other = (place + 1) % len(named)
            row["other phrase"] += energy(maps["against"][shown, other], masks[shown]).nan_to_num(0).tolist()
            row["chance"] += masks[shown].float().mean((1, 2)).tolist()
            row["of the bird"] += (masks[shown].sum((1, 2)) / (numbers[shown] > 0).sum((1, 2))).tolist()
    return {part: {k: torch.tensor(v) for k, v in found[part].items()} for part in NAMED if part in found}


def _maps(words: ImageText, pixels: Tensor, texts: Sequence[str], gamma: float, method: str) -> Tensor:
    maps = concept_maps(words.model, pixels, texts, gamma=gamma, method=method, tokenizer=words.tokenizer)
    size = (pixels.shape[2], pixels.shape[3])
    return upsample(maps.flatten(0, 1), size).unflatten(0, maps.shape[:2])


def localisation_table(found: dict[str, Scores]) -> str:
    rows = []
    for part, scores in found.items():
        ratio = bootstrap_ratio(scores["against"], scores["alone"])
        rows.append(
            [
                *(part.replace("_", " "), str(len(scores["alone"])), *(_share(scores[k]) for k in COLUMNS)),
                f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            ]
        )
    means = {name: over_parts(found, name) for name in COLUMNS}
    ratio = torch.stack([means["against"] / means["alone"]])
    rows.append(
        ["**mean over parts**", "", *(f"**{_share(means[k][:1])}**" for k in COLUMNS), f"**{_interval(ratio[0])}**"]
    )
    best = {name: _interval(means[name]) for name in ("alone", "against", "against, 0.6")}
    head = ["part", "pictures", "chance", "of the bird", "other phrase", "phrase alone", "against bird, γ 0.3", "against bird, γ 0.6", "pointing, γ 0.3", "γ 0.3 / alone"]  # fmt: skip
    said = ", ".join(
        f"{what} {best[name]}"
        for name, what in (("alone", "phrase alone"), ("against", "γ 0.3"), ("against, 0.6", "γ 0.6"))
    )
    return _table(head, rows) + f"\n\nMeans over parts with 95 % intervals (pictures redrawn 2,000 times): {said}."


def over_parts(found: dict[str, Scores], name: str, resamples: int = 2000) -> Tensor:
    """The mean over parts of a score's mean over pictures: first the estimate, then its bootstrap draws.

    Whole pictures are drawn, with all parts they show, the same ones for every name, so that ratios are paired.
    """
    count = 1 + max(int(scores["picture"].max()) for scores in found.values())
    picks = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(0))
    drawn = torch.zeros(resamples, count).scatter_add_(1, picks, torch.ones(resamples, count))
    times = torch.cat([torch.ones(1, count), drawn]).double()
    means = []
    for scores in found.values():
        of_part = times[:, scores["picture"].long()]
        means.append(of_part @ scores[name].double() / of_part.sum(1))
    return torch.stack(means).mean(0)


def _interval(values: Tensor) -> str:
    low, high = torch.quantile(values[1:], torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return f"{float(values[0]):.2f} [{low:.2f}, {high:.2f}]"


COLUMNS = ("chance", "of the bird", "other phrase", "alone", "against", "against, 0.6", "pointing")


def methods_table(words: ImageText, count: int, methods: Sequence[str]) -> str:
    rows = []
    for method in methods:
        found = located(words, count, method)
        means = [torch.stack([scores[name].mean() for scores in found.values()]).mean() for name in SETTINGS]
        rows.append([f"`{method}`", *(f"{float(mean):.3f}" for mean in means), f"{float(means[1] / means[0]):.2f}"])
    return _table(["method", "phrase alone", "γ 0.3", "γ 0.6", "γ 0.3 / alone"], rows)


def one_trait_pairs() -> list[tuple[int, int, str]]:
    """Ordered pairs (c, d) of a genus that differ in one part, which c has: `(c, d, part)`."""
    pairs = []
    for c in range(len(SPECIES)):
        for d in siblings(c):
            parts = discriminative_parts(c, d)
            if len(parts) == 1 and parts[0] in SPECIES[c].marks:
                pairs.append((c, d, parts[0]))
    return pairs


def all_traits(c: int) -> dict[str, str]:
    """A phrase for every named part: that of the bird, or the first known phrase for parts that it lacks."""
    anyone = {part: phrase for label in reversed(range(len(SPECIES))) for part, phrase in traits(label).items()}
    own = traits(c)
    return {part: own.get(part, anyone[part]) for part in NAMED}


Found = dict[tuple[str, str], list[tuple[int, int, str]]]
"""By candidates and measure, for each pair: rank of the deciding trait, number of traits, and its part."""


def audits(words: ImageText, classifier: LoadedModel, per_pair: int, gamma: float = 1.0, seed: int = SEED) -> Found:
    """The rank of the deciding trait among the traits of c, and among phrases for all parts."""
    explain = FinerCAM(classifier.model, gamma=gamma, class_names=classifier.class_names)
    birds = Fieldguide(per_pair, seed)
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    places: Found = defaultdict(list)
    for c, d, part in one_trait_pairs():
        named = all_traits(c)
        if c not in seen:
            pixels = torch.stack([torch.from_numpy(birds.picture(i, c).image) for i in range(per_pair)]).numpy()
            seen[c] = normed(pixels), concept_maps(words.model, normed(pixels), list(named.values()))
        pictures, maps = seen[c]
        evidence = explain(pictures, target=c, against=[d]).signed
        for what, parts in (("traits that c shows", list(traits(c))), ("all 13 parts", list(named))):
            columns = maps[:, [list(named).index(one) for one in parts]]
            for by in MEASURES:
                ranked = [one.trait for one in audit(evidence, columns, parts, by=by, seed=seed)]
                places[what, by].append((ranked.index(part) + 1, len(parts), part))
    return places


def audit_table(of: dict[str, Found]) -> str:
    rows = []
    for classifier, places in of.items():
        for (what, by), found in places.items():
            first = bootstrap(torch.tensor([float(place == 1) for place, _, _ in found]))
            chance = sum(1 / many for _, many, _ in found) / len(found)
            mean = sum(place for place, _, _ in found) / len(found)
            rows.append([f"`{classifier}`", what, by.replace("_", " "), str(len(found)), f"{chance:.2f}", f"**{first.estimate:.2f}** [{first.low:.2f}, {first.high:.2f}]", f"{mean:.1f}"])  # fmt: skip
    return _table(
        ["classifier", "candidates", "ranked by", "pairs", "chance", "deciding trait first", "mean rank"], rows
    )


def by_part_table(of: dict[str, Found]) -> str:
    rows = []
    for part in NAMED:
        row = []
        for places in of.values():
            ranks = [place for place, _, deciding in places["all 13 parts", "cosine"] if deciding == part]
            row.append(
                f"{sum(r == 1 for r in ranks) / len(ranks):.2f} ({sum(ranks) / len(ranks):.1f})" if ranks else ""
            )
        if any(row):
            rows.append([part.replace("_", " "), str(len(ranks)), *row])
    return _table(["deciding part", "pairs", *(f"`{name}`: first (mean rank)" for name in of)], rows)


def _share(values: Tensor) -> str:
    return f"{float(values.mean()):.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def draw(words: ImageText, out: Path) -> None:
    """Four birds, each with a phrase alone and against "bird", and with the part outlined."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [species.name for species in SPECIES]
    shown = [("Royal Pippin", "wing_bar"), ("Red-capped Tapper", "crown"), ("Red-shouldered Zest", "epaulet"), ("Black-billed Brolly", "beak")]  # fmt: skip
    figure, axes = plt.subplots(3, len(shown), figsize=(2.1 * len(shown), 6.6), layout="constrained")
    for column, (name, part) in enumerate(shown):
        label = names.index(name)
        picture, text = Fieldguide(60, SEED).picture(column + 3, label), traits(label)[part]
        pixels = normed(torch.from_numpy(picture.image)[None].numpy())
        for row, gamma in enumerate((None, 0.0, 0.3)):
            axis = axes[row, column]
            axis.axis("off")
            axis.imshow(picture.image)
            if gamma is None:
                axis.set_title(text, fontsize=9)
                continue
            heat = positive(_maps(words, pixels, [text], gamma, "value-attention")[0])[0]
            axis.imshow(overlay(picture.image, heat, mute=0.5))
            axis.contour(picture.parts == PARTS.index(part) + 1, levels=[0.5], colors="white", linewidths=0.8)
            axis.set_title("alone" if gamma == 0 else 'against "bird"', fontsize=9)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=84)
    plt.close(figure)
    full = Image.open(drawn).convert("RGB")
    palette = full.quantize(256, Image.Quantize.MAXCOVERAGE)  # a third of the bytes; keeps the colours of small heat
    full.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=441, help="pictures for the localisation tables")
    parser.add_argument("--per-pair", type=int, default=12, help="pictures of each audited pair")
    parser.add_argument("--model", default="twotower")
    parser.add_argument("--classifiers", nargs="+", default=["fieldguide/cnn", "fieldguide/resnet"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="*", default=None, help="tables to make: accuracy localisation methods audit parts"
    )
    parser.add_argument("--write", action="store_true", help="put the tables and the picture into docs/zeroshot.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    words = load_image_text(arguments.model)

    @cache
    def audited() -> dict[str, Found]:
        return {name: audits(words, load_model(name), arguments.per_pair) for name in arguments.classifiers}

    makers: dict[str, Callable[[], str]] = {
        "accuracy": lambda: "Share of pictures named rightly among 49 captions: {:.3f} [{:.3f}, {:.3f}].".format(
            *zero_shot_accuracy(words.model, SEED, 1000)  # type: ignore[arg-type]
        ),
        "localisation": lambda: localisation_table(located(words, arguments.count, "value-attention")),
        "methods": lambda: methods_table(words, arguments.count // 2, ["value-attention", "gradcam", "hirescam", "layercam"]),
        "audit": lambda: audit_table(audited()),
        "parts": lambda: by_part_table(audited()),
    }  # fmt: skip
    if arguments.write and arguments.only is None:
        draw(words, PAGE.parent / "images" / "zeroshot-concepts.png")
    for name, make in makers.items():
        if arguments.only is None or name in arguments.only:
            table = make()
            print(f"\n{name}\n\n{table}", flush=True)
            if arguments.write:
                _put(name, table)


def _put(name: str, table: str) -> None:
    page = PAGE.read_text()
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(page):
        raise SystemExit(f"{PAGE}: no markers for {name!r}")
    PAGE.write_text(marked.sub(lambda found: found[1] + table + "\n" + found[2], page))


if __name__ == "__main__":
    main()
