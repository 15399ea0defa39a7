"""Training a linear head over a frozen backbone, and what is to be said about it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError
from finercam.probe.features import Features, extract
from finercam.probe.linear import DECAYS, Head, Sweep, accuracy, fit, stratified, sweep

if TYPE_CHECKING:
    from finercam.models.backbone import Backbone
    from finercam.models.probed import Probed

__all__ = ["PRECISIONS", "ProbeResult", "probe"]

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class ProbeResult:
    """A classifier of a frozen backbone and a trained head, and how well it does.

    `accuracy` maps a split to `{"top1", "top5"}` in [0, 1] and `"count"`; `tried` are the `(weight decay, top-1, loss)`
    of the sweep on the validation split; `errors` maps a split to the `(index, id, reason)` of unreadable pictures.
    """

    model: Probed
    classes: list[str]
    accuracy: dict[str, dict[str, float]]
    weight_decay: float
    tried: tuple[tuple[float, float, float], ...]
    provenance: Mapping[str, Any]
    errors: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    out: Path | None = None


def probe(
    train: ImageDataset,
    backbone: Backbone,
    out: str | os.PathLike[str] | None = None,
    *,
    val: ImageDataset | None = None,
    test: ImageDataset | None = None,
    test_share: float = 0.0,
    val_share: float = 0.2,
    method: str = "lbfgs",
    weight_decay: float | Sequence[float] = (),
    seed: int = 0,
    precision: str = "float32",
    cache: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """Train a linear head on a frozen backbone's features of `train`, and write the classifier to `out`.

    Features are cached on disk, see `finercam.probe.extract`. The weight decay is the best of a sweep
    (`finercam.probe.DECAYS`, or those given; one is taken as it is) on `val`; without `val` on a stratified share
    `val_share` of `train`, and the head is then fitted again to all of it. `test` is only measured; without it a
    stratified share `test_share` of `train` is set aside before anything else. `progress` is told `(split, done, of)`.
    The global random state is neither used nor touched.

    `out` becomes a model folder for `load_model`, `finercam explain` and `finercam evaluate`. Raises FinerCAMError
    for datasets whose classes do not match, and where there is nothing to train on.

    >>> from finercam.data import open_dataset
    >>> from finercam.models.backbone import load_backbone
    >>> backbone = load_backbone("fieldguide/cnn")  # doctest: +SKIP
    >>> probe(open_dataset("fieldguide:400"), backbone, "head/").accuracy["val"]  # doctest: +SKIP
    {'top1': 0.99, 'top5': 1.0, 'count': 80}
    """
    if precision not in PRECISIONS:
        raise FinerCAMError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    if method not in DECAYS:
        raise FinerCAMError(f"method={method!r} is not one of {', '.join(DECAYS)}")
    decays = [float(weight_decay)] if isinstance(weight_decay, int | float) else [float(one) for one in weight_decay]
    folder = None if cache is None else Path(cache)

    def seen(dataset: ImageDataset, split: str) -> Features:
        def tell(done: int) -> None:
            if progress is not None:
                progress(split, done, len(dataset))

        return extract(dataset, backbone, folder, batch_size=batch_size, workers=workers, progress=tell)

    features = {"train": seen(train, "train")}
    classes = _classes(train, features["train"].labels)
    features |= {"val": seen(val, "val")} if val is not None else {}
    features |= {"test": seen(test, "test")} if test is not None else {}

    def pair(split: str, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
        labels = _aligned(features[split].labels, dataset, classes)
        return features[split].values.to(backbone.device, PRECISIONS[precision]), labels

    rest = pair("train", train)
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    held_ids: list[str] = []
    if test is not None:
        splits["test"] = pair("test", test)
    elif test_share:
        kept, held = stratified(rest[1], test_share, seed)
        held_ids = [features["train"].ids[index] for index in held.tolist()]
        splits["test"], rest = _rows(rest, held), _rows(rest, kept)
    chosen, splits["train"], held_out = _train(
        rest, pair("val", val) if val is not None else None, len(classes), val_share, method, decays, seed
    )
    measured: dict[str, dict[str, float]] = {}
    for split, (values, labels) in splits.items():
        measured[split] = _measured(chosen.head, values, labels)
    if held_out is not None:
        measured["val"] = held_out
    measured = {split: measured[split] for split in ("train", "val", "test") if split in measured}
    provenance = {
        "dataset": _family(train.name),
        "train": str(train) if hasattr(train, "samples") else train.name,
        "accuracy": measured,
        "weight_decay": chosen.weight_decay,
        "tried": [list(one) for one in chosen.tried],
        "method": method,
        "precision": precision,
        "seed": seed,
        "features": {"pool": backbone.pool, "weights": backbone.fingerprint},
        "unreadable": {split: len(one.errors) for split, one in features.items()},
        "finercam": _version(),
        **({"test_ids": held_ids} if held_ids else {}),
    }
    from finercam.models.probed import probed, save_probed

    model = probed(backbone, chosen.head.weight, chosen.head.bias)
    where = None if out is None else save_probed(out, model, backbone, classes, provenance)
    errors = {split: one.errors for split, one in features.items() if one.errors}
    return ProbeResult(model, classes, measured, chosen.weight_decay, chosen.tried, provenance, errors, where)


def _train(
    rest: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor] | None,
    num_classes: int,
    val_share: float,
    method: str,
    decays: Sequence[float],
    seed: int,
) -> tuple[Sweep, tuple[Tensor, Tensor], dict[str, float] | None]:
    """The head, what it was finally fitted to, and its accuracy on data that took no part in fitting it."""
    if len(rest[1].unique()) < 2:
        raise FinerCAMError("the training pictures are of one class only; a head needs two")
    if val is None and len(decays) == 1:
        head = fit(*rest, num_classes, decays[0], method=method, seed=seed)
        return Sweep(head, decays[0]), rest, None
    fitted = rest
    if val is None:
        kept, held = stratified(rest[1], val_share, seed + 1)
        if not len(held):
            raise FinerCAMError("no class has two pictures to hold one out; give val=, or one weight_decay")
        fitted, val = _rows(rest, kept), _rows(rest, held)
    chosen = sweep(fitted, val, num_classes, decays, method=method, seed=seed)
    held_out = _measured(chosen.head, *val)
    if fitted is not rest:
        start = chosen.head if method == "lbfgs" else None
        head = fit(*rest, num_classes, chosen.weight_decay, method=method, start=start, seed=seed)
        chosen = Sweep(head, chosen.weight_decay, chosen.tried)
    return chosen, rest, held_out


def _rows(pair: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    return pair[0][rows.to(pair[0].device)], pair[1][rows]


def _measured(head: Head, values: Tensor, labels: Tensor) -> dict[str, float]:
    return {**accuracy(head(values), labels), "count": len(labels)}


def _classes(dataset: ImageDataset, labels: Tensor) -> list[str]:
    """Class names; where a list file has only numbers, the numbers."""
    return list(dataset.classes) or [str(label) for label in range(int(labels.max()) + 1)]


def _aligned(labels: Tensor, dataset: ImageDataset, classes: list[str]) -> Tensor:
    """Labels of another split as positions in `classes`: its classes may stand in another order."""
    own = _classes(dataset, labels)
    if own == classes:
        return labels
    position = {name: index for index, name in enumerate(classes)}
    unknown = [own[label] for label in labels.unique().tolist() if own[label] not in position]
    if unknown:
        raise FinerCAMError(
            f"{dataset.name}: class {unknown[0]!r} is not among the {len(classes)} classes of the training data"
        )
    return torch.tensor([position[own[label]] for label in labels.tolist()])


def _family(name: str) -> str:
    """A dataset's name without its split.

    >>> _family("CUB-200-2011 train"), _family("fieldguide")
    ('CUB-200-2011', 'fieldguide')
    """
    return re.sub(r" (train|trainval|val|valid|validation|test|all)$", "", name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("finercam")
    except PackageNotFoundError:
        return "unknown"
