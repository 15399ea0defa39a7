"""explain_dataset: every image of a dataset into sharded Parquet; after any interruption the same call continues."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from finercam.data.open import open_source
from finercam.data.source import Source
from finercam.errors import FinerCAMError, suggest
from finercam.run import cluster
from finercam.run.cluster import Cluster
from finercam.run.lists import ImageList, write_list
from finercam.run.manifest import Manifest, about, read_manifest
from finercam.run.outcome import Outcome, read_outcome, write_summary
from finercam.run.pending import pending_shards
from finercam.run.precision import precision_warning
from finercam.run.rows import shard_name
from finercam.run.settings import Request
from finercam.run.store import Store
from finercam.run.work import Work, explain_shards

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["Options", "explain_dataset"]

LIST = "list.parquet"


@dataclass(frozen=True)
class Options:
    """How a run is carried out. `split` and `limit` choose the images; nothing else here changes a row.

    `redo` explains again what differs from an earlier run in the same folder. `check_contents` hashes all images
    before a run continues, not only the files whose size or time changed. `readers` threads decode pictures for each
    worker. `cluster` spreads the shards over Ray workers, which load `model_string` themselves.
    """

    split: str | None = None
    limit: int | None = None
    redo: bool = False
    check_contents: bool = False
    readers: int | None = None
    cluster: Cluster | None = None
    model_string: str | None = None


def explain_dataset(
    data: str | os.PathLike[str],
    model: LoadedModel,
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda line: None,
    **given: Any,
) -> Outcome:
    """Explain every image of a dataset into `out/rows/*.parquet`, with `manifest.json`, `list.parquet`, `summary.json`.

    The fields of `Options` and `finercam.run.Request` (method, gamma, references, against, target, layer, batch,
    shard and so on) are given by keyword. A shard is a fixed range of the list, and its file is written whole or
    not at all. Files that exist, are undamaged and were made of the same things are not made again. An image that cannot
    be explained has a row that says why. `progress(done, total)` counts images, batch by batch.

    Raises FinerCAMError if the folder holds a run with another model, setting, list or changed images, unless `redo`.
    """
    options, request = _checked(given)
    source = open_source(data, options.split)
    store = Store(out)
    store.make()
    with store.locked():
        store.clear()
        manifest, listed = _begin(store, source, model, os.fspath(data), options, request)
        numbers = pending_shards(
            store, listed, source, manifest.settings.digest, options.redo, options.check_contents, warn
        )
        if numbers and (line := precision_warning(manifest.settings, model.model, source, listed, numbers[0])):
            warn(line)
        left = sum(map(listed.length, numbers))
        finished = listed.count - left
        progress(finished, listed.count)
        work = Work(
            source,
            listed,
            manifest,
            numbers,
            min(4, os.cpu_count() or 1) if options.readers is None else options.readers,
            save=lambda number, content: store.write(shard_name(number), content),
            report=lambda done: progress(finished + done, listed.count),
        )
        if numbers and options.cluster is None:
            explain_shards(work, model.model)
        elif numbers and options.cluster is not None:
            cluster.explain_shards(work, options.cluster)
        outcome = read_outcome(store, listed, left)
        write_summary(store, outcome)
        return outcome


def _checked(given: dict[str, Any]) -> tuple[Options, Request]:
    """The keywords of a call; raises FinerCAMError for a name that is none."""
    own, wanted = ({field.name for field in fields(kind)} for kind in (Options, Request))
    for name in given:
        if name not in own | wanted:
            raise FinerCAMError(f"{name}={given[name]!r}: a run has no such option.{suggest(name, own | wanted)}")
    return (
        Options(**{name: value for name, value in given.items() if name in own}),
        Request(**{name: value for name, value in given.items() if name in wanted}),
    )


def _begin(
    store: Store, source: Source, model: LoadedModel, data: str, options: Options, request: Request
) -> tuple[Manifest, ImageList]:
    """Write the list and the manifest, or find that they are those of the run in the folder."""
    before = _earlier(store, options.redo)
    if before is not None:  # a run continues with the values that it began with
        begun = {name: getattr(before.settings, name) for name in ("batch", "shard", "threads")}
        request = replace(request, **{name: getattr(request, name) or value for name, value in begun.items()})
    settings = request.settings(model, options.model_string or model.name)
    with store.writing(LIST) as part:
        listed = write_list(source, part, settings.shard, options.limit)
        described = {"text": data, "split": options.split, "limit": options.limit}
        found = {"count": listed.count, "sha256": listed.digest, "numbered": listed.numbered}
        manifest = Manifest(settings, described | found, about(model.source))
        changes = [] if before is None else before.changes(manifest)
        if changes and not options.redo:
            raise FinerCAMError(
                f"{store.place} holds a run with other {', '.join(changes)}; choose another --out, or pass --redo"
            )
        if before is None or changes:
            manifest.write(store)  # first, so that files of rows which do not fit it are never trusted
    return manifest, replace(listed, file=store.local(LIST))


def _earlier(store: Store, redo: bool) -> Manifest | None:
    """The manifest of an earlier run in the folder; with `redo` one that cannot be read counts as none."""
    try:
        return read_manifest(store)
    except FinerCAMError:
        if redo:
            return None
        raise
