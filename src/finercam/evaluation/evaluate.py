"""evaluate: methods by contrasts by metrics on a dataset, resumable, with its controls and chance levels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finercam import methods as method_registry
from finercam import metrics
from finercam.annotation import Annotation
from finercam.core.capture import run_model
from finercam.data.batches import Batch as Loaded
from finercam.data.batches import loader
from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError
from finercam.evaluation.ask import Ask, parse_ask
from finercam.evaluation.maps import CONTROLS, Questions, controls, questions, signed_maps
from finercam.evaluation.measures import Batch, Group, find_groups
from finercam.evaluation.paper import paper_csv, paper_markdown, paper_rows
from finercam.evaluation.shards import Shards, write_whole
from finercam.evaluation.stored import StoredBatch, StoredMaps, match, own_or_refused, own_question
from finercam.evaluation.summary import CHANCE, CONTROL, Line, describe, markdown, summarise, to_csv
from finercam.evaluation.truth import Truth, read_notes, read_truth
from finercam.explainer import FinerCAM
from finercam.run.reader import Run, open_run

if TYPE_CHECKING:
    from finercam.images import Preprocess
    from finercam.models import LoadedModel

__all__ = ["evaluate"]


def evaluate(
    dataset: ImageDataset,
    model: LoadedModel,
    out: str | Path,
    methods: Sequence[str] | None = None,
    contrasts: Sequence[str] | None = None,
    groups: Sequence[str] = ("rd",),
    *,
    run: str | Path | Run | None = None,
    layer: str | Sequence[str] | None = None,
    fusion: str | None = None,
    target: str = "label",
    fill: str = "zero",
    steps: int = 50,
    tolerance: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    correct_only: bool = False,
    seed: int = 0,
    redo: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """Measure every method under every contrast on a dataset; writes `out` and returns the summary's lines.

    Writes `parts/*.parquet` (a row a picture and map), `settings.json`, `summary.md`, `summary.csv`,
    `summary.json`, and the paper's table of this dataset, `paper.md` and `paper.csv`. Always beside them: the plain map, the controls (uniform, centred Gaussian, shuffled plain map;
    random references as contrast "random" if asked for) and chance levels. One capture a picture serves all methods
    that gather the same evidence, and all contrasts. Stopped at any moment, the same call goes on.

    With `run` (a finished `finercam run` of this dataset and model, or its folder) the maps are those that it kept,
    of its method and layers: the model runs only where pixels are removed, and for logits that the run lacks.
    Otherwise `methods` are ("gradcam",), and `contrasts` ("plain", "paper", "pair") or the run's own.

    The group "paper" stands for deletion, rd and, where the data have boxes or masks, localisation. `target` is
    "label" (as in the paper) or "prediction". Raises FinerCAMError before any work for an unknown name, and for a
    dataset without the annotation that a metric asked for by name needs, or that is not the run's.
    """
    kept = open_run(run) if isinstance(run, str | Path) else run
    if kept is not None:
        own = kept.manifest.settings
        methods = own_or_refused(kept, "methods", methods, [own.method])
        layer = tuple(own_or_refused(kept, "layer", layer, own.layers))
        (fusion,) = own_or_refused(kept, "fusion", fusion, [own.fusion])
        contrasts = own_question(own) if contrasts is None else contrasts
    methods = ("gradcam",) if methods is None else methods
    contrasts = ("plain", "paper", "pair") if contrasts is None else contrasts
    fusion = "mean" if fusion is None else fusion
    asks = [parse_ask(text) for text in dict.fromkeys(("plain", *contrasts))]
    chosen = [method_registry.get(name) for name in methods]
    wanted = find_groups(list(groups))
    _check_target(target, dataset, model)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    explain = FinerCAM(
        model.model,
        layer=list(layer) if isinstance(layer, tuple) else layer,
        fusion=fusion,
        class_names=model.class_names,
    )
    left_out = _lacking(dataset, wanted, groups, count)
    wanted = {name: group for name, group in wanted.items() if name not in left_out}
    stored = None if kept is None else match(kept, dataset, model, count)
    settings = {
        "dataset": dataset.name, "model": model.name, "layer": layer, "fusion": fusion, "methods": list(methods),
        "contrasts": [ask.name for ask in asks], "metrics": list(groups), "target": target, "fill": fill, "steps": steps,
        "tolerance": tolerance, "limit": count, "seed": seed, "preprocess": _short(model.preprocess),
        "rival": "sibling of the class" if hasattr(dataset, "siblings") else "other class",
        "finercam": _version(), "torch": torch.__version__.split("+")[0],
    } | ({"left out": left_out} if left_out else {}) | ({} if kept is None else {"run": kept.manifest.settings.digest})  # fmt: skip
    shards = Shards(Path(out), settings, redo)
    left = sorted(set(range(count)) - shards.done())
    at = count - len(left)
    if stored is not None:
        gone = [index for index in left if index in stored.lacking]
        shards.write([{"index": i, "id": dataset[i].id, "error": stored.lacking[i]} for i in gone])
        left, at = [index for index in left if index not in stored.lacking], at + len(gone)
    for loaded in loader(dataset, model.preprocess, batch_size, indices=left):
        usable, notes, errors = _usable(dataset, loaded, target)
        rows: list[dict[str, Any]] = [{"index": i, "id": name, "error": why} for i, name, why in errors]
        if len(usable):
            rows += _measure(
                explain, stored, dataset, usable, notes, asks, chosen, wanted, model.preprocess, settings
            )
        shards.write(rows)
        at += len(usable) + len(errors)
        if progress:
            progress(at, count)
    return _finish(shards, settings, explain, model, correct_only)


def _usable(
    dataset: ImageDataset, loaded: Loaded, target: str
) -> tuple[Loaded, dict[int, Annotation], list[tuple[int, str, str]]]:
    """The pictures of a batch whose annotation can be read and whose target is known; the others join its errors."""
    notes, broken = read_notes(dataset, loaded.indices)
    if target == "label":
        for index, label in zip(loaded.indices, loaded.labels, strict=True):
            if label is None and notes.pop(index, None) is not None:
                broken[index] = "it has no label to be the target"
    errors = loaded.errors + [
        (index, name, broken[index])
        for index, name in zip(loaded.indices, loaded.ids, strict=True)
        if index in broken
    ]
    keep = [at for at, index in enumerate(loaded.indices) if index in notes]
    usable = Loaded(
        loaded.images[keep],
        [loaded.labels[at] for at in keep],
        [loaded.ids[at] for at in keep],
        [loaded.indices[at] for at in keep],
        [loaded.sizes[at] for at in keep],
    )
    return usable, notes, errors


def _measure(
    explain: FinerCAM,
    stored: StoredMaps | None,
    dataset: ImageDataset,
    loaded: Loaded,
    notes: dict[int, Annotation],
    asks: list[Ask],
    methods: list[Any],
    groups: dict[str, Group],
    prepare: Preprocess,
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """All rows of one batch of pictures."""
    images = loaded.images.to(next(explain.model.parameters()).device)
    if stored is None:
        source = explain.capture(images)
    else:
        source = stored.look(loaded, images, lambda x: run_model(explain.model, x, explain.classifier.scores))
    prediction = source.logits.argmax(1).cpu()
    target = prediction if settings["target"] == "prediction" else _labels(loaded, source.logits.shape[1])
    seeds = [settings["seed"] * 1_000_003 + index for index in loaded.indices]
    of_class = getattr(dataset, "siblings", None)
    siblings = None if of_class is None else [of_class(int(c)) for c in target]
    found = questions(explain, source.logits, target, asks, siblings, seeds)
    size = (images.shape[2], images.shape[3])
    rivals = found.rivals["rival"].tolist()
    truth = read_truth(dataset, notes, loaded.sizes, rivals, prepare, size, "contrastive" in groups)
    batch = _batch(explain, images, target, found, truth, prepare, settings)
    base = [
        {"index": i, "id": name, "label": label, "prediction": int(p), "probability": float(s), "rival": int(d)}
        for i, name, label, p, s, d in zip(
            loaded.indices,
            loaded.ids,
            loaded.labels,
            prediction,
            source.logits.float().softmax(1).amax(1),
            found.rivals["rival"],
            strict=True,
        )
    ]
    rows: list[dict[str, Any]] = []
    plain: Tensor | None = None
    if isinstance(source, StoredBatch):
        made = source.signed_maps(methods[0], found.asked)
    else:
        made = signed_maps(explain, source, methods, found.asked)
    for method, question, maps in made:
        plain = maps if plain is None else plain
        columns = _columns(batch, maps, maps, groups)
        rows += _rows(base, method.name, question.ask.name, columns)
    assert plain is not None
    for name in CONTROLS:
        rows += _rows(base, CONTROL, name, _columns(batch, *controls(name, plain, seeds), groups))
    for group in groups.values():
        if group.chance is not None:
            rows += _rows(base, CHANCE, "", group.chance(batch))
    return rows


def _labels(loaded: Loaded, num_classes: int) -> Tensor:
    """Labels `(N,)`; a list file's numbers have no names by which a wrong model would have been noticed before."""
    for name, label in zip(loaded.ids, loaded.labels, strict=True):
        if label is None or not 0 <= label < num_classes:
            raise FinerCAMError(f"{name} has label {label}, and the model has classes 0 to {num_classes - 1}")
    return torch.tensor(loaded.labels)


