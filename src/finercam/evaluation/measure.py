"""From a plan to rows on disk: pictures are read, looked at and measured, a part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from finercam import metrics
from finercam.annotation import Annotation
from finercam.core.capture import run_model
from finercam.data.batches import Batch as Loaded
from finercam.data.batches import loader
from finercam.errors import FinerCAMError
from finercam.evaluation.groups import Batch, Columns, Group
from finercam.evaluation.plan import Plan
from finercam.evaluation.questions import Questions, resolve_questions
from finercam.evaluation.shards import Shards
from finercam.evaluation.sources import CONTROLS, NamedMap, control_maps
from finercam.evaluation.summary import CHANCE, CONTROL, LAST
from finercam.evaluation.tables import NO_CLASS
from finercam.evaluation.truth import Truth, read_notes, read_truth

__all__ = ["measure"]

Rows = list[dict[str, Any]]


def measure(plan: Plan, shards: Shards, progress: Callable[[int, int], None] | None = None) -> None:
    """Measure all pictures of a plan that have no rows yet, saving each part as soon as it is measured."""
    done = shards.done()
    left = [index for index in plan.indices if index not in done]
    finished = len(plan.indices) - len(left)
    unexplained = [index for index in left if index in plan.unexplained]
    shards.write([_error(i, plan.dataset[i].id, plan.unexplained[i]) for i in unexplained])
    left, finished = [index for index in left if index not in plan.unexplained], finished + len(unexplained)
    for loaded in loader(plan.dataset, plan.prepare, plan.batch_size, indices=left):
        usable, notes, errors = _usable(plan, loaded)
        shards.write(errors + (_measure_batch(plan, usable, notes) if len(usable) else []))
        finished += len(usable) + len(errors)
        if progress:
            progress(finished, len(plan.indices))


def _usable(plan: Plan, loaded: Loaded) -> tuple[Loaded, dict[int, Annotation], Rows]:
    """The pictures of a batch whose annotation can be read and whose target is known, and rows of errors for the others.

    Labels become class ids of the model.
    """
    notes, broken = read_notes(plan.dataset, loaded.indices)
    labels = [plan.classes.model_id(label) for label in loaded.labels]
    if plan.options.target == "label":
        for index, given, label in zip(loaded.indices, loaded.labels, labels, strict=True):
            if label is None and notes.pop(index, None) is not None:
                broken[index] = "it has no label to be the target" if given is None else _no_class(plan, given)
    names = dict(zip(loaded.indices, loaded.ids, strict=True))
    errors = [_error(*error) for error in loaded.errors]
    errors += [_error(index, name, broken[index]) for index, name in names.items() if index in broken]
    keep = [at for at, index in enumerate(loaded.indices) if index in notes]
    usable = Loaded(
        loaded.images[keep],
        [labels[at] for at in keep],
        [loaded.ids[at] for at in keep],
        [loaded.indices[at] for at in keep],
        [loaded.sizes[at] for at in keep],
    )
    return usable, notes, errors


def _no_class(plan: Plan, label: int) -> str:
    name = plan.classes.classes[label] if 0 <= label < len(plan.classes.classes) else label
    return f"{NO_CLASS} {name!r}"


def _error(index: int, name: str, reason: str) -> dict[str, Any]:
    return {"index": index, "id": name, "error": reason}


def _measure_batch(plan: Plan, loaded: Loaded, notes: dict[int, Annotation]) -> Rows:
    """All rows of one batch of pictures."""
    images = loaded.images.to(next(plan.explain.model.parameters()).device)
    seen = plan.maps.look(loaded, images)
    seeds = [plan.options.seed * 1_000_003 + index for index in loaded.indices]
    questions = _questions(plan, loaded, seen.logits, seeds)
    batch = _batch(plan, images, questions, _truth(plan, loaded, notes, questions))
    base = _base_rows(loaded, seen.logits, questions)
    rows: Rows = []
    plain: Tensor | None = None
    for method, contrast, maps in seen.signed_maps(questions.contrasts):
        plain = maps if plain is None else plain
        rows += _rows(base, method, contrast, _columns(batch, maps, maps, plan.groups))
    assert plain is not None
    if plan.last is not None:
        for _, _, maps in _last_layer(plan, loaded, images, questions):
            rows += _rows(base, LAST, "plain", _columns(batch, maps, maps, plan.groups))
    for name in CONTROLS:
        rows += _rows(base, CONTROL, name, _columns(batch, *control_maps(name, plain, seeds), plan.groups))
    for group in plan.groups.values():
        if group.chance is not None:
            rows += _rows(base, CHANCE, "", group.chance(batch))
    return rows


def _last_layer(plan: Plan, loaded: Loaded, images: Tensor, questions: Questions) -> Iterable[NamedMap]:
    assert plan.last is not None
    return plan.last.look(loaded, images).signed_maps(questions.contrasts[:1])  # the first contrast is "plain"


def _questions(plan: Plan, loaded: Loaded, logits: Tensor, seeds: list[int]) -> Questions:
    """The contrasts of a batch; siblings are the dataset's that the model has too, or else all classes that both have."""
    target = logits.argmax(1).cpu() if plan.options.target == "prediction" else _labels(loaded, logits.shape[1])
    siblings = None
    if (of_class := getattr(plan.dataset, "siblings", None)) is not None:
        labels = [plan.classes.data_id(c) for c in target.tolist()]
        found = [[] if label is None else [plan.classes.model_id(d) for d in of_class(label)] for label in labels]
        shared = [c for c in plan.classes.to_model if c is not None]
        siblings = [
            [d for d in ids if d is not None] or [d for d in shared if d != c]
            for c, ids in zip(target.tolist(), found, strict=True)
        ]
    return resolve_questions(plan.explain, logits, target, plan.asks, siblings, seeds)


