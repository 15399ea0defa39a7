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
from finercam.capture import run_model
from finercam.data.batches import Batch as Loaded
from finercam.data.batches import loader
from finercam.data.sample import Annotation, ImageDataset
from finercam.errors import FinerCAMError
from finercam.evaluation.ask import Ask, parse_ask
from finercam.evaluation.maps import CONTROLS, Questions, controls, questions, signed_maps
from finercam.evaluation.measures import Batch, Group, find_groups
from finercam.evaluation.shards import Shards, write_whole
from finercam.evaluation.summary import CHANCE, CONTROL, Line, describe, markdown, summarise, to_csv
from finercam.evaluation.truth import Truth, read_notes, read_truth
from finercam.explainer import FinerCAM

if TYPE_CHECKING:
    from finercam.images import Preprocess
    from finercam.models import LoadedModel

__all__ = ["evaluate"]


def evaluate(
    dataset: ImageDataset,
    model: LoadedModel,
    out: str | Path,
    methods: Sequence[str] = ("gradcam",),
    contrasts: Sequence[str] = ("plain", "paper", "pair"),
    groups: Sequence[str] = ("rd",),
    *,
    layer: str | Sequence[str] | None = None,
    fusion: str = "mean",
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

    Writes `parts/*.parquet` (a row a picture and map), `settings.json`, `summary.md`, `summary.csv` and
    `summary.json`. Always beside them: the plain map, the controls (uniform, centred Gaussian, shuffled plain map;
    random references as contrast "random" if asked for) and chance levels. One capture a picture serves all methods
    that gather the same evidence, and all contrasts. Stopped at any moment, the same call goes on.

    `target` is "label" (as in the paper) or "prediction". Raises FinerCAMError before any work for an unknown name,
    and for a dataset without the annotation that a metric needs.
    """
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
    _check_annotations(dataset, wanted, model.preprocess, count)
    settings = {
        "dataset": dataset.name, "model": model.name, "layer": layer, "fusion": fusion, "methods": list(methods),
        "contrasts": [ask.name for ask in asks], "metrics": list(groups), "target": target, "fill": fill, "steps": steps,
        "tolerance": tolerance, "limit": count, "seed": seed, "preprocess": _short(model.preprocess),
        "rival": "sibling of the class" if hasattr(dataset, "siblings") else "other class",
        "finercam": _version(), "torch": torch.__version__.split("+")[0],
    }  # fmt: skip
    shards = Shards(Path(out), settings, redo)
    left = sorted(set(range(count)) - shards.done())
    at = count - len(left)
    for loaded in loader(dataset, model.preprocess, batch_size, indices=left):
        usable, notes, errors = _usable(dataset, loaded)
        rows: list[dict[str, Any]] = [{"index": i, "id": name, "error": why} for i, name, why in errors]
        if len(usable):
            rows += _measure(explain, dataset, usable, notes, asks, chosen, wanted, model.preprocess, settings)
        shards.write(rows)
        at += len(usable) + len(errors)
        if progress:
            progress(at, count)
    return _finish(shards, settings, explain, model, correct_only)


def _usable(
    dataset: ImageDataset, loaded: Loaded
) -> tuple[Loaded, dict[int, Annotation], list[tuple[int, str, str]]]:
    """The pictures of a batch whose annotation can be read too; the others join its errors."""
    notes, broken = read_notes(dataset, loaded.indices)
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
    source = explain.look(images)
    prediction = source.logits.argmax(1).cpu()
    target = prediction if settings["target"] == "prediction" else torch.tensor(loaded.labels)
    seeds = [settings["seed"] * 1_000_003 + index for index in loaded.indices]
    of_class = getattr(dataset, "siblings", None)
    siblings = None if of_class is None else [of_class(int(c)) for c in target]
    found = questions(explain, source, target, asks, siblings, seeds)
    size = (images.shape[2], images.shape[3])
    truth = read_truth(dataset, notes, loaded.sizes, found.rivals["rival"].tolist(), prepare, size)
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
    for method, question, maps in signed_maps(explain, source, methods, found.asked):
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
        scores=lambda x: run_model(explain.model, x, explain.scores),
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
    layers = explain.layers or ((settings["layer"],) if isinstance(settings["layer"], str) else ("found by itself",))
    setting = describe(settings | {"layers": layers}, len(pictures), errors, right / max(1, len(pictures)))
    if correct_only:
        setting += " Only pictures that the model names correctly count."
    names = list(dict.fromkeys(line.metric for line in lines))
    write_whole(shards.out / "summary.md", markdown(lines, names, setting))
    write_whole(shards.out / "summary.csv", to_csv(lines))
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


def _check_annotations(dataset: ImageDataset, groups: dict[str, Group], prepare: Preprocess, count: int) -> None:
    if not any(group.needs for group in groups.values()) or count == 0:
        return
    some = [dataset[i].annotation for i in range(min(count, 8))]
    located = any(note.box is not None or "object" in note.masks for note in some)
    for name, group in groups.items():
        lacking = not hasattr(dataset, "contrast_mask") if name == "contrastive" else not located
        if group.needs and lacking:
            raise FinerCAMError(f"metric {name!r} needs {group.needs}, and {dataset.name} has none; leave it out")


def _fill(name: str, prepare: Preprocess) -> metrics.Fill:
    return metrics.black(prepare.mean, prepare.std) if name == "black" else metrics.as_fill(name)


def _short(prepare: Preprocess) -> str:
    size = "their own size" if prepare.size is None else f"{prepare.size[1]}×{prepare.size[0]}"
    return f"at {size} ({prepare.mode})"


def _version() -> str:
    from finercam import __version__

    return __version__
