"""Maps stored by a finished run: its rows matched to a dataset's pictures, and other questions answered from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finercam.core.capture import run_model
from finercam.core.contrast import Contrast
from finercam.core.evidence import NotKept
from finercam.core.fuse import signed_map
from finercam.core.maps import upsample
from finercam.core.references import NONE
from finercam.data.batches import Batch
from finercam.data.sample import ImageDataset
from finercam.data.source import ReaderSource
from finercam.errors import FinerCAMError
from finercam.evaluation.questions import NamedContrast
from finercam.evaluation.sources import NamedMap
from finercam.explainer import FinerCAM
from finercam.explanation import Explanation
from finercam.io import weights_hash
from finercam.methods import Method
from finercam.run.reader import Run, stored_answers
from finercam.run.rows import OK
from finercam.run.settings import Settings

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["StoredBatch", "StoredMaps", "own_or_refused", "own_question"]

KNOWN = torch.finfo(torch.float32).tiny
"""A probability below it has lost digits, and the logit with it."""


@dataclass(frozen=True)
class StoredMaps:
    """A run with the `positions` of a dataset's pictures in it, and for those without an explanation the reason."""

    run: Run
    source: ReaderSource
    explain: FinerCAM
    methods: Sequence[Method]
    positions: dict[int, int]
    lacking: dict[int, str]

    @classmethod
    def match(
        cls, run: Run, dataset: ImageDataset, model: LoadedModel, explain: FinerCAM, method: Method
    ) -> StoredMaps:
        """Find a dataset's pictures in a run, by path. Raises FinerCAMError for a run of another model."""
        settings, place = run.manifest.settings, run.store.place
        if weights_hash(model.model) != settings.weights_sha256:
            raise FinerCAMError(
                f"{place} is of {settings.model} and its weights, and {model.name} has others; take that model"
            )
        if model.preprocess.to_json() != settings.preprocess:
            raise FinerCAMError(
                f"{place} has pictures preprocessed otherwise than {model.name} does; run it again, or load it so"
            )
        by_path: dict[str, dict[str, Any]] = {}
        for row in run.table(["position", "path", "status", "error"]).to_pylist():
            by_path.setdefault(row["path"], row)
        positions: dict[int, int] = {}
        lacking: dict[int, str] = {}
        seen: set[int] = set()
        for index in range(len(dataset)):
            row = by_path.get(dataset[index].id)
            if row is None:
                continue
            if row["status"] != OK:
                lacking[index] = f"the run did not explain it: {row['status']}: {row['error']}"
            elif row["position"] in seen:
                lacking[index] = "listed before; the first one is evaluated"
            else:
                positions[index] = row["position"]
                seen.add(row["position"])
        return cls(run, ReaderSource(dataset), explain, [method], positions, lacking)

    def explained(self, complete: bool) -> list[int]:
        """The dataset's pictures of which the run has rows; raises FinerCAMError if there are none, or not all of them
        though the run has to be `complete`."""
        dataset = self.source.dataset
        found = sorted({*self.positions, *self.lacking})
        if (complete and len(found) < len(dataset)) or not found:
            known = set(found)
            first = next(index for index in range(len(dataset)) if index not in known)
            finish = "" if self.run.finished else ", finish the run first"
            raise FinerCAMError(
                f"{self.run.store.place} has no row of {dataset[first].id} of {dataset.name}: evaluate the dataset of "
                f"the run{finish}, or fewer by --limit"
            )
        return found

    def look(self, loaded: Batch, images: Tensor) -> StoredBatch:
        """What is stored of a batch; the model runs where the run lacks logits of some class.

        Raises FinerCAMError for a picture that is not the one that the run explained.
        """
        parts = stored_answers(self.run, [self.positions[index] for index in loaded.indices])
        for places, rows, answer in parts:
            self._check(rows.to_pylist(), [(loaded.indices[at], loaded.ids[at]) for at in places])
            if answer.image_size != tuple(images.shape[2:]):
                raise FinerCAMError(f"{loaded.ids[places[0]]} has another size at the model's input than in the run")
        known = all(_knows_all(row, self.run.manifest.settings) for _, rows, _ in parts for row in rows.to_pylist())
        order = torch.tensor([at for places, _, _ in parts for at in places]).argsort()
        if known:
            logits = torch.cat([answer.logits for _, _, answer in parts])[order]
        else:
            logits = run_model(self.explain.model, images, self.explain.classifier.readout)
        return StoredBatch(self.run, self.methods[0], [(p, answer) for p, _, answer in parts], images, logits)

    def _check(self, rows: Sequence[dict[str, Any]], pictures: Sequence[tuple[int, str]]) -> None:
        """By size and time of change of the file, and where these differ or there is none, by the content's hash."""
        for row, (index, name) in zip(rows, pictures, strict=True):
            state = self.source.state(index, name)
            same = state[0] is not None and state == (row["bytes"], row["modified_ns"])
            if not same and self.source.digest(index, name) != row["content"]:
                raise FinerCAMError(
                    f"{name} of {self.source.dataset.name} is not the picture that {self.run.store.place} explained "
                    "under this name; evaluate the dataset of the run"
                )


