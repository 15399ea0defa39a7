"""make_pages: the trait pages of pairs of classes in one folder; after any interruption the same call continues."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finercam.errors import FinerCAMError, suggest
from finercam.io import PARTIAL, content_hash, locked, weights_hash, write_whole
from finercam.names import class_id, label
from finercam.run.cluster import Cluster
from finercam.traits.album import Album, open_album
from finercam.traits.collect import Collector
from finercam.traits.neighbours import nearest_pairs
from finercam.traits.pages import Naming, write_index, write_pair
from finercam.traits.request import Request, collector
from finercam.traits.sights import read_sights, sights_fingerprint
from finercam.traits.traits import compare

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["Outcome", "make_pages"]

FORMAT = 1
"""Changes when files of an earlier version cannot be continued."""


@dataclass(frozen=True)
class Outcome:
    """What a call did: pages in the folder, those written now, pairs without a page and photos left out, with reasons."""

    index: Path
    pages: int
    written: int
    failed: dict[str, str]
    problems: dict[str, str]


def make_pages(
    data: str | os.PathLike[str],
    model: LoadedModel,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    redo: bool = False,
    cluster: Cluster | None = None,
    model_string: str | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    **given: Any,
) -> Outcome:
    """Write the trait pages of pairs of classes, with `index.html`, `traits.csv` and a JSON file for each page.

    `data` is a dataset with labels, or a folder that `finercam run` wrote, whose maps are then used where it kept
    them. The fields of `Request` are given by keyword. What an earlier call of the same settings finished in the folder
    is kept: evidence of classes and pages whose photos have not changed are not made again. A photo that cannot be
    used is left out and listed. `cluster` spreads the classes over Ray workers, which load `model_string`.

    Raises FinerCAMError for data or classes that cannot be compared, or a folder with pages of other settings, unless
    `redo`.
    """
    request = _request(given)
    folder = Path(out)
    job = _Job.of(data, model, folder, request, split, model_string)
    write_whole(folder / "sights" / ".made", "")
    with locked(folder) as held:
        if not held:
            raise FinerCAMError(f"{folder}: another run is writing here; wait until it ends, or stop it")
        _clear(folder)
        job.begin(redo)
        job.collect(cluster, progress)
        return job.write(progress)


@dataclass(frozen=True)
class _Job:
    folder: Path
    album: Album
    model: LoadedModel
    request: Request
    collector: Collector
    naming: Naming
    pairs: list[tuple[int, int]]
    settings: dict[str, Any]
    string: str

    @classmethod
    def of(
        cls,
        data: Any,
        model: LoadedModel,
        folder: Path,
        request: Request,
        split: str | None,
        string: str | None,
    ) -> _Job:
        count = _num_classes(model)
        names = None if model.class_names is None else tuple(model.class_names)
        only = None if request.classes is None else [class_id(one, names, count) for one in request.classes]
        if only is not None and only[0] == only[1]:
            raise FinerCAMError(f"class {label(only[0], names)!r} is named twice; name two classes")
        album = open_album(data, names, count, request.photos, split)
        for one in only or ():
            if one not in album.of_class:
                raise FinerCAMError(f"{os.fspath(data)}: no photo there is labelled {label(one, names)!r}")
        if album.run is not None and album.run.manifest.settings.weights_sha256 != weights_hash(model.model):
            raise FinerCAMError(f"{os.fspath(data)} is a run of another model (its weights differ)")
        collects = collector(model, album, request)
        if only is None:
            pairs = nearest_pairs(collects.explain, album, model.preprocess, count, request.nearest, request.by)
        else:
            pairs = [(only[0], only[1])]
        return cls(
            folder,
            album,
            model,
            request,
            collects,
            Naming.of(names, album),
            pairs,
            _settings(model, request, album, names),
            string or model.name,
        )

    def begin(self, redo: bool) -> None:
        """Write the manifest, or find that the folder's is of the same settings; its pairs stay in the index."""
        file = self.folder / "manifest.json"
        before = _manifest(file)
        if before is not None and before["settings"] != self.settings and not redo:
            changed = sorted(k for k in self.settings if self.settings[k] != before["settings"].get(k))
            raise FinerCAMError(
                f"{self.folder} holds trait pages with other {', '.join(changed) or 'settings'}; choose another --out, or "
                "pass --redo"
            )
        if before is not None and before["settings"] == self.settings:
            earlier = [(int(one), int(other)) for one, other in before["pairs"]]
            here = [pair for pair in earlier if set(pair) <= set(self.album.of_class) and not self._has(pair)]
            self.pairs.extend(here)
        else:
            for old in self.folder.glob("pairs/*.*"):
                old.unlink()
        write_whole(file, json.dumps({"settings": self.settings, "pairs": self.pairs}, indent=1), sync=True)

    def _has(self, pair: tuple[int, int]) -> bool:
        return pair in self.pairs or (pair[1], pair[0]) in self.pairs

    @property
    def rivals(self) -> dict[int, list[int]]:
        """The rivals of each class that has a page."""
        found: dict[int, set[int]] = {}
        for one, other in self.pairs:
            found.setdefault(one, set()).add(other)
            found.setdefault(other, set()).add(one)
        return {one: sorted(found[one]) for one in sorted(found)}

    def fingerprint(self, target: int) -> str:
        """What the evidence of a class is made of."""
        parts = (self.settings, self.album.fingerprint(target), self.rivals[target])
        return content_hash(json.dumps(parts, sort_keys=True))

    def file(self, target: int) -> Path:
        return self.folder / "sights" / f"{target:06d}.safetensors"

    def collect(self, cluster: Cluster | None, progress: Callable[[str, int, int], None]) -> None:
        """Collect the evidence of the classes that have none yet."""
        rivals = self.rivals
        left = [one for one in rivals if sights_fingerprint(self.file(one)) != self.fingerprint(one)]
        done = len(rivals) - len(left)
        progress("evidence", done, len(rivals))
        if cluster is not None and left:
            from finercam.traits.spread import collect_spread

            work = [(one, rivals[one], self.fingerprint(one)) for one in left]
            about = (self.string, self.album, self.request, self.settings["weights"])
            for number, (one, content) in enumerate(collect_spread(cluster, about, work), 1):
                write_whole(self.file(one), content, sync=True)
                progress("evidence", done + number, len(rivals))
            return
        for number, one in enumerate(left, 1):
            self.collector.collect(one, rivals[one]).write(self.file(one), self.fingerprint(one))
            progress("evidence", done + number, len(rivals))

    def write(self, progress: Callable[[str, int, int], None]) -> Outcome:
        """Write the pages that are missing or out of date, and the index of all."""
        failed: dict[str, str] = {}
        problems = {f"label {name}": "the model has no such class" for name in sorted(self.album.unknown)}
        written = 0
        for number, (one, other) in enumerate(self.pairs):
            progress("pages", number, len(self.pairs))
            made_of = content_hash(json.dumps([FORMAT, self.fingerprint(one), self.fingerprint(other)]))
            sights = None
            if not self.naming.finished(self.folder, one, other, made_of):
                sights = read_sights(self.file(one)), read_sights(self.file(other))
                try:
                    pair = compare(*sights)
                except FinerCAMError as error:
                    failed[f"{self.naming.full(one)} / {self.naming.full(other)}"] = str(error)
                    continue
                write_pair(self.folder, pair, sights, self.naming, self.model.preprocess, made_of)
                written += 1
        progress("pages", len(self.pairs), len(self.pairs))
        for one in self.rivals:
            problems |= dict(read_sights(self.file(one)).problems)
        index = write_index(self.folder, self.pairs, self.naming, failed, problems, self.string)
        return Outcome(index, len(self.pairs) - len(failed), written, failed, problems)


