"""Results on disk: Parquet parts, each written whole or not at all, so that an evaluation continues where it stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError
from finercam.io import whole_file, write_whole

__all__ = ["Shards"]


class Shards:
    """A folder `parts/` beside `settings.json`; results of other settings are refused."""

    def __init__(self, out: Path, settings: dict[str, Any], redo: bool = False) -> None:
        self.out, self.parts = out, out / "parts"
        written = out / "settings.json"
        settings = json.loads(json.dumps(settings))  # as JSON gives it back: no tuples
        if redo and self.parts.exists():
            shutil.rmtree(self.parts)
            written.unlink(missing_ok=True)
        # without parts there are no results: the last call stopped before its first part
        if written.exists() and any(self.parts.glob("*.parquet")):
            before = _settings(written)
            changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
            if changed:
                raise FinerCAMError(
                    f"{out} holds results of other settings ({', '.join(changed)}); choose another --out, or pass --redo"
                )
        self.parts.mkdir(parents=True, exist_ok=True)
        write_whole(written, json.dumps(settings, indent=2, sort_keys=True))

    def done(self) -> set[int]:
        """Positions in the dataset that have their rows already, or an error on record."""
        import pyarrow.parquet as pq

        found: set[int] = set()
        for part in sorted(self.parts.glob("*.parquet")):
            found.update(pq.read_table(part, columns=["index"])["index"].to_pylist())
        return found

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows of one batch under the position of its first picture."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not rows:
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = pa.table({key: [row.get(key) for row in rows] for key in columns})
        part = self.parts / f"{min(row['index'] for row in rows):08d}.parquet"
        with whole_file(part) as partial:
            pq.write_table(table, partial)

    def table(self) -> Any:
        """All rows as one pyarrow table, in the dataset's order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [pq.read_table(part) for part in sorted(self.parts.glob("*.parquet"))]
        if not parts:
            raise FinerCAMError(f"{self.out}: no picture could be evaluated")
        return pa.concat_tables(parts, promote_options="permissive")


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FinerCAMError(f"{path} is no settings of an evaluation; choose another --out, or pass --redo")
    return found
