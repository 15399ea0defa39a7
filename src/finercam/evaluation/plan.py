"""What an evaluation will do, checked completely before any work: pictures, classes, maps, metrics and settings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from finercam import methods as method_registry
from finercam import metrics
from finercam._version import __version__
from finercam.data.labels import match_classes
from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError
from finercam.evaluation.ask import Ask, parse_ask
from finercam.evaluation.groups import Group, find_groups
from finercam.evaluation.sources import CONTROLS, LiveMaps, MapSource
from finercam.evaluation.stored import StoredMaps, own_or_refused, own_question
from finercam.evaluation.truth import read_notes
from finercam.explainer import FinerCAM
from finercam.methods.gather import gradients
from finercam.run.reader import Run

if TYPE_CHECKING:
    from finercam.images import Preprocess
    from finercam.models import LoadedModel

__all__ = ["ClassMap", "Options", "Plan", "make_plan"]

PASSES_A_PART = 512
"""At most about this many model calls (pictures) lie between two saved parts."""


@dataclass(frozen=True)
class Options:
    """The parameters of `finercam.evaluate`, by their names there."""

    methods: Sequence[str] | None = None
    contrasts: Sequence[str] | None = None
    groups: Sequence[str] = ("rd",)
    layer: str | Sequence[str] | None = None
    fusion: str | None = None
    target: str = "label"
    fill: str = "zero"
    steps: int = 50
    tolerance: int = 0
    limit: int | None = None
    batch_size: int = 32
    baseline: str = "same"
    seed: int = 0


@dataclass(frozen=True)
class ClassMap:
    """Class ids of a dataset among those of a model; None where the model lacks a class."""

    to_model: list[int | None]
    classes: list[str]

    @classmethod
    def of(cls, dataset: ImageDataset, model: LoadedModel, target: str) -> ClassMap:
        """Match classes by name; raises FinerCAMError where labels are the targets and no name matches."""
        classes = list(dataset.classes)
        if model.class_names is None or not classes:
            return cls([], classes)
        try:
            return cls(match_classes(classes, list(model.class_names)), classes)
        except FinerCAMError as error:
            if target == "prediction":
                return cls([None] * len(classes), classes)
            raise FinerCAMError(
                f"{dataset.name} and {model.name}: labels cannot be targets: {error} Use a model trained on this "
                "dataset, or --target prediction"
            ) from error

    def model_id(self, label: int | None) -> int | None:
        """The model's id of a dataset's label; labels of datasets or models without names are ids already."""
        if label is None or not self.to_model:
            return label
        return self.to_model[label] if 0 <= label < len(self.to_model) else None

    def data_id(self, class_id: int) -> int | None:
        """The dataset's label of a model's class id."""
        return self._to_data.get(class_id) if self.to_model else class_id

    @cached_property
    def _to_data(self) -> dict[int, int]:
        return {found: label for label, found in enumerate(self.to_model) if found is not None}


@dataclass(frozen=True)
class Plan:
    """One evaluation: which pictures `indices` of `dataset`, under which `asks`, measured by which `groups`.

    `maps` is where the compared maps come from, `last` the plain Grad-CAM of the last layer where it is the baseline.
    `left_out` are the groups of metrics that the data cannot give; `run` is the digest of the run whose maps are measured.
    """

    dataset: ImageDataset
    model: LoadedModel
    options: Options
    explain: FinerCAM
    maps: MapSource
    last: LiveMaps | None
    asks: list[Ask]
    groups: dict[str, Group]
    classes: ClassMap
    indices: list[int]
    left_out: dict[str, str]
    run: str | None = None

    @property
    def prepare(self) -> Preprocess:
        return self.model.preprocess

    @property
    def unexplained(self) -> dict[int, str]:
        """The reasons for pictures that a run did not explain."""
        return self.maps.lacking if isinstance(self.maps, StoredMaps) else {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What `settings.json` says: results of other settings do not mix."""
        options, size = self.options, self.prepare.size
        found = {
            "dataset": self.dataset.name, "model": self.model.name, "layer": options.layer, "fusion": options.fusion,
            "methods": [method.name for method in self.maps.methods], "contrasts": [ask.name for ask in self.asks],
            "metrics": list(options.groups), "target": options.target, "fill": options.fill, "steps": options.steps,
            "tolerance": options.tolerance, "limit": len(self.indices), "baseline": options.baseline,
            "seed": options.seed,
            "preprocess": f"at {f'{size[1]}×{size[0]}' if size else 'their own size'} ({self.prepare.mode})",
            "rival": "sibling of the class" if hasattr(self.dataset, "siblings") else "other class",
            "finercam": __version__, "torch": torch.__version__.split("+")[0],
        }  # fmt: skip
        optional = {"left out": self.left_out, "run": self.run}
        return found | {name: value for name, value in optional.items() if value}

    @property
    def batch_size(self) -> int:
        """Pictures between two saved parts: `options.batch_size`, or fewer where each takes many model calls."""
        methods = self.maps.methods
        count = len(self.asks) * len(methods) + len(CONTROLS) + (self.last is not None)
        passes = count * sum(group.passes(self.options.steps) for group in self.groups.values())
        if isinstance(self.maps, LiveMaps):
            passes += PASSES_A_PART * sum(method.gather is not gradients for method in methods)
        return max(1, min(self.options.batch_size, PASSES_A_PART // max(1, passes)))


def make_plan(dataset: ImageDataset, model: LoadedModel, options: Options, run: Run | None) -> Plan:
    """Check everything, and fill in what is left open. Raises FinerCAMError as `finercam.evaluate` says."""
    options = _with_defaults(options, run)
    asks = [parse_ask(text) for text in dict.fromkeys(("plain", *(options.contrasts or ())))]
    methods = [method_registry.get(name) for name in options.methods or ()]
    for method in methods:
        method.check_contrast(len(asks) > 1)
    groups = find_groups(list(options.groups))
    _check(options, dataset)
    classes = ClassMap.of(dataset, model, options.target)
    left_out = _lacking(dataset, groups, options.groups)
    groups = {name: group for name, group in groups.items() if name not in left_out}
    explain = _explainer(model, options)
    stored = None if run is None else StoredMaps.match(run, dataset, model, explain, methods[0])
    indices = _sample(_population(dataset, options, stored), options.limit, options.seed)
    return Plan(
        dataset=dataset,
        model=model,
        options=options,
        explain=explain,
        maps=LiveMaps(explain, methods) if stored is None else stored,
        last=_last_layer(model) if options.baseline == "last" else None,
        asks=asks,
        groups=groups,
        classes=classes,
        indices=indices,
        left_out=left_out,
        run=None if run is None else run.manifest.settings.digest,
    )


def _with_defaults(options: Options, run: Run | None) -> Options:
    """Fill what was left open: from the run, or with the usual values."""
    if run is None:
        return replace(
            options,
            methods=("gradcam",) if options.methods is None else options.methods,
            contrasts=("plain", "paper", "pair") if options.contrasts is None else options.contrasts,
            fusion=options.fusion or "mean",
        )
    own = run.manifest.settings
    return replace(
        options,
        methods=own_or_refused(run, "methods", options.methods, [own.method]),
        layer=tuple(own_or_refused(run, "layer", options.layer, own.layers)),
        fusion=own_or_refused(run, "fusion", options.fusion, [own.fusion])[0],
        contrasts=own_question(own) if options.contrasts is None else options.contrasts,
    )


def _check(options: Options, dataset: ImageDataset) -> None:
    for name, allowed in (("target", ("label", "prediction")), ("baseline", ("same", "last"))):
        if getattr(options, name) not in allowed:
            raise FinerCAMError(f"{name}={getattr(options, name)!r}: expected {' or '.join(map(repr, allowed))}")
    if options.fill != "black":
        metrics.as_fill(options.fill)
    if options.target == "label" and len(dataset) and dataset[0].label is None:
        raise FinerCAMError(f"{dataset.name} has no labels to be targets; use --target prediction")


def _explainer(model: LoadedModel, options: Options) -> FinerCAM:
    layer = list(options.layer) if isinstance(options.layer, tuple) else options.layer
    return FinerCAM(model.model, layer=layer, fusion=options.fusion or "mean", class_names=model.class_names)


def _last_layer(model: LoadedModel) -> LiveMaps:
    return LiveMaps(FinerCAM(model.model, class_names=model.class_names), [method_registry.get("gradcam")])


def _population(dataset: ImageDataset, options: Options, stored: StoredMaps | None) -> Sequence[int]:
    """The pictures to draw from; with a limit, a run that holds only some of them is enough."""
    if stored is None:
        return range(len(dataset))
    return stored.explained(complete=options.limit is None)


def _sample(population: Sequence[int], limit: int | None, seed: int) -> list[int]:
    """`limit` of the pictures, drawn by the seed, in the order of the dataset.

    >>> _sample(range(100), 4, seed=0)
    [5, 49, 53, 97]
    """
    if limit is None or limit >= len(population):
        return list(population)
    return sorted(random.Random(seed).sample(population, limit))


def _lacking(dataset: ImageDataset, groups: dict[str, Group], names: Sequence[str]) -> dict[str, str]:
    """The groups that the data cannot give, with what they need; an error if one of them was given by its name."""
    found: dict[str, str] = {}
    for name, group in groups.items():
        if not group.needs or len(dataset) == 0:
            continue
        there = hasattr(dataset, group.ability) if group.ability else _located(dataset)
        if not there and name in names:
            raise FinerCAMError(f"metric {name!r} needs {group.needs}, and {dataset.name} has none; leave it out")
        if not there:
            found[name] = group.needs
    return found


def _located(dataset: ImageDataset) -> bool:
    """Whether some picture has a box or an object mask; in some datasets only few do, and annotations can be broken."""
    for index in range(0, len(dataset), -(-len(dataset) // 256)):
        notes, _ = read_notes(dataset, [index])
        if any(note.box is not None or "object" in note.masks for note in notes.values()):
            return True
    return False
