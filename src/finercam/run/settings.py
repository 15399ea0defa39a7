"""The request for a run, and the settings that follow from it and decide its rows, as plain values."""

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
from finercam.names import class_id
from finercam.question import checked_gammas

if TYPE_CHECKING:
    from finercam.explainer import FinerCAM
    from finercam.models import LoadedModel

__all__ = ["PRECISIONS", "TARGETS", "Request", "Settings"]

PRECISIONS = ("float32", "bfloat16", "float16")
TARGETS = ("prediction", "label")
SHARD = 512
BATCH = {"cpu": 8}
"""Images a batch by device, by default: a CPU is no faster with more; other devices take 32."""
MOST_REFERENCES = 64
"""A run keeps a map of each reference."""


@dataclass(frozen=True)
class Request:
    """What a caller asks of a run; None takes the default. Raises FinerCAMError for a wrong value.

    `method` to `fusion` are those of `FinerCAM`. `gammas` are further strengths of which a method that is not linear
    keeps maps. `target` is "prediction", "label" or one class; `against` names rival classes for all images. `keep`
    adds maps of the most probable classes, `top` is how many predictions a row lists. `batch` and `shard` count images.

    >>> Request(batch=0)
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: batch=0: expected a whole number of at least 1, below 2**31
    """

    method: str | None = None
    gamma: float | None = None
    references: str | None = None
    num_references: int | None = None
    weights: str | None = None
    preset: str = "measured"
    layer: str | Sequence[str] | None = None
    fusion: str | None = None
    gammas: Sequence[float] = ()
    target: Any = "prediction"
    against: Sequence[Any] = ()
    keep: int = 0
    top: int = 5
    batch: int | None = None
    shard: int | None = None
    precision: str = "float32"
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("shard", 1), ("keep", 0), ("top", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31
            ):
                raise FinerCAMError(f"{name}={value!r}: expected a whole number of at least {least}, below 2**31")
        if self.precision not in PRECISIONS:
            raise FinerCAMError(
                f"precision={self.precision!r}: expected one of {', '.join(PRECISIONS)}."
                f"{suggest(str(self.precision), PRECISIONS)}"
            )
        for gamma in self.gammas:
            checked_gammas(gamma, 1)

    def settings(self, loaded: LoadedModel, model: str) -> Settings:
        """The settings of a run of this model, whose string is `model`; one empty image is explained to check them.

        Raises FinerCAMError, before any work on the dataset, for a question that the run could not answer.
        """
        from finercam._version import __version__

        explain = self._explainer(loaded)
        names = loaded.class_names
        height, width = loaded.preprocess.tensor_size((256, 256))
        with torch.no_grad():
            answer = explain(torch.zeros(1, 3, height, width))
        question = explain.question  # on tokens, a preset may have another method
        if len(explain.views) > 1:
            raise FinerCAMError(f"a run keeps one view, and preset={self.preset!r} has more: use preset='fine'")
        count, gamma = answer.logits.shape[1], float(question.gamma)
        target_id = None if self.target in TARGETS else class_id(self.target, names, count, "target")
        rivals = [class_id(rival, names, count, "reference") for rival in self.against]
        batch = self.batch or BATCH.get(torch.device(self.device).type, 32)
        return Settings(
            model=model,
            weights_sha256=weights_hash(loaded.model),
            num_classes=count,
            class_names=None if names is None else tuple(names),
            preprocess=loaded.preprocess.to_json(),
            method=question.method.name,
            layers=answer.layers,
            gamma=gamma,
            gammas=() if question.method.linear else tuple(sorted({0.0, gamma, *map(float, self.gammas)})),
            references=question.references,
            num_references=question.num_references,
            against=tuple(dict.fromkeys(rivals)),
            weights=question.weights,
            fusion=answer.question.fusion,
            target="class" if target_id is not None else str(self.target),
            target_id=target_id,
            keep=self.keep,
            top=min(self.top, count),
            batch=batch,
            shard=-(-(self.shard or SHARD) // batch) * batch,  # whole batches: none is cut at the end of a shard
            precision=self.precision,
            device=self.device,
            threads=self.threads or torch.get_num_threads(),
            seed=0,
            finercam=__version__,
            torch=torch.__version__.split("+")[0],
        )

    def _explainer(self, loaded: LoadedModel) -> FinerCAM:
        from finercam.explainer import FinerCAM

        explain = FinerCAM(
            loaded.model,
            self.method,
            gamma=self.gamma,
            references=self.references,
            num_references=self.num_references,
            weights=self.weights,
            layer=[self.layer] if isinstance(self.layer, str) else (list(self.layer) if self.layer else None),
            class_names=loaded.class_names,
            fusion=self.fusion,
            keep="contrast",
            keep_images=False,
            preset=self.preset,
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
        return explain


@dataclass(frozen=True)
class Settings:
    """Everything that decides the rows of a run; two runs with equal settings may share a folder.

    `target` is "prediction", "label" or "class" (then `target_id`); `gammas` are the strengths of which a method that
    is not linear keeps maps (empty for one that is); `keep` adds the classes with the highest logits to the kept ones.
    """

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
        return json.loads(json.dumps(asdict(self)))  # tuples become lists, as in the file

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

    @property
    def question_values(self) -> dict[str, Any]:
        """The question about every image as keywords; its target and its own rivals are chosen image by image."""
        return {name: getattr(self, name) for name in ("gamma", "references", "num_references", "weights", "fusion")}

    def explainer(self, model: nn.Module) -> FinerCAM:
        from finercam.explainer import FinerCAM

        names, layers = self.class_names, list(self.layers)
        return FinerCAM(
            model, self.method, **self.question_values, layer=layers, class_names=names, keep_images=False
        )


def preprocess_of(settings: Settings) -> Preprocess:
    return Preprocess.from_json(settings.preprocess)
