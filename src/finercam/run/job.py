"""explain_dataset: every image of a dataset into sharded Parquet; stopped at any moment, the same call goes on."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from finercam.errors import FinerCAMError
from finercam.run import local
from finercam.run.lists import ImageList, write_list
from finercam.run.manifest import Manifest, about, read_manifest
from finercam.run.rows import FINE, read_shard, shard_name
from finercam.run.settings import resolve_settings
from finercam.run.source import Source, open_source
from finercam.run.store import Store
from finercam.run.worker import Worker

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["Cluster", "Outcome", "explain_dataset"]

LIST, SUMMARY = "list.parquet", "summary.json"
CHECKED = ("position", "path", "status", "content", "bytes", "modified_ns")


@dataclass(frozen=True)
class Cluster:
    """Ray: `address` is "local" or a cluster's; `workers` hold the model, each with a share of a GPU."""

    address: str = "local"
    workers: int = 2
    gpus: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How many images had each status, the first of each that failed, and what else is worth knowing."""

    counts: dict[str, int]
    examples: dict[str, tuple[str, str]]
    same_content: int
    unknown_labels: int
    halved: int
    explained_now: int

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.counts.items() if status not in FINE)


def explain_dataset(
    data: str | os.PathLike[str],
    model: LoadedModel,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    limit: int | None = None,
    redo: bool = False,
    check_contents: bool = False,
    readers: int | None = None,
    cluster: Cluster | None = None,
    model_string: str | None = None,
    size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
    **question: Any,
) -> Outcome:
    """Explain every image of a dataset into `out/rows/*.parquet`, with `manifest.json`, `list.parquet`, `summary.json`.

    `question` goes to `finercam.run.settings.settle`: method, gamma, references, against, weights, layer, target,
    keep, precision, batch, shard, threads … A shard is a fixed range of the list, written whole or not at all;
    shards that are there, undamaged and made of the same things, are not made again. What cannot be explained has a
    row that says why. `cluster` spreads the shards over Ray workers, which load `model_string` themselves (at `size`).

    Raises FinerCAMError if the folder holds a run with another model, setting, list or changed images, unless `redo`:
    then what differs is made anew.
    """
    source = open_source(data, split)
    store = Store(out)
    store.make()
    with store.locked(), TemporaryDirectory(prefix="finercam-") as scratch:
        store.clear()
        before = _begun(store, redo)
        goes_on = {} if before is None else before.settings.to_json()
        for key in ("batch", "shard", "threads"):  # where nothing is said, as the run was begun
            if question.get(key) is None:
                question[key] = goes_on.get(key)
        settings = resolve_settings(model, model_string or model.name, **question)
        part = Path(scratch) / LIST if store.folder is None else store.folder / f".writing-{LIST}"
        try:
            listed = write_list(source, part, settings.shard, limit)
            asked = {"text": os.fspath(data), "split": split, "limit": limit}
            found = {"count": listed.count, "sha256": listed.digest, "numbered": listed.numbered}
            manifest = Manifest(settings, asked | found, about(model.source))
            if before is not None and not redo and (changes := before.changes(manifest)):
                raise FinerCAMError(
                    f"{store.place} holds a run with other {', '.join(changes)}; choose another --out, or pass --redo"
                )
            if before is None or before.changes(manifest):
                manifest.write(store)  # before anything of another run goes: what does not fit it is not trusted
            store.publish(part, LIST)
        finally:
            if store.folder is not None:
                part.unlink(missing_ok=True)
        if store.folder is not None:
            listed = replace(listed, file=store.folder / LIST)
        left = _pending_shards(store, listed, source, settings.digest, redo, check_contents, tell)
        done = listed.count - sum(map(listed.length, left))
        if progress:
            progress(done, listed.count)
        for number, content in _shards(left, cluster, source, listed, manifest, model, readers, size):
            store.write(shard_name(number), content)
            done += listed.length(number)
            if progress:
                progress(done, listed.count)
        outcome = _outcome(store, listed, sum(map(listed.length, left)))
        _write_summary(store, outcome)
        return outcome


def _begun(store: Store, redo: bool) -> Manifest | None:
    """The manifest that is there; one that cannot be read counts as none where all may be made anew."""
    try:
        return read_manifest(store)
    except FinerCAMError:
        if redo:
            return None
        raise


def _shards(
    left: Sequence[int],
    cluster: Cluster | None,
    source: Source,
    listed: ImageList,
    manifest: Manifest,
    model: LoadedModel,
    readers: int | None,
    size: int | None,
) -> Iterator[tuple[int, bytes]]:
    if not left:
        return iter(())
    readers = local.default_readers() if readers is None else readers
    if cluster is None:
        worker = Worker(manifest.settings, model.model, listed.numbered)
        return local.explain_shards(worker, source, listed, left, readers)
    from finercam.run import cluster as engine

    return engine.explain_shards(cluster, manifest, listed, left, readers, size)


def _pending_shards(
    store: Store,
    listed: ImageList,
    source: Source,
    settings: str,
    redo: bool,
    check_contents: bool,
    tell: Callable[[str], None],
) -> list[int]:
    """The shards that are to be made. What is damaged or of another run goes; changed images are refused."""
    wanted = {shard_name(number): number for number in range(listed.shards)}
    finished = set()
    changed: list[str] = []
    for name in store.names("rows"):
        number = wanted.get(name)
        if number is None:
            store.delete(name)
            continue
        try:
            shard = read_shard(store, number, verify=True)
        except FinerCAMError as error:
            tell(f"{error}; made anew")
            store.delete(name)
            continue
        if shard.fingerprint != listed.fingerprint(number, settings) or len(shard.table) != listed.length(number):
            store.delete(name)
            continue
        others = _changed(shard.table, source, check_contents)
        if others and redo:
            store.delete(name)
        else:
            finished.add(number)
        changed += others
    if changed and not redo:
        raise FinerCAMError(
            f"{len(changed)} images have changed since they were explained ({changed[0]}{', …' if changed[1:] else ''}); "
            "pass --redo to explain their shards again"
        )
    return [number for number in range(listed.shards) if number not in finished]


def _changed(table: Any, source: Source, check_contents: bool) -> list[str]:
    """Paths whose files are not what was explained: by size and time, and then by their hash."""
    rows = table.select(CHECKED)
    found = []
    for position, path, status, content, size, modified in zip(
        *(rows.column(name).to_pylist() for name in CHECKED), strict=True
    ):
        if status in ("duplicate", "refused"):
            continue
        now = source.state(position, path)
        if (now != (size, modified) or check_contents) and source.digest(position, path) != content:
            found.append(path)
    return found


def _outcome(store: Store, listed: ImageList, explained_now: int) -> Outcome:
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    marks, unknown, halved = array("Q"), 0, 0
    for number in range(listed.shards):
        shard = read_shard(store, number, ("path", "status", "error", "content", "label", "label_id"))
        halved += shard.halved
        for row in shard.table.to_pylist():
            counts[row["status"]] += 1
            if row["status"] not in FINE:
                examples.setdefault(row["status"], (row["path"], row["error"] or ""))
            unknown += row["label"] is not None and row["label_id"] is None
            if row["content"] is not None and row["status"] != "duplicate":
                marks.append(int(row["content"][:16], 16))
    same = len(marks) - len(np.unique(np.frombuffer(marks, np.uint64))) if marks else 0
    return Outcome(dict(counts), examples, same, unknown, halved, explained_now)


def _write_summary(store: Store, outcome: Outcome) -> None:
    content = {
        "images": sum(outcome.counts.values()),
        "statuses": outcome.counts,
        "examples": {status: {"path": path, "error": error} for status, (path, error) in outcome.examples.items()},
        "same_content_as_another": outcome.same_content,
        "labels_unknown_to_the_model": outcome.unknown_labels,
        "batches_halved": outcome.halved,
    }
    store.write(SUMMARY, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
