"""Everything that decides the rows of a run, as plain values; two runs with equal settings may share a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.io import content_hash, weights_hash

if TYPE_CHECKING:
    from finercam.explainer import FinerCAM
    from finercam.methods import Method
    from finercam.models import LoadedModel

__all__ = ["PRECISIONS", "TARGETS", "Settings", "resolve_settings"]

PRECISIONS = ("float32", "bfloat16", "float16")
TARGETS = ("prediction", "label")
SHARD, TOP = 512, 5
BATCH = {"cpu": 8}
"""Images at a time, by device, where nothing is said: more are no faster on a processor; elsewhere 32."""
MOST_REFERENCES = 64
"""Each reference is kept as a map of its own."""


@dataclass(frozen=True)
class Settings:
    """`target` is "prediction", "label" or "class" (then `target_id`); `gammas` are the strengths that a method keeps
    maps of if it is not linear (empty if it is); `keep` adds the classes with the highest logits to the kept ones."""

    model: str
    weights_sha256: str
    num_classes: int
    class_names: tuple[str, ...] | None
    preprocess: dict[str, Any]
    method: str
    layers: tuple[str, ...]
    gamma: float
    gammas: tuple[float, ...]
    references: str
    num_references: int
    against: tuple[int, ...]
    weights: str
    fusion: str
    target: str
    target_id: int | None
    keep: int
    top: int
    batch: int
    shard: int
    precision: str
    device: str
    threads: int
    seed: int
    finercam: str
    torch: str

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # tuples become lists, as they will be read again

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """Settings as `to_json` wrote them. Raises FinerCAMError for other keys."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            odd = sorted(names ^ set(values)) if isinstance(values, Mapping) else "all of them"
            raise FinerCAMError(f"settings of another version of finercam ({odd})")
        try:
            plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**plain)
        except TypeError as error:
            raise FinerCAMError(f"settings cannot be read: {error}") from None

    @property
    def digest(self) -> str:
        return content_hash(json.dumps(self.to_json(), sort_keys=True))

    @property
    def linear(self) -> bool:
        return not self.gammas

    def explainer(self, model: nn.Module) -> FinerCAM:
        from finercam.explainer import FinerCAM

        return FinerCAM(
            model,
            self.method,
            gamma=self.gamma,
            references=self.references,
            num_references=self.num_references,
            weights=self.weights,
            layer=list(self.layers),
            class_names=self.class_names,
            fusion=self.fusion,
            keep_images=False,
        )


def resolve_settings(
    loaded: LoadedModel,
    model: str,
    *,
    method: str = "gradcam",
    gamma: float | None = None,
    gammas: Sequence[float] = (),
    references: str | None = None,
    num_references: int | None = None,
    against: Sequence[Any] = (),
    weights: str | None = None,
    preset: str = "measured",
    layer: str | Sequence[str] | None = None,
    fusion: str = "mean",
    target: Any = "prediction",
    keep: int = 0,
    top: int = TOP,
    batch: int | None = None,
    shard: int | None = None,
    precision: str = "float32",
    device: str = "cpu",
    threads: int | None = None,
) -> Settings:
    """Check what was asked by explaining one empty image, and settle what was left open.

    Raises FinerCAMError, before any work on the dataset, for whatever cannot be asked.
    """
    from finercam._version import __version__
    from finercam.explainer import FinerCAM
    from finercam.names import class_id

    shard = SHARD if shard is None else shard
    batch = BATCH.get(torch.device(device).type, 32) if batch is None else batch
    for what, value, least in (("batch", batch, 1), ("shard", shard, 1), ("keep", keep, 0), ("top", top, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise FinerCAMError(f"{what}={value!r}: expected a whole number of at least {least}")
    if precision not in PRECISIONS:
        raise FinerCAMError(
            f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}.{suggest(str(precision), PRECISIONS)}"
        )
    explain = FinerCAM(
        loaded.model,
        method,
        gamma=gamma,
        references=references,
        num_references=num_references,
        weights=weights,
        layer=[layer] if isinstance(layer, str) else (list(layer) if layer else None),
        class_names=loaded.class_names,
        fusion=fusion,
        keep="contrast",
        keep_images=False,
        preset=preset,
    )
    question = explain.question
    if question.references in ("all", "confused") or question.num_references > MOST_REFERENCES:
        raise FinerCAMError(
            f"a run keeps a map of each reference: name at most {MOST_REFERENCES}, picked by predicted, similar or nearest"
        )
    if question.weights not in ("mean", "probability"):
        raise FinerCAMError(
            f"weights={question.weights!r} need more than a map a class; a run takes mean or probability"
        )
    with torch.no_grad():
        height, width = loaded.preprocess.tensor_size((256, 256))
        answer = explain(torch.zeros(1, 3, height, width))
    count = answer.logits.shape[1]
    names = loaded.class_names
    target_id = None if target in TARGETS else class_id(target, names, count, "target")
    return Settings(
        model=model,
        weights_sha256=weights_hash(loaded.model),
        num_classes=count,
        class_names=None if names is None else tuple(names),
        preprocess=loaded.preprocess.to_json(),
        method=question.method.name,
        layers=answer.layers,
        gamma=float(question.gamma),
        gammas=() if question.method.linear else _strengths(gammas, float(question.gamma)),
        references=question.references,
        num_references=question.num_references,
        against=tuple(dict.fromkeys(class_id(d, names, count, "reference") for d in against)),
        weights=question.weights,
        fusion=fusion,
        target="class" if target_id is not None else str(target),
        target_id=target_id,
        keep=keep,
        top=min(top, count),
        batch=batch,
        shard=-(-shard // batch) * batch,  # whole batches, so that no batch is cut at a shard's end
        precision=precision,
        device=device,
        threads=torch.get_num_threads() if threads is None else threads,
        seed=0,
        finercam=__version__,
        torch=torch.__version__.split("+")[0],
    )


def preprocess_of(settings: Settings) -> Preprocess:
    return Preprocess.from_json(settings.preprocess)


def method_of(settings: Settings) -> Method:
    from finercam.methods import get

    return get(settings.method)


def _strengths(asked: Sequence[float], gamma: float) -> tuple[float, ...]:
    """The strengths of which maps are kept: the asked one, the plain map, and those named."""
    from finercam.question import checked_gammas

    return tuple(sorted({0.0, gamma, *(float(checked_gammas(value)) for value in asked)}))
