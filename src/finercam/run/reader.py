"""open_run: a run's rows as tables, and as explanations that answer further questions without the model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from finercam.data.open import open_source
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.images import Preprocess
from finercam.names import class_id
from finercam.run.manifest import Manifest, read_manifest
from finercam.run.rows import OK, read_shard, schema, shard_name
from finercam.run.settings import preprocess_of
from finercam.run.store import Store
from finercam.run.stored import answers

__all__ = ["Part", "Run", "open_run", "stored_answers"]


@dataclass(frozen=True)
class Part:
    """Some images of a run: their `rows` (a pyarrow table without the evidence) and one `answer` for all of them."""

    rows: Any
    answer: Explanation

    @property
    def paths(self) -> list[str]:
        return self.rows.column("path").to_pylist()

    @property
    def positions(self) -> list[int]:
        """Places in the list of the run."""
        return self.rows.column("position").to_pylist()

    def __len__(self) -> int:
        return len(self.rows)


def open_run(place: str | os.PathLike[str]) -> Run:
    """What `finercam run` wrote, finished or not; only `manifest.json` is read at once.

    Raises FinerCAMError where there is no run, or one that cannot be trusted.

    >>> open_run("/nowhere")
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: /nowhere holds no run (there is no manifest.json)
    """
    store = Store(place)
    manifest = read_manifest(store)
    if manifest is None:
        raise FinerCAMError(f"{store.place} holds no run (there is no manifest.json)")
    return Run(store, manifest)


@dataclass(frozen=True)
class Run:
    """A run, read shard by shard: the evidence of one shard at most is in memory.

        run = open_run("out/run")
        for part in run.ask(gamma=0.9):      # every image, in parts
            part.answer.signed, part.paths
        run[17].ask(against="Indigo Bunting").maps
        run.table(["path", "status", "error"])

    Iteration gives the explanations of the single images that have one.
    """

    store: Store
    manifest: Manifest

    def __len__(self) -> int:
        """How many images the run lists."""
        return self.manifest.data["count"]

    @cached_property
    def shards(self) -> list[int]:
        """Numbers of the shards that are finished."""
        there = set(self.store.names("rows"))
        return [number for number in range(self.manifest.shards) if shard_name(number) in there]

    def length(self, number: int) -> int:
        """How many images a shard has."""
        return min(self.manifest.settings.shard, len(self) - number * self.manifest.settings.shard)

    @property
    def finished(self) -> bool:
        return len(self.shards) == self.manifest.shards

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.manifest.settings.class_names

    @property
    def preprocess(self) -> Preprocess:
        """How the pictures were turned into tensors."""
        return preprocess_of(self.manifest.settings)

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """The rows of all finished shards as one pyarrow table; without the evidence, if no columns are named."""
        import pyarrow as pa

        names = [name for name in schema().names if name != "evidence"] if columns is None else list(columns)
        for name in names:
            if name not in schema().names:
                raise FinerCAMError(f"a run has no column {name!r}; it has {', '.join(schema().names)}")
        empty = pa.schema([schema().field(name) for name in names]).empty_table()
        return pa.concat_tables([empty, *(self.read(n, names).replace_schema_metadata() for n in self.shards)])

    def parts(self) -> Iterator[Part]:
        """All explained images, a part for each shard, and for each shape in it."""
        for number in self.shards:
            for rows, answer in answers(self.read(number), self.manifest.settings):
                yield Part(rows, answer)

    def ask(self, **question: Any) -> Iterator[Part]:
        """Ask about all images again, as `Explanation.ask` does: gamma, against, target, weights.

        With named classes, only images that keep a map of each of them have an answer. An image whose target is named
        as its rival is left out.
        """
        classes = [question[key] for key in ("target", "against") if question.get(key) is not None]
        if not classes:
            for part in self.parts():
                yield Part(part.rows, part.answer.ask(**question))
            return
        named = [value for one in classes for value in (one if isinstance(one, list | tuple | range) else [one])]
        wanted = {class_id(value, self.class_names, self.manifest.settings.num_classes) for value in named}
        aims = None if question.get("target") is not None else question.get("against")
        for number in self.shards:
            table = self.read(number)
            kept = zip(table.column("kept_ids").to_pylist(), table.column("target_id").to_pylist(), strict=True)
            usable = [
                ids is not None and wanted <= set(ids) and not (aims is not None and own in wanted)
                for ids, own in kept
            ]
            for rows, answer in answers(table.filter(usable), self.manifest.settings):
                yield Part(rows, answer.ask(**question))

    def __iter__(self) -> Iterator[Explanation]:
        for part in self.parts():
            yield from part.answer

    def __getitem__(self, which: int | str) -> Explanation:
        """The explanation of the image at a position of the list, or of a path.

        Raises FinerCAMError, with the reason that its row has, for an image that was not explained.
        """
        import pyarrow.compute

        pc: Any = pyarrow.compute
        number, position = self._find(which) if isinstance(which, str) else self.shard_of(which)
        table = self.read(number)
        row = table.filter(pc.equal(table.column("position"), position))
        status, error, path = (row.column(name)[0].as_py() for name in ("status", "error", "path"))
        if status != OK:
            raise FinerCAMError(f"{path} was not explained: {status}: {error}")
        return next(answers(row, self.manifest.settings))[1]

    def picture(self, position: int, path: str) -> Any:
        """The picture itself (PIL, RGB), from where the run found it."""
        return self._source.open(position, path).image

    @cached_property
    def _source(self) -> Any:
        return open_source(self.manifest.data["text"], self.manifest.data.get("split"))

    def shard_of(self, position: int) -> tuple[int, int]:
        if not -len(self) <= position < len(self):
            raise IndexError(f"image {position}: the run has {len(self)}")
        position %= len(self)
        number = position // self.manifest.settings.shard
        if number not in self.shards:
            raise FinerCAMError(
                f"image {position} has no row yet: the run is not finished; run the same command again"
            )
        return number, position

    def _find(self, path: str) -> tuple[int, int]:
        import pyarrow.compute

        pc: Any = pyarrow.compute
        for number in self.shards:
            table = self.read(number, ["position", "path"])
            at = pc.index(table.column("path"), path).as_py()
            if at >= 0:
                return number, table.column("position")[at].as_py()
        raise FinerCAMError(f"the run has no image {path!r}")

    def read(self, number: int, columns: Sequence[str] | None = None) -> Any:
        """The rows of one shard as a pyarrow table."""
        return read_shard(self.store, number, columns).table


def stored_answers(run: Run, positions: Sequence[int]) -> list[tuple[list[int], Any, Explanation]]:
    """Explanations of some images of a run with their places in `positions` and their rows, a part for each shard.

    Raises FinerCAMError for an image without explanation.
    """
    place = {position: at for at, position in enumerate(positions)}
    parts = []
    for number in sorted({run.shard_of(position)[0] for position in positions}):
        table = run.read(number)
        table = table.filter([position in place for position in table.column("position").to_pylist()])
        for rows, answer in answers(table, run.manifest.settings):
            parts.append(([place.pop(position) for position in rows.column("position").to_pylist()], rows, answer))
    for position in place:
        raise FinerCAMError(f"image {position} of {run.store.place} was not explained; leave it out")
    return parts