@dataclass(frozen=True)
class StoredBatch:
    """Explanations of a batch of `images` by their places in it, and its `logits (N, K)`."""

    run: Run
    method: Method
    parts: list[tuple[list[int], Explanation]]
    images: Tensor
    logits: Tensor

    def signed_maps(self, named: Sequence[NamedContrast]) -> Iterator[NamedMap]:
        """Every contrast, answered from the stored evidence. Raises FinerCAMError for what the run did not keep."""
        for each in named:
            maps = torch.empty(len(self.images), *self.images.shape[2:])
            whole = each.contrast
            for places, answer in self.parts:
                evidence, question = answer.seen[0][1], answer.question
                contrast = Contrast(
                    whole.target[places], whole.references[places], whole.gamma[places], whole.weights
                )
                try:
                    signed = signed_map(evidence, contrast, question.method.rule, question.fusion)
                except NotKept as error:
                    raise self._refusal(each, str(error)) from error
                maps[places] = upsample(signed, answer.image_size)
            yield self.method.name, each.name, maps.to(self.images.device)

    def _refusal(self, named: NamedContrast, why: str) -> FinerCAMError:
        """What the run would have to keep for a contrast: for this batch, since later ones are not known yet."""
        target, linear = named.contrast.target, self.run.manifest.settings.linear
        classes = torch.cat([target[:, None], named.contrast.references], 1)
        classes[:, 1:].masked_fill_(named.contrast.gamma[:, None] == 0, NONE)
        rank = self.logits.cpu().double().argsort(dim=1, descending=True, stable=True).argsort(1)
        needed, elsewhere = 0, False
        for places, answer in self.parts:
            evidence, own = answer.seen[0][1], classes[places]
            elsewhere |= not (linear and evidence.target is None) and not torch.equal(target[places], answer.target)
            lacking = (own != NONE) & ~evidence.directions.any(1).gather(1, own.clamp(min=0))
            if bool(lacking.any()):
                needed = max(needed, 1 + int(rank[places].gather(1, own.clamp(min=0))[lacking].max()))
        if elsewhere:
            how = "its method answers for its own targets alone: give both the same --target"
        elif linear and needed:
            how = f"finercam run with --keep {needed} or more ({self.logits.shape[1]} keeps every class)"
        else:
            how = why
        return FinerCAMError(f"contrast {named.name!r} needs what {self.run.store.place} did not keep: {how}")


def own_question(settings: Settings) -> tuple[str, ...]:
    """The contrast of a run, as `--contrasts` spells it; none where its reference classes were given by name."""
    if settings.against:
        return ()
    return (f"{settings.references}:{settings.num_references}:{settings.gamma:g}:{settings.weights}",)


def own_or_refused(run: Run, what: str, given: Any, own: Sequence[str]) -> list[str]:
    """How the run's maps were made; raises FinerCAMError where something else is given."""
    wanted = list(own) if given is None else [given] if isinstance(given, str) else list(given)
    if wanted != list(own):
        raise FinerCAMError(
            f"{what} {', '.join(wanted)}: the maps in {run.store.place} are of {', '.join(own)}; leave --{what} out"
        )
    return wanted


def _knows_all(row: dict[str, Any], settings: Settings) -> bool:
    """Whether a row has the logit of every class, as a number of its own or by a probability that is not rounded off."""
    likely = {k for k, p in zip(row["top_ids"], row["top_probabilities"], strict=True) if p >= KNOWN}
    return len(likely | set(row["kept_ids"])) == settings.num_classes
