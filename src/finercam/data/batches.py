"""Batches of a dataset, decoded ahead in a few threads; a picture that cannot be read is reported, and the rest goes on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError
from finercam.io import one_line

if TYPE_CHECKING:
    from finercam.images import Preprocess

__all__ = ["Batch", "in_order", "loader"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """Pictures of one shape, ready for a model, and the errors of those that could not be read.

    `images` is `(N, 3, H, W)`; `labels`, `ids`, `indices` (positions in the dataset) and `sizes` (`(width,
    height)` of the picture before preprocessing) have N entries; `errors` are `(index, id, reason)`. N is 0
    only where no picture at all could be read: then one batch carries the errors.
    """

    images: Tensor
    labels: list[int | None]
    ids: list[str]
    indices: list[int]
    sizes: list[tuple[int, int]]
    errors: list[tuple[int, str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        return f"Batch({len(self)} pictures of {shape}, {len(self.errors)} errors)"


@dataclass(frozen=True)
class _Read:
    """One picture after reading: a tensor, or the reason why there is none."""

    index: int
    id: str
    label: int | None = None
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    reason: str = ""


def loader(
    dataset: ImageDataset,
    preprocess: Preprocess,
    batch_size: int = 16,
    indices: Iterable[int] | None = None,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Batches of the pictures at `indices` (all by default), each of at most `batch_size` pictures of one shape.

    With one shape the order is that of `indices`; with `mode="native"` pictures wait for others of their shape, at
    most `4 · batch_size` of them in memory. `workers` threads decode ahead, at most two batches (None: as many as
    the machine has processors, up to 4; 0: in the calling thread). A picture that cannot be read is in `errors` of one
    of the batches, once. Raises FinerCAMError for an index outside the dataset.
    """
    count = len(dataset)
    chosen = range(count) if indices is None else [int(index) for index in indices]
    outside = [index for index in chosen if not 0 <= index < count]
    if outside:
        raise FinerCAMError(f"index {outside[0]} is outside the dataset's 0 to {count - 1}")
    if batch_size < 1:
        raise FinerCAMError(f"batch_size={batch_size} must be at least 1")
    threads = min(4, os.cpu_count() or 1) if workers is None else workers
    return _batches(in_order(partial(_read, dataset, preprocess), chosen, threads, 2 * batch_size), batch_size)


def _read(dataset: ImageDataset, preprocess: Preprocess, index: int) -> _Read:
    name, label = f"#{index}", None
    try:
        sample = dataset[index]
        name, label = sample.id, sample.label
        image = sample.open()
        return _Read(index, name, label, preprocess(image), image.size)
    except Exception as error:  # a dataset may be anybody's code; one bad picture must not end a long run
        return _Read(index, name, label, reason=one_line(error))


def in_order(
    read: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """The results of `read` for each item, in their order, with up to `ahead` of them computed in advance.

    With 0 threads nothing is read in advance. Reading stops when the caller stops.

    >>> list(in_order(str.upper, "abc", threads=2, ahead=2))
    ['A', 'B', 'C']
    """
    if threads < 1:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="finercam-read")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the caller stops early
        pool.shutdown(wait=False, cancel_futures=True)


def _batches(reads: Iterator[_Read], batch_size: int) -> Iterator[Batch]:
    """Collect by shape. One batch is held back, so that errors found after the last picture still have one."""
    errors: list[tuple[int, str, str]] = []
    held: Batch | None = None
    for group in _groups(reads, errors, batch_size):
        if held is not None:
            yield held
        held = _collate(group, errors)
    if held is not None or errors:
        held = held or Batch(torch.empty(0, 3, 0, 0), [], [], [], [])
        held.errors.extend(errors)
        yield held


def _groups(reads: Iterator[_Read], errors: list[tuple[int, str, str]], batch_size: int) -> Iterator[list[_Read]]:
    """Pictures of one shape, as soon as there are enough; those that could not be read join `errors`."""
    shelves: dict[tuple[int, ...], list[_Read]] = {}
    for read in reads:
        if read.image is None:
            errors.append((read.index, read.id, read.reason))
            continue
        shape = tuple(read.image.shape)
        shelves.setdefault(shape, []).append(read)
        if len(shelves[shape]) == batch_size:
            yield shelves.pop(shape)
        elif sum(map(len, shelves.values())) >= 4 * batch_size:
            yield shelves.pop(max(shelves, key=lambda key: len(shelves[key])))
    yield from shelves.values()


def _collate(group: list[_Read], errors: list[tuple[int, str, str]]) -> Batch:
    """A batch of these pictures, which takes along the errors met so far."""
    batch = Batch(
        torch.stack([read.image for read in group if read.image is not None]),
        [read.label for read in group],
        [read.id for read in group],
        [read.index for read in group],
        [read.size for read in group],
        list(errors),
    )
    errors.clear()
    return batch
