"""Train a linear head over a frozen backbone, and record its provenance in the model folder."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finercam._version import __version__
from finercam.data.labels import match_classes
from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError
from finercam.probe.features import Features, extract
from finercam.probe.linear import DECAYS, Head, Sweep, accuracy, fit, stratified, sweep

if TYPE_CHECKING:
    from finercam.models.backbone import Backbone
    from finercam.models.probed import Probed

__all__ = ["PRECISIONS", "ProbeResult", "Training", "poolings", "probe"]

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}

Pair = tuple[Tensor, Tensor]
"""Features `(N, D)` and labels `(N,)`."""


@dataclass(frozen=True)
class Training:
    """Settings for training a head.

    `method` is "lbfgs" or "adamw". `weight_decay` is one value, or several to choose from on validation data (by
    default `DECAYS[method]`). Without a validation or test set, `val_share` and `test_share` of each training class
    are held out. `precision` is "float32" or "float64". Raises FinerCAMError for another method or precision.
    """

    method: str = "lbfgs"
    weight_decay: float | Sequence[float] = ()
    val_share: float = 0.2
    test_share: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("method", DECAYS)):
            if getattr(self, name) not in known:
                raise FinerCAMError(f"{name}={getattr(self, name)!r} is not one of {', '.join(known)}")

    @property
    def decays(self) -> list[float]:
        given = [self.weight_decay] if isinstance(self.weight_decay, int | float) else self.weight_decay
        return [float(one) for one in given] or list(DECAYS[self.method])


@dataclass(frozen=True)
class ProbeResult:
    """A classifier of a frozen backbone and a trained head, with its accuracy.

    `accuracy` maps a split to `{"top1", "top5"}` in [0, 1] and `"count"`. `tried` are the `(weight decay, top-1, loss)`
    of the sweep on the validation data. `pools` maps each compared pooling to its `(top-1, loss)` there. `errors` maps
    a split to the `(index, id, reason)` of unreadable pictures.
    """

    model: Probed
    classes: list[str]
    accuracy: dict[str, dict[str, float]]
    weight_decay: float
    tried: tuple[tuple[float, float, float], ...]
    pools: dict[str, tuple[float, float]]
    provenance: Mapping[str, Any]
    errors: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    out: Path | None = None


@dataclass(frozen=True)
class _Fitted:
    """A head for one pooling, the data for fitting and measuring it, and the features of the datasets."""

    backbone: Backbone
    features: dict[str, Features]
    sweep: Sweep
    splits: dict[str, Pair]
    held_out: dict[str, float] | None
    test_ids: list[str]


def poolings(backbone: Backbone) -> list[Backbone]:
    """The backbone, and the same backbone with its other poolings of mean of patches ("avg") and CLS token ("tok")."""
    backbones = [backbone]
    for pool in ("avg", "tok"):
        if pool in backbone.model.pools and pool != backbone.pool:
            tower = copy.copy(backbone.model)  # a shallow copy, which shares the weights
            tower.pool = pool
            named = {
                "architecture": {**backbone.architecture, "pool": pool},
                "provenance": {**backbone.provenance, "pool": pool},
            }
            backbones.append(replace(backbone, model=tower, **named))
    return backbones


def probe(
    train: ImageDataset,
    backbone: Backbone | Sequence[Backbone],
    out: str | os.PathLike[str] | None = None,
    *,
    val: ImageDataset | None = None,
    test: ImageDataset | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    **training: Any,
) -> ProbeResult:
    """Train a linear head on the backbone's features of `train`, measure it, and write the classifier to `out`.

    The weight decay with the lowest loss on `val` is chosen. Without `val` it is chosen on a share of the training
    pictures, and the head is then fitted to all of them. Of several backbones (see `poolings`) the one with the lowest
    loss is used. `training` are the fields of `Training`. Classes of `val` and `test` are matched to those of `train`
    by name. `progress` is called with the split, the number of pictures just done, and their total. Everything is
    seeded. Raises FinerCAMError for datasets whose classes do not match, and if there is nothing to train on.

    >>> from finercam.data import open_dataset
    >>> from finercam.models.backbone import load_backbone
    >>> backbone = load_backbone("fieldguide/cnn")  # doctest: +SKIP
    >>> probe(open_dataset("fieldguide:400"), backbone, "head/").accuracy["val"]  # doctest: +SKIP
    {'top1': 0.99, 'top5': 1.0, 'count': 80}
    """
    how = Training(**training)
    backbones = list(backbone) if isinstance(backbone, Sequence) else [backbone]

    def read(one: Backbone, split: str, dataset: ImageDataset) -> Features:
        def report(count: int) -> None:
            if progress is not None:
                progress(split, count, len(dataset))

        folder = None if cache is None else Path(cache)
        return extract(dataset, one, folder, batch_size=batch_size, workers=workers, progress=report)

    fitted = [_fit(train, val, one, how, read, test is None, len(backbones) > 1) for one in backbones]
    best = min(fitted, key=lambda one: one.sweep.validation[1])
    classes = _classes(train, best.features["train"].labels)
    features, splits = dict(best.features), dict(best.splits)
    if test is not None:
        features["test"] = read(best.backbone, "test", test)
        splits["test"] = _pair(features["test"], test, classes, best.backbone, how)
    measured = {split: _measured(best.sweep.head, pair) for split, pair in splits.items()}
    if best.held_out is not None:
        measured["val"] = best.held_out
    measured = {split: measured[split] for split in ("train", "val", "test") if split in measured}
    pools = {one.backbone.pool: one.sweep.validation for one in fitted} if len(fitted) > 1 else {}
    provenance = _provenance(best, train, len(classes), how, measured, pools, features)
    from finercam.models.probed import probed, save_probed

    model = probed(best.backbone, best.sweep.head.weight, best.sweep.head.bias)
    where = None if out is None else save_probed(out, model, _public(best.backbone), classes, provenance)
    errors = {split: one.errors for split, one in features.items() if one.errors}
    return ProbeResult(
        model, classes, measured, best.sweep.weight_decay, best.sweep.tried, pools, provenance, errors, where
    )


def _fit(
    train: ImageDataset,
    val: ImageDataset | None,
    backbone: Backbone,
    how: Training,
    read: Callable[[Backbone, str, ImageDataset], Features],
    may_set_aside: bool,
    must_validate: bool,
) -> _Fitted:
    """Fit the best head for the features of one backbone."""
    features = {"train": read(backbone, "train", train)}
    classes = _classes(train, features["train"].labels)
    rest = _pair(features["train"], train, classes, backbone, how)
    splits: dict[str, Pair] = {}
    test_ids: list[str] = []
    if may_set_aside and how.test_share:
        kept, held = stratified(rest[1], how.test_share, how.seed)
        test_ids = [features["train"].ids[index] for index in held.tolist()]
        splits["test"], rest = _rows(rest, held), _rows(rest, kept)
    if len(rest[1].unique()) < 2:
        raise FinerCAMError("the training pictures are of one class only; a head needs two")
    splits["train"] = rest
    if val is not None:
        features["val"] = read(backbone, "val", val)
        pair = _pair(features["val"], val, classes, backbone, how)
        best = sweep(rest, pair, len(classes), how.decays, method=how.method, seed=how.seed)
        return _Fitted(backbone, features, best, splits, _measured(best.head, pair), test_ids)
    if len(how.decays) == 1 and not must_validate:
        head = fit(*rest, len(classes), how.decays[0], method=how.method, seed=how.seed)
        return _Fitted(backbone, features, Sweep(head, how.decays[0]), splits, None, test_ids)
    best, held_out = _validated(rest, len(classes), how)
    return _Fitted(backbone, features, best, splits, held_out, test_ids)


def _validated(rest: Pair, num_classes: int, how: Training) -> tuple[Sweep, dict[str, float]]:
    """Choose the decay on a held-out share and fit a head to all data; also the accuracy on the held-out share."""
    kept, held = stratified(rest[1], how.val_share, how.seed + 1)
    if not len(held):
        raise FinerCAMError("no class has two pictures to hold one out; give val=, or one weight_decay")
    val = _rows(rest, held)
    best = sweep(_rows(rest, kept), val, num_classes, how.decays, method=how.method, seed=how.seed)
    start = best.head if how.method == "lbfgs" else None
    head = fit(*rest, num_classes, best.weight_decay, method=how.method, start=start, seed=how.seed)
    return replace(best, head=head), _measured(best.head, val)


def _provenance(
    best: _Fitted,
    train: ImageDataset,
    num_classes: int,
    how: Training,
    measured: dict[str, dict[str, float]],
    pools: dict[str, tuple[float, float]],
    features: dict[str, Features],
) -> dict[str, Any]:
    """The provenance of a probe in `config.json`: names and numbers without local paths."""
    provenance: dict[str, Any] = {
        "dataset": re.sub(r" (train|trainval|val|valid|validation|test|all)$", "", train.name),
        "train": f"{train.name}: {len(train):,} pictures, {num_classes:,} classes",
        "accuracy": measured,
        "weight_decay": best.sweep.weight_decay,
        "tried": [list(one) for one in best.sweep.tried],
        "method": how.method,
        "precision": how.precision,
        "seed": how.seed,
        "features": {"pool": best.backbone.pool, "weights": best.backbone.fingerprint},
        "unreadable": {split: len(one.errors) for split, one in features.items()},
        "finercam": __version__,
    }
    if pools:
        provenance["pools"] = {pool: {"top1": top1, "loss": loss} for pool, (top1, loss) in pools.items()}
    return provenance | ({"test_ids": best.test_ids} if best.test_ids else {})


def _public(backbone: Backbone) -> Backbone:
    """The backbone under a name without a local path: a model folder is named by its last component."""
    if not Path(backbone.name.partition("?")[0]).expanduser().is_dir():
        return backbone
    name = Path(backbone.name.partition("?")[0]).resolve().name
    return replace(backbone, name=name, provenance={**backbone.provenance, "backbone": name})


def _rows(pair: Pair, rows: Tensor) -> Pair:
    return pair[0][rows.to(pair[0].device)], pair[1][rows]


def _measured(head: Head, pair: Pair) -> dict[str, float]:
    return {**accuracy(head(pair[0]), pair[1]), "count": len(pair[1])}


def _classes(dataset: ImageDataset, labels: Tensor) -> list[str]:
    """The class names of a dataset, or numbers if it is a list file that has only numbers."""
    return list(dataset.classes) or [str(label) for label in range(int(labels.max()) + 1)]


def _pair(features: Features, dataset: ImageDataset, classes: list[str], backbone: Backbone, how: Training) -> Pair:
    """Features and labels as indices of `classes`, whose order may differ from that of the dataset."""
    labels: Iterable[int] = features.labels.tolist()
    position = match_classes(_classes(dataset, features.labels), classes, labels, dataset.name, "training data")
    values = features.values.to(backbone.device, PRECISIONS[how.precision])
    return values, torch.tensor([position[label] for label in labels])
