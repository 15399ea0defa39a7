"""The rows of a run: one an image, as Parquet that pandas, DuckDB, Polars and Hugging Face datasets read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from finercam.errors import FinerCAMError
from finercam.io import one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from finercam.run.store import Store

__all__ = ["FINE", "OK", "PASSING", "STATUSES", "Shard", "read_shard", "schema", "shard_name", "write_rows"]

OK = "ok"
STATUSES = {
    OK: "explained",
    "duplicate": "listed before; the first one is explained",
    "missing": "no such file",
    "unavailable": "could not be read this time; the next run tries again",
    "unreadable": "no whole picture in it",
    "refused": "its path leads out of the dataset",
    "unknown_label": "the model has no such class",
    "unexplained": "the model or the question failed on it",
    "out_of_memory": "does not fit into memory even alone; the next run tries again",
}
"""What can become of an image."""
FINE = (OK, "duplicate")
"""These are no failures."""
PASSING = frozenset({"unavailable", "out_of_memory"})
"""The cause of these can pass, so the next run tries them again."""

META = b"finercam.run"
"""The key, in the metadata of a shard, of the fingerprint of its rows."""


@cache
def schema() -> pa.Schema:
    """Columns of a row. Evidence and what belongs to it is null where an image was not explained.

    `evidence` are signed maps at the layer's resolution, one after another: for each layer, and in it for each of
    `kept_ids` (for methods that are not linear: for each of the manifest's `gammas`), `h * w` float16 numbers row by
    row, to be multiplied by the layer's `scale`; `grid` is `[h, w]` of each layer.
    """
    import pyarrow as pa

    def some(kind: Any) -> Any:
        return pa.list_(pa.field("element", kind, nullable=False))

    return pa.schema(
        [
            pa.field("position", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            ("error", pa.string()),
            ("content", pa.string()),
            ("bytes", pa.int64()),
            ("modified_ns", pa.int64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("label", pa.string()),
            ("label_id", pa.int32()),
            ("target", pa.string()),
            ("target_id", pa.int32()),
            ("references", some(pa.string())),
            ("reference_ids", some(pa.int32())),
            ("similarity", some(pa.float32())),
            ("method", pa.string()),
            ("gamma", pa.float64()),
            ("top", some(pa.string())),
            ("top_ids", some(pa.int32())),
            ("top_probabilities", some(pa.float32())),
            ("kept_ids", some(pa.int32())),
            ("kept_logits", some(pa.float32())),
            ("log_total", pa.float64()),
            ("input_height", pa.int32()),
            ("input_width", pa.int32()),
            ("grid", some(pa.int32())),
            ("scale", some(pa.float32())),
            ("evidence", some(pa.float16())),
        ]
    )


def shard_name(number: int) -> str:
    """The file of a shard, which depends on nothing but its number.

    >>> shard_name(7)
    'rows/00000007.parquet'
    """
    return f"rows/{number:08d}.parquet"


def write_rows(rows: Sequence[Mapping[str, Any]], fingerprint: str, halved: int = 0) -> bytes:
    """One Parquet file; the same rows give the same bytes. `fingerprint` says what the rows were made of.

    Pages carry checksums, so that a damaged file is noticed. No encoding is used that some readers lack.
    """
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    own = {"fingerprint": fingerprint, "halved": halved}
    described = schema().with_metadata({META: json.dumps(own, sort_keys=True).encode()})
    columns = []
    for column in described:
        if column.name == "evidence":
            columns.append(_halves([row.get("evidence") for row in rows], column.type))
        else:
            columns.append(pa.array([row.get(column.name) for row in rows], column.type))
    written = io.BytesIO()
    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": ["status", "error", "label", "target", "method", "gamma"],
        "write_page_checksum": True,
        "write_statistics": ["position", "path", "status", "label_id", "target_id"],
    }
    pq.write_table(pa.Table.from_arrays(columns, schema=described), written, **options)
    return written.getvalue()


@dataclass(frozen=True)
class Shard:
    """A finished file: its rows, what they were made of, and how many batches had to be halved."""

    table: Any
    fingerprint: str
    halved: int = 0
    counts: dict[str, int] = field(default_factory=dict)


def read_shard(store: Store, number: int, columns: Sequence[str] | None = None, verify: bool = False) -> Shard:
    """Read a shard. Raises FinerCAMError if it is damaged or no shard; `verify` checks every page's checksum."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    name = shard_name(number)
    try:
        with store.open(name) as opened, pq.ParquetFile(opened, page_checksum_verification=verify) as file:
            found = file.schema_arrow
            if found.remove_metadata() != schema():
                raise FinerCAMError(f"{store.place}/{name} has other columns than a run's")
            own = json.loads((found.metadata or {})[META])
            table = file.read(None if columns is None else list(columns), use_threads=False)
        return Shard(table, str(own["fingerprint"]), int(own["halved"]))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, FinerCAMError):
            raise
        raise FinerCAMError(f"{store.place}/{name} is damaged: {one_line(error)}") from error


def _halves(evidence: Sequence[np.ndarray | None], kind: pa.ListType) -> pa.ListArray:
    """Flat float16 arrays as one list column, without a Python object for every number."""
    import pyarrow as pa

    lengths = [0 if one is None else one.size for one in evidence]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = [one.reshape(-1) for one in evidence if one is not None]
    values = np.concatenate(flat).astype(np.float16) if flat else np.zeros(0, np.float16)
    absent = pa.array([one is None for one in evidence], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.float16()), type=kind, mask=absent)