def _request(given: dict[str, Any]) -> Request:
    known = {field.name for field in fields(Request)}
    for name in given:
        if name not in known:
            raise FinerCAMError(f"{name}={given[name]!r}: trait pages have no such option.{suggest(name, known)}")
    return Request(**given)


def _settings(model: LoadedModel, request: Request, album: Album, names: Sequence[str] | None) -> dict[str, Any]:
    """All that decides the evidence of a photo."""
    from finercam._version import __version__

    own = {name: value for name, value in asdict(request).items() if name not in ("classes", "nearest", "by")}
    about = {
        "format": FORMAT,
        "finercam": __version__,
        "weights": weights_hash(model.model),
        "classes": content_hash(json.dumps(names)),
        "preprocess": model.preprocess.to_json(),
        "data": album.text,
        "split": album.split,
        "run": None if album.run is None else album.run.manifest.settings.digest,
    }
    return json.loads(json.dumps(own | about))


def _manifest(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = {}
    if not isinstance(found, dict) or set(found) != {"settings", "pairs"}:
        raise FinerCAMError(f"{file} is no manifest of trait pages; choose another --out")
    return found


def _num_classes(model: LoadedModel) -> int:
    """How many classes the model has; one empty image is run if their names do not say it."""
    if model.class_names is not None:
        return len(model.class_names)
    from finercam.explainer import FinerCAM

    height, width = model.preprocess.tensor_size((256, 256))
    return FinerCAM(model.model, preset="fast", keep_images=False)(torch.zeros(1, 3, height, width)).logits.shape[1]


def _clear(folder: Path) -> None:
    """Remove what a killed call left half-written."""
    for place in (folder, folder / "sights", folder / "pairs"):
        for left in place.glob(f"{PARTIAL}*"):
            left.unlink(missing_ok=True)
