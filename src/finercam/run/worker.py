"""From pictures to rows: one batch after another through the explainer, whatever happens to single pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from finercam.errors import FinerCAMError
from finercam.names import class_id
from finercam.run.columns import explained_columns
from finercam.run.pictures import Read
from finercam.run.rows import OK
from finercam.run.settings import Settings

if TYPE_CHECKING:
    from finercam.explainer import FinerCAM

__all__ = ["Worker"]


@dataclass
class Worker:
    """Explains pictures under the settings. A batch is a fixed range of the list, so that it is the same in every run.

    Within a range, pictures of one shape that could be read are one batch. A batch that does not fit into memory is
    halved, and so are later ones; one that the model fails on is halved until the image that causes it is alone.
    `numbered` says that labels are class ids.
    """

    settings: Settings
    model: nn.Module
    numbered: bool = False
    limit: int = 0
    """The largest batch to try; smaller once a batch did not fit into memory."""
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
        """The columns of an image before it is explained."""
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
        """The class of a label; None for one that the model does not know."""
        if text is not None and text not in self._labels:
            settings = self.settings
            try:
                written = int(text) if self.numbered else text
                self._labels[text] = class_id(written, settings.class_names, settings.num_classes, "label")
            except FinerCAMError:
                self._labels[text] = None
        return None if text is None else self._labels[text]

    def _explain(self, reads: list[Read], rows: dict[int, dict[str, Any]]) -> None:
        if len(reads) > self.limit:
            self._halves(reads, rows)
            return
        labels = [rows[read.entry.position]["label_id"] for read in reads]
        try:
            images = torch.stack([read.tensor for read in reads if read.tensor is not None]).to(self._device)
            found = explained_columns(self._explainer, self.settings, images, labels)
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

    @cached_property
    def _explainer(self) -> FinerCAM:
        return self.settings.explainer(self.model)

    @cached_property
    def _device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that memory ran out."""
    said = ("out of memory", "can't allocate memory", "cannot allocate memory")
    while error is not None:
        if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in said):
            return True
        error = error.__cause__
    return False
