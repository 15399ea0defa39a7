"""From pictures to rows: one batch after another through the explainer, whatever happens to single pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, directions
from finercam.core.maps import signed_map
from finercam.core.references import NONE
from finercam.errors import FinerCAMError
from finercam.names import class_id, label
from finercam.run.pictures import Read
from finercam.run.rows import OK
from finercam.run.settings import Settings, method_of

if TYPE_CHECKING:
    from finercam.explainer import FinerCAM
    from finercam.methods import Method

__all__ = ["Worker"]


@dataclass
class Worker:
    """Explains reads under the settings. A batch is a fixed range of the list, so that it is the same in every run.

    Within a range, pictures of one shape that could be read are one batch. One that does not fit into memory is
    halved, and so are later ones; one that the model fails on is halved until the culprit is alone. `numbered`
    says that labels are class ids.
    """

    settings: Settings
    model: nn.Module
    numbered: bool = False
    limit: int = 0
    """The largest batch that has fitted, once one has not."""
    halved: int = 0
    _labels: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limit = self.limit or self.settings.batch

    def batches(self, reads: Iterable[Read]) -> Iterator[list[dict[str, Any]]]:
        """The rows of one shard's reads, in the order of the list, some at a time; to be taken within `computing`."""
        reads, self.halved = iter(reads), 0
        # pictures of various shapes wait for others of their shape within a longer range
        window = self.settings.batch * (1 if self.settings.preprocess.get("size") else 4)
        while some := list(islice(reads, window)):
            rows = {read.entry.position: self._row(read) for read in some}
            for group in self._of_one_shape(some, rows):
                self._explain(group, rows)
            yield [rows[position] for position in sorted(rows)]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The same arithmetic in every run: as many threads as the settings say, no cuDNN trials; restored at the end."""
        threads, cudnn = torch.get_num_threads(), cast(Any, torch.backends.cudnn)
        before = cudnn.benchmark, cudnn.deterministic
        torch.set_num_threads(self.settings.threads)
        cudnn.benchmark, cudnn.deterministic = False, True
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            cudnn.benchmark, cudnn.deterministic = before

    def _of_one_shape(self, reads: Sequence[Read], rows: dict[int, dict[str, Any]]) -> Iterator[list[Read]]:
        shelves: dict[tuple[int, ...], list[Read]] = {}
        for read in reads:
            if read.tensor is not None and rows[read.entry.position]["status"] == OK:
                shelves.setdefault(tuple(read.tensor.shape), []).append(read)
        for shelf in shelves.values():
            yield from (shelf[at : at + self.settings.batch] for at in range(0, len(shelf), self.settings.batch))

    def _row(self, read: Read) -> dict[str, Any]:
        """What is known of an image before it is explained."""
        entry = read.entry
        row: dict[str, Any] = {
            "position": entry.position,
            "path": entry.path,
            "status": read.status or OK,
            "error": read.error or None,
            "content": read.digest,
            "bytes": read.bytes,
            "modified_ns": read.modified_ns,
            "label": entry.label,
            "label_id": self._label(entry.label),
        }
        if read.size is not None:
            row["width"], row["height"] = read.size
        if row["status"] == OK and self.settings.target == "label" and row["label_id"] is None:
            why = "it has no label" if entry.label is None else f"the model has no class {entry.label!r}"
            row |= {"status": "unknown_label", "error": why}
        return row

    def _label(self, text: str | None) -> int | None:
        if text is None:
            return None
        if text not in self._labels:
            self._labels[text] = self._class(text)
        return self._labels[text]

    def _class(self, text: str) -> int | None:
        try:
            return class_id(
                int(text) if self.numbered else text, self.settings.class_names, self.settings.num_classes, "label"
            )
        except FinerCAMError:
            return None

    def _explain(self, reads: list[Read], rows: dict[int, dict[str, Any]]) -> None:
        if len(reads) > self.limit:
            self._halves(reads, rows)
            return
        try:
            found = self._answers(reads, rows)
        except (FinerCAMError, RuntimeError, MemoryError) as error:
            full = _out_of_memory(error)
            if not full and not isinstance(error, FinerCAMError):
                raise
            if full and torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(reads) > 1:
                if full:
                    self.limit, self.halved = -(-len(reads) // 2), self.halved + 1
                self._halves(reads, rows)
                return
            reason = "the model does not fit into memory with it" if full else str(error)
            status = "out_of_memory" if full else "unexplained"
            rows[reads[0].entry.position] |= {"status": status, "error": reason}
            return
        for read, columns in zip(reads, found, strict=True):
            rows[read.entry.position] |= columns

    def _halves(self, reads: list[Read], rows: dict[int, dict[str, Any]]) -> None:
        middle = -(-len(reads) // 2)
        self._explain(reads[:middle], rows)
        self._explain(reads[middle:], rows)

    def _answers(self, reads: list[Read], rows: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        """The columns of each image that the model adds."""
        settings, explain = self.settings, self._explainer
        tensors = [read.tensor for read in reads if read.tensor is not None]
        with _autocast(settings):
            source = explain.capture(torch.stack(tensors).to(self._device))
            logits = source.logits.cpu().double()
            target = self._target(logits, [rows[read.entry.position]["label_id"] for read in reads])
            against, alone = self._against(logits, target)
            question = explain.question.changed(target=target, against=against)
            bound = question.bind(len(reads), logits.shape[1], settings.class_names)
            contrast, picked = bound.resolve(logits, explain.head_rows(logits.shape[1]))
            keep = "contrast" if not settings.linear else settings.keep or "references"
            kept = directions(logits, contrast, keep)
            evidence = self._method.gather(source, contrast, kept)
        ids = kept.argmax(2).masked_fill(~kept.any(2), NONE) if settings.linear else target[:, None]
        maps = self._class_maps(evidence, ids) if settings.linear else self._strengths(evidence, contrast)
        columns = self._columns(logits, contrast, picked.similarity, ids, maps)
        size = {"input_height": tensors[0].shape[1], "input_width": tensors[0].shape[2]}
        for at, own in enumerate(columns):
            if at in alone:
                own.clear()
                own |= {
                    "status": "unexplained",
                    "error": f"its target, {alone[at]}, is what it was to be held against",
                }
            elif own.pop("broken"):
                own.clear()
                own |= {"status": "unexplained", "error": "its map is not finite"}
            own |= size
        return columns

    def _target(self, logits: Tensor, labels: list[int | None]) -> Tensor:
        if self.settings.target == "label":
            return torch.tensor(labels, dtype=torch.long)
        if self.settings.target_id is not None:
            return torch.full((len(logits),), self.settings.target_id)
        return logits.argmax(dim=1)

    def _against(self, logits: Tensor, target: Tensor) -> tuple[list[list[int]] | None, dict[int, str]]:
        """The references asked for, without an image's own target; and images that have none then."""
        if not self.settings.against:
            return None, {}
        rows, alone = [], {}
        for at, own in enumerate(target.tolist()):
            others = [d for d in self.settings.against if d != own]
            if not others:
                alone[at] = label(own, self.settings.class_names)
                others = [(own + 1) % logits.shape[1]]  # any: the row says that there is no answer
            rows.append(others)
        return rows, alone

    def _class_maps(self, evidence: Evidence, ids: Tensor) -> list[Tensor]:
        """A linear method's map of each kept class, `(N, M, h, w)` for each layer."""
        found = []
        with torch.autocast(evidence.activations[0].device.type, enabled=False):
            for activation, gradients in zip(evidence.activations, evidence.gradients, strict=True):
                one_place = gradients.stride()[-2:] == (0, 0) and self._method.broadcasts
                gradients = (gradients[..., :1, :1] if one_place else gradients).float()
                wide = activation.float()
                if evidence.baseline is not None:  # Score-CAM takes the empty input's score off the target's alone
                    own = evidence.baseline.gather(1, ids[:, :1].to(evidence.baseline.device)).float()
                    gradients = torch.cat([gradients[:, :1] - own[:, :, None, None, None], gradients[:, 1:]], 1)
                if one_place and self._method.name != "xgradcam":  # all classes in one pass over the channels
                    found.append(torch.einsum("nmc,nchw->nmhw", gradients[..., 0, 0], wide))
                else:
                    found.append(torch.stack([self._method.rule(wide, one) for one in gradients.unbind(1)], 1))
        return found

    def _strengths(self, evidence: Evidence, contrast: Contrast) -> list[Tensor]:
        """Another method's map of the question at each kept strength, `(N, G, h, w)`, layers fused."""
        maps = [
            signed_map(
                evidence,
                Contrast(
                    contrast.target, contrast.references, torch.full_like(contrast.gamma, gamma), contrast.weights
                ),
                self._method.rule,
                self.settings.fusion,
            )
            for gamma in self.settings.gammas
        ]
        return [torch.stack(maps, 1)]

    def _columns(
        self, logits: Tensor, contrast: Contrast, similarity: Tensor, ids: Tensor, maps: list[Tensor]
    ) -> list[dict[str, Any]]:
        names = self.settings.class_names
        top = logits.sort(dim=1, descending=True, stable=True).indices[:, : self.settings.top]
        probabilities = logits.softmax(1).gather(1, top).tolist()
        totals = logits.logsumexp(1).tolist()
        halves, scales = zip(*(_as_halves(of_layer) for of_layer in maps), strict=True)
        grid = [side for of_layer in maps for side in of_layer.shape[2:]]
        rows = []
        for at, (target, references, best, kept) in enumerate(
            zip(contrast.target.tolist(), contrast.references.tolist(), top.tolist(), ids.tolist(), strict=True)
        ):
            used = [place for place, k in enumerate(kept) if k != NONE]
            chosen = [place for place, d in enumerate(references) if d != NONE]
            slots = used if self.settings.linear else list(range(len(self.settings.gammas)))
            evidence = torch.cat([of_layer[at, slots].flatten() for of_layer in halves])
            rows.append(
                {
                    "target": label(target, names),
                    "target_id": target,
                    "references": [label(references[place], names) for place in chosen],
                    "reference_ids": [references[place] for place in chosen],
                    "similarity": similarity[at, chosen].tolist(),
                    "method": self.settings.method,
                    "gamma": self.settings.gamma,
                    "top": [label(k, names) for k in best],
                    "top_ids": best,
                    "top_probabilities": probabilities[at],
                    "kept_ids": [kept[place] for place in used],
                    "kept_logits": [float(logits[at, kept[place]]) for place in used],
                    "log_total": totals[at],
                    "grid": grid,
                    "scale": [float(scale[at]) for scale in scales],
                    "evidence": evidence.numpy(),
                    "broken": not bool(evidence.isfinite().all()),
                }
            )
        return rows

    @cached_property
    def _explainer(self) -> FinerCAM:
        return self.settings.explainer(self.model)

    @cached_property
    def _method(self) -> Method:
        return method_of(self.settings)

    @cached_property
    def _device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))


def _as_halves(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps `(N, M, h, w)` as float16 in [-1, 1] and a power of two for each image, so that scaling rounds nothing."""
    wide = maps.detach().double().cpu()
    peak = wide.abs().amax(dim=(1, 2, 3)).nan_to_num(0.0, posinf=0.0)
    scale = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent)
    return (wide / scale[:, None, None, None]).half(), scale


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.cuda.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(
            words in str(seen).lower()
            for words in ("out of memory", "can't allocate memory", "cannot allocate memory")
        ):
            return True
        seen = seen.__cause__
    return False


def _autocast(settings: Settings) -> Any:
    return torch.autocast(
        torch.device(settings.device).type,
        dtype=getattr(torch, settings.precision),
        enabled=settings.precision != "float32",
    )