def _labels(loaded: Loaded, num_classes: int) -> Tensor:
    """Labels `(N,)`; those of a list file are numbers without names, which no earlier check could match."""
    for name, label in zip(loaded.ids, loaded.labels, strict=True):
        if label is None or not 0 <= label < num_classes:
            raise FinerCAMError(f"{name} has label {label}, and the model has classes 0 to {num_classes - 1}")
    return torch.tensor(loaded.labels)


def _truth(plan: Plan, loaded: Loaded, notes: dict[int, Annotation], questions: Questions) -> Truth:
    """What is known of a batch; target and rival are named by the dataset's own labels."""
    pairs = [
        (plan.classes.data_id(c), None if d < 0 else plan.classes.data_id(d))
        for c, d in zip(questions.target.tolist(), questions.rivals["rival"].tolist(), strict=True)
    ]
    size = (loaded.images.shape[2], loaded.images.shape[3])
    return read_truth(plan.dataset, notes, loaded.sizes, pairs, plan.prepare, size, set(plan.groups))


def _batch(plan: Plan, images: Tensor, questions: Questions, truth: Truth) -> Batch:
    device, options = images.device, plan.options
    return Batch(
        scores=lambda x: run_model(plan.explain.model, x, plan.explain.classifier.readout),
        images=images,
        target=questions.target.to(device),
        rivals={name: ids.to(device) for name, ids in questions.rivals.items()},
        truth=truth,
        fill=metrics.black(plan.prepare.mean, plan.prepare.std)
        if options.fill == "black"
        else metrics.as_fill(options.fill),
        steps=options.steps,
        tolerance=options.tolerance,
    )


def _base_rows(loaded: Loaded, logits: Tensor, questions: Questions) -> Rows:
    """What all rows of a picture share."""
    likely = logits.cpu().float().softmax(1)
    columns = {
        "index": loaded.indices,
        "id": loaded.ids,
        "label": loaded.labels,
        "prediction": likely.argmax(1).tolist(),
        "probability": likely.amax(1).tolist(),
        "target probability": likely.gather(1, questions.target[:, None])[:, 0].tolist(),
        "rival": questions.rivals["rival"].tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _columns(batch: Batch, maps: Tensor, order: Tensor, groups: dict[str, Group]) -> Columns:
    """Energies use the map, removals its order; they differ only for the uniform control."""
    columns: Columns = {}
    for group in groups.values():
        columns |= group.columns(batch, order if group.removes else maps)
    return columns


def _rows(base: Rows, method: str, contrast: str, columns: Columns) -> Rows:
    values = {name: column.cpu().double().tolist() for name, column in columns.items()}
    return [
        row | {"method": method, "contrast": contrast} | {name: column[i] for name, column in values.items()}
        for i, row in enumerate(base)
    ]