def _batch(
    explain: FinerCAM,
    images: Tensor,
    target: Tensor,
    found: Questions,
    truth: Truth,
    prepare: Preprocess,
    settings: dict[str, Any],
) -> Batch:
    device = images.device
    return Batch(
        scores=lambda x: run_model(explain.model, x, explain.classifier.scores),
        images=images,
        target=target.to(device),
        rivals={name: ids.to(device) for name, ids in found.rivals.items()},
        truth=truth,
        fill=_fill(settings["fill"], prepare),
        steps=settings["steps"],
        tolerance=settings["tolerance"],
    )


def _columns(batch: Batch, maps: Tensor, order: Tensor, groups: dict[str, Group]) -> dict[str, Tensor]:
    """Energies look at the map, removals at its order; they differ only for the uniform control."""
    columns: dict[str, Tensor] = {}
    for name, group in groups.items():
        by_order = name in ("rd", "deletion", "insertion", "road")
        columns |= group.columns(batch, order if by_order else maps)
    return columns


def _rows(base: list[dict[str, Any]], method: str, contrast: str, columns: dict[str, Tensor]) -> list[dict[str, Any]]:
    values = {name: column.cpu().double().tolist() for name, column in columns.items()}
    return [
        row | {"method": method, "contrast": contrast} | {name: column[i] for name, column in values.items()}
        for i, row in enumerate(base)
    ]


