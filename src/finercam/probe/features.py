"""Features of a dataset from a frozen backbone, cached on disk by the content of the pictures."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from finercam.data.batches import loader
from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError
from finercam.io import content_hash, one_line, whole_file, write_whole

if TYPE_CHECKING:
    from finercam.models.backbone import Backbone

__all__ = ["FeatureCache", "Features", "default_cache", "extract", "picture_digest"]

SHARD = 512
"""Features of this many pictures are written at once; a run that is stopped loses at most these."""


@dataclass(frozen=True)
class Features:
    """A backbone's features of the labelled pictures of a dataset.

    `values` `(N, D)` float32, `labels` `(N,)`, `ids` and `indices` (positions in the dataset) are in the order of the
    dataset. `errors` are `(index, id, reason)` of the pictures that could not be read. `unlabelled` is the number of
    pictures without a label, which are left out. `computed` is the number of pictures that were not in the cache.
    """

    values: Tensor
    labels: Tensor
    ids: list[str]
    indices: list[int]
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    unlabelled: int = 0
    computed: int = 0


def default_cache() -> Path:
    """The default folder for features, in XDG_CACHE_HOME or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "finercam" / "features"


def picture_digest(image: Any) -> str:
    """A hash of a picture's size and RGB pixels, independent of the format of its file."""
    rgb = image.convert("RGB")
    return content_hash(repr(rgb.size), rgb.tobytes())


class FeatureCache:
    """Features of one backbone (its weights, pooling and preprocessing) in a folder, as safetensors shards.

    A shard holds `features (n, D)` and, as text, the digests of the n pictures. Shards are written atomically, so that
    several runs can add to one folder. A shard that cannot be read is skipped, and its features are computed again.
    """

    def __init__(self, root: Path, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        self.folder = root / content_hash(text)
        try:
            write_whole(self.folder / "settings.json", json.dumps(settings, indent=2, sort_keys=True))
        except FinerCAMError as error:
            raise FinerCAMError(f"{error}; name another folder with --cache") from None

    def read(self, digests: Iterable[str]) -> dict[str, Tensor]:
        """The cached features `(D,)` of these pictures."""
        from safetensors import SafetensorError, safe_open

        wanted = set(digests)
        cached: dict[str, Tensor] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(shard, "pt") as file:
                    names = (file.metadata() or {}).get("digests", "").split()
                    if wanted.isdisjoint(names):
                        continue
                    rows = file.get_tensor("features")
            except (SafetensorError, OSError):
                continue
            cached.update({name: row for name, row in zip(names, rows, strict=False) if name in wanted})
        return cached

    def write(self, features: dict[str, Tensor]) -> None:
        """Add features `(D,)` by digest."""
        from safetensors.torch import save_file

        if not features:
            return
        # The name of each shard is unique, because another run may write to the folder too.
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        with whole_file(shard) as partial:
            save_file({"features": torch.stack(list(features.values()))}, partial, {"digests": " ".join(features)})


def extract(
    dataset: ImageDataset,
    backbone: Backbone,
    cache: Path | None = None,
    *,
    batch_size: int = 16,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Features:
    """Features of every labelled picture of a dataset, cached on disk.

    `cache` is the folder of all caches (None: `default_cache()`). A run that was stopped continues. Features are
    computed again if the picture, backbone, pooling, size or normalisation changed. `progress` is called with the
    number of pictures that were just done. Raises FinerCAMError if no labelled picture can be read.
    """
    report = progress or (lambda count: None)
    store = FeatureCache(cache or default_cache(), backbone.settings())
    threads = min(4, os.cpu_count() or 1) if workers is None else max(1, workers)
    with ThreadPoolExecutor(threads, thread_name_prefix="finercam-digest") as pool:
        pictures = list(pool.map(lambda index: _read_picture(dataset, index), range(len(dataset))))
    readable = {index: one.digest for index, one in enumerate(pictures) if one.digest and one.label is not None}
    kept = store.read(readable.values())
    # Others may have written to the cache, so features of a wrong shape or with infinite values are not used.
    kept = {digest: row for digest, row in kept.items() if row.shape == (backbone.dim,) and row.isfinite().all()}
    missing: dict[str, int] = {}  # one position of each picture to compute; copies of a picture share its features
    for index, digest in readable.items():
        if digest not in kept:
            missing.setdefault(digest, index)
    report(len(readable) - len(missing))
    reasons = {index: one.reason for index, one in enumerate(pictures) if one.reason}
    fresh: dict[str, Tensor] = {}
    try:
        for batch in loader(dataset, backbone.preprocess, batch_size, missing.values(), workers):
            reasons |= {index: reason for index, _, reason in batch.errors}
            if not len(batch):
                continue
            rows = backbone.features(batch.images).float().cpu()
            fresh |= {readable[index]: row for index, row in zip(batch.indices, rows, strict=True)}
            report(len(batch))
            if len(fresh) >= SHARD:
                kept |= fresh
                store.write(fresh)
                fresh = {}
    finally:  # computed features are saved even if the run is interrupted
        kept |= fresh
        store.write(fresh)
    done = {index: kept[digest] for index, digest in readable.items() if digest in kept}
    if not done:
        first = next(iter(reasons.values()), "no picture has a label")
        raise FinerCAMError(f"{dataset.name}: no labelled picture could be read; the first: {first}")
    return Features(
        torch.stack(list(done.values())),
        torch.tensor([pictures[index].label for index in done]),
        [pictures[index].id for index in done],
        list(done),
        [(index, pictures[index].id, reason) for index, reason in sorted(reasons.items())],
        sum(one.label is None and one.digest is not None for one in pictures),
        len(missing),
    )


class _Picture(NamedTuple):
    """The id and label of a picture, and its digest, or the reason why it could not be read."""

    id: str
    label: int | None = None
    digest: str | None = None
    reason: str = ""


def _read_picture(dataset: ImageDataset, index: int) -> _Picture:
    picture = _Picture(f"#{index}")
    try:
        sample = dataset[index]
        picture = _Picture(sample.id, sample.label)
        return picture._replace(digest=picture_digest(sample.open()))
    except Exception as error:  # as in the loader, one bad picture must not end a long run
        return picture._replace(reason=one_line(error))
