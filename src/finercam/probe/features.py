"""Features of a dataset from a frozen backbone, kept on disk under the content of the picture that made them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
"""Pictures whose features are written at once: what is lost at most when a run is cut off."""


@dataclass(frozen=True)
class Features:
    """What a backbone sees of a dataset's labelled pictures.

    `values` `(N, D)` float32, `labels` `(N,)`, `ids` and `indices` (positions in the dataset) in the dataset's order;
    `errors` are `(index, id, reason)` of the pictures that could not be read; `unlabelled` counts those left out for
    want of a label; `computed` counts those that the cache did not have.
    """

    values: Tensor
    labels: Tensor
    ids: list[str]
    indices: list[int]
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    unlabelled: int = 0
    computed: int = 0


def default_cache() -> Path:
    """Where features are kept if no folder is named: under XDG_CACHE_HOME, or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "finercam" / "features"


def picture_digest(image: Any) -> str:
    """A name for what a picture shows: its size and RGB pixels, however the file stores them."""
    rgb = image.convert("RGB")
    return content_hash(repr(rgb.size), rgb.tobytes())


class FeatureCache:
    """Features of one backbone (its weights, pooling and preprocessing) in a folder, as safetensors shards.

    A shard holds `features (n, D)` and, as text, the digests of the n pictures; it is written whole or not at all, and
    several runs may add to one folder. A shard that cannot be read is passed over, and its features made anew.
    """

    def __init__(self, root: Path, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        self.folder = root / content_hash(text)
        try:
            write_whole(self.folder / "settings.json", json.dumps(settings, indent=2, sort_keys=True))
        except FinerCAMError as error:
            raise FinerCAMError(f"{error}; name another folder with --cache") from None

    def read(self, digests: Sequence[str | None]) -> dict[str, Tensor]:
        """The features `(D,)` that are kept of these pictures."""
        from safetensors import SafetensorError, safe_open

        wanted = {digest for digest in digests if digest}
        found: dict[str, Tensor] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(shard, "pt") as file:
                    names = (file.metadata() or {}).get("digests", "").split()
                    if wanted.isdisjoint(names):
                        continue
                    rows = file.get_tensor("features")
            except (SafetensorError, OSError):
                continue
            found.update({name: row for name, row in zip(names, rows, strict=False) if name in wanted})
        return found

    def write(self, features: dict[str, Tensor]) -> None:
        """Add features `(D,)` by digest."""
        from safetensors.torch import save_file

        if not features:
            return
        # A name of its own for each shard: another run may be writing too.
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
    """Features of every labelled picture of a dataset, from the cache where it has them.

    `cache` is the folder that holds all caches (None: `default_cache()`). A run that was cut off goes on where it
    stopped; a picture that changed, or another backbone, pooling, size or normalisation, is computed anew. `progress`
    is told of every picture done. Raises FinerCAMError when not one labelled picture can be read.
    """
    store = FeatureCache(cache or default_cache(), backbone.settings())
    threads = min(4, os.cpu_count() or 1) if workers is None else max(1, workers)
    with ThreadPoolExecutor(threads, thread_name_prefix="finercam-digest") as pool:
        seen = list(pool.map(lambda index: _look(dataset, index), range(len(dataset))))
    readable = [index for index, (_, label, digest, _) in enumerate(seen) if digest and label is not None]
    kept = store.read([seen[index][2] for index in readable])
    # a cache is a folder that anybody may have written to: what no such backbone gives is made anew
    kept = {digest: row for digest, row in kept.items() if row.shape == (backbone.dim,) and row.isfinite().all()}
    missing: dict[str, int] = {}  # one position of each picture to be computed: twins have one feature
    for index in readable:
        if seen[index][2] not in kept:
            missing.setdefault(str(seen[index][2]), index)
    if progress is not None:
        progress(len(readable) - len(missing))
    reasons = {index: reason for index, (*_, reason) in enumerate(seen) if reason}
    fresh: dict[str, Tensor] = {}
    try:
        for batch in loader(dataset, backbone.preprocess, batch_size, missing.values(), workers):
            for index, _, reason in batch.errors:
                reasons[index] = reason
            if not len(batch):
                continue
            rows = backbone.features(batch.images).float().cpu()
            fresh.update({str(seen[index][2]): row for index, row in zip(batch.indices, rows, strict=True)})
            if progress is not None:
                progress(len(batch))
            if len(fresh) >= SHARD:
                kept.update(fresh)
                store.write(fresh)
                fresh = {}
    finally:  # also when interrupted: what is computed is kept
        kept.update(fresh)
        store.write(fresh)
    done = [index for index in readable if seen[index][2] in kept]
    if not done:
        first = next(iter(reasons.values()), "no picture has a label")
        raise FinerCAMError(f"{dataset.name}: no labelled picture could be read; the first: {first}")
    return Features(
        torch.stack([kept[str(seen[index][2])] for index in done]),
        torch.tensor([int(seen[index][1] or 0) for index in done]),
        [seen[index][0] for index in done],
        done,
        [(index, seen[index][0], reason) for index, reason in sorted(reasons.items())],
        sum(label is None and digest is not None for _, label, digest, _ in seen),
        len(missing),
    )


def _look(dataset: ImageDataset, index: int) -> tuple[str, int | None, str | None, str]:
    """`(id, label, digest, reason why there is no digest)` of one picture."""
    name, label = f"#{index}", None
    try:
        sample = dataset[index]
        name, label = sample.id, sample.label
        return name, label, picture_digest(sample.open()), ""
    except Exception as error:  # as in the loader: one bad picture must not end a long run
        return name, label, None, one_line(error)