def _finish(
    shards: Shards, settings: dict[str, Any], explain: FinerCAM, model: LoadedModel, correct_only: bool
) -> list[Line]:
    table = shards.table()
    rows = table.to_pylist()
    pictures = {row["index"]: row for row in rows if row.get("error") is None}
    errors = len({row["index"] for row in rows if row.get("error") is not None})
    right = sum(row["label"] == row["prediction"] for row in pictures.values())
    lines = summarise(table, correct_only=correct_only, seed=settings["seed"])
    named = settings["layer"]
    layers = explain.layers or ((named,) if isinstance(named, str) else named or ("found by itself",))
    setting = describe(settings | {"layers": layers}, len(pictures), errors, right / max(1, len(pictures)))
    if correct_only:
        setting += " Only pictures that the model names correctly count."
    names = list(dict.fromkeys(line.metric for line in lines))
    write_whole(shards.out / "summary.md", markdown(lines, names, setting))
    write_whole(shards.out / "summary.csv", to_csv(lines))
    table_of_paper = paper_rows(lines, settings)
    write_whole(shards.out / "paper.md", paper_markdown(table_of_paper, setting))
    write_whole(shards.out / "paper.csv", paper_csv(table_of_paper))
    found = {"setting": setting, "settings": settings, "lines": [vars(line) for line in lines]}
    write_whole(shards.out / "summary.json", json.dumps(found, indent=1).replace("NaN", "null"))
    return lines


def _check_target(target: str, dataset: ImageDataset, model: LoadedModel) -> None:
    if target not in ("label", "prediction"):
        raise FinerCAMError(f"target={target!r}: expected 'label' or 'prediction'")
    if target == "label" and len(dataset) and dataset[0].label is None:
        raise FinerCAMError(f"{dataset.name} has no labels to be targets; use --target prediction")
    if (
        model.class_names is not None
        and dataset.classes
        and list(dataset.classes) != list(model.class_names)
        and target == "label"
    ):
        raise FinerCAMError(
            f"{dataset.name} has {len(dataset.classes)} classes and {model.name} {len(model.class_names)}, not the same "
            "names in the same order, so labels cannot be targets; use a model trained on this dataset, or --target prediction"
        )


def _lacking(dataset: ImageDataset, groups: dict[str, Group], asked: Sequence[str], count: int) -> dict[str, str]:
    """The groups that the data cannot give, with what they need; an error if one of them was asked for by its name."""
    found: dict[str, str] = {}
    for name, group in groups.items():
        if not group.needs or count == 0:
            continue
        there = hasattr(dataset, "contrast_mask") if name == "contrastive" else _located(dataset, count)
        if not there and name in asked:
            raise FinerCAMError(f"metric {name!r} needs {group.needs}, and {dataset.name} has none; leave it out")
        if not there:
            found[name] = group.needs
    return found


def _located(dataset: ImageDataset, count: int) -> bool:
    """Whether some picture has a box or an object mask; in some datasets only few do, and annotations can be broken."""
    for index in range(0, count, -(-count // 256)):
        notes, _ = read_notes(dataset, [index])
        if any(note.box is not None or "object" in note.masks for note in notes.values()):
            return True
    return False


def _fill(name: str, prepare: Preprocess) -> metrics.Fill:
    return metrics.black(prepare.mean, prepare.std) if name == "black" else metrics.as_fill(name)


def _short(prepare: Preprocess) -> str:
    size = "their own size" if prepare.size is None else f"{prepare.size[1]}×{prepare.size[0]}"
    return f"at {size} ({prepare.mode})"


def _version() -> str:
    from finercam._version import __version__

    return __version__
