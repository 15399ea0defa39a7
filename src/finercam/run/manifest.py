"""`manifest.json`: what a run explains and how, and what may not change when it continues."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from finercam.errors import FinerCAMError
from finercam.io import one_line
from finercam.run.settings import Settings
from finercam.run.store import Store

__all__ = ["MANIFEST", "Manifest", "read_manifest"]

MANIFEST = "manifest.json"
FORMAT, VERSION = "finercam-run", 1
DATA = {"text": str, "count": int, "sha256": str, "numbered": bool}


@dataclass(frozen=True)
class Manifest:
    """`settings` and `data` must stay; `about` (machine, command, time, source of the model) is for people.

    `data` has `text` (as typed), `split`, `limit`, `count`, `sha256` of the list, and `numbered` labels.
    """

    settings: Settings
    data: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        return -(-self.data["count"] // self.settings.shard)

    def write(self, store: Store) -> None:
        content = {"format": FORMAT, "version": VERSION, "settings": self.settings.to_json(), "data": self.data}
        content["about"] = self.about
        store.write(MANIFEST, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def changes(self, now: Manifest) -> list[str]:
        """What another run would do differently, in words."""
        before, after = self.settings.to_json(), now.settings.to_json()
        found = [_change(key, before[key], after[key]) for key in before if before[key] != after[key]]
        if self.data["sha256"] != now.data["sha256"] or self.data["numbered"] != now.data["numbered"]:
            found.append(f"the list of images ({self.data['count']:,}, now {now.data['count']:,})")
        return found


def read_manifest(store: Store) -> Manifest | None:
    """The manifest of a run; None where there is none. Raises FinerCAMError for one that cannot be trusted."""
    if not store.exists(MANIFEST):
        return None
    where = f"{store.place}/{MANIFEST}"
    try:
        content = json.loads(store.read(MANIFEST))
    except (ValueError, RecursionError) as error:
        raise FinerCAMError(f"{where} cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FinerCAMError(f"{where} is not the manifest of a run (format {FORMAT!r})")
    if content.get("version") != VERSION:
        raise FinerCAMError(f"{where} has version {content.get('version')!r}; this finercam reads {VERSION}")
    try:
        settings = Settings.from_json(content.get("settings"))  # type: ignore[arg-type]
    except FinerCAMError as error:
        raise FinerCAMError(f"{where}: {error}") from None
    data, about = content.get("data"), content.get("about")
    if not isinstance(data, dict) or any(type(data.get(key)) is not kind for key, kind in DATA.items()):
        data = {"count": 0}
    if data["count"] < 1 or not isinstance(about, dict) or not _is_sound(settings):
        raise FinerCAMError(f"{where} is damaged: its settings or data are not what a run writes")
    return Manifest(settings, data, about)


def about(source: Mapping[str, Any], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Where and when a run was begun, and the source of its model."""
    return {
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(sys.argv if argv is None else argv),
        "machine": platform.machine(),
        "system": platform.system(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "model": json.loads(json.dumps(dict(source), default=str)),
    }


def _is_sound(settings: Settings) -> bool:
    """Check the values that readers calculate with; the others are checked where they are used."""
    names = settings.class_names
    return (
        all(type(n) is int and n > 0 for n in (settings.shard, settings.batch, settings.num_classes))
        and all(isinstance(value, int | float) for value in (settings.gamma, *settings.gammas))
        and all(isinstance(name, str) for name in (*settings.layers, *(names or ()), settings.method))
        and (names is None or len(names) == settings.num_classes)
        and isinstance(settings.preprocess, dict)
    )


def _change(key: str, before: Any, after: Any) -> str:
    if key == "weights_sha256":
        return "the model's weights"
    old, new = json.dumps(before), json.dumps(after)
    return f"{key} ({old}, now {new})" if max(len(old), len(new)) < 40 else key


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
