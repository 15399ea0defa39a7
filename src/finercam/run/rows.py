"""The rows of a run, one an image, as Parquet that pandas, DuckDB, Polars and Hugging Face datasets read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


COLUMNS = {
    "position": "int64!", "path": "string!", "status": "string!", "error": "string",
    "content": "string", "bytes": "int64", "modified_ns": "int64", "width": "int32", "height": "int32",
    "label": "string", "label_id": "int32", "target": "string", "target_id": "int32",
    "references": "string*", "reference_ids": "int32*", "similarity": "float32*", "method": "string", "gamma": "float64",
    "top": "string*", "top_ids": "int32*", "top_probabilities": "float32*",
    "kept_ids": "int32*", "kept_logits": "float32*", "log_total": "float64",
    "input_height": "int32", "input_width": "int32", "grid": "int32*", "scale": "float32*", "evidence": "float16*",
}  # fmt: skip
"""The type of each column: ! is never null, * is a list."""


@cache
def schema() -> pa.Schema:
    """The columns of a row; those that follow from the model are null where an image was not explained.

    `evidence` holds signed maps at the layer's resolution, one after another: for each layer, and in it for each of
    `kept_ids` (for methods that are not linear: for each of the manifest's `gammas`), `h * w` float16 numbers row by
    row, to be multiplied by the layer's `scale`. `grid` is `[h, w]` of each layer.
    """
    import pyarrow as pa

    fields = []
    for name, kind in COLUMNS.items():
        element = getattr(pa, kind.strip("*!"))()
        many = kind.endswith("*")
        whole = pa.list_(pa.field("element", element, nullable=False)) if many else element
        fields.append(pa.field(name, whole, nullable=not kind.endswith("!")))
    return pa.schema(fields)


def shard_name(number: int) -> str:
    """The name of a shard's file, which depends on its number alone.

    >>> shard_name(7)
    'rows/00000007.parquet'
    """
    return f"rows/{number:08d}.parquet"


def write_rows(rows: Sequence[Mapping[str, Any]], fingerprint: str, halved: int = 0) -> bytes:
    """One Parquet file; the same rows give the same bytes. `fingerprint` says what the rows were made of.

    Pages carry checksums, so that a damaged file is found. Only encodings that all readers know are used.
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
