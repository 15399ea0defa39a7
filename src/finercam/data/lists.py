"""The parser of lists: CSV, TSV, text or Parquet with the path of a picture in each row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["Row", "read_rows"]

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "image")
LABELS = ("label", "class", "class_name", "species", "target")
BOX = ("x0", "y0", "x1", "y1")


class Row(NamedTuple):
    """One row of a list as written: its path ("" where there is none), its label if known, and its box if it has one."""

    path: str
    label: str | None = None
    box: tuple[str, ...] | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a list file, one at a time.

    Columns are found by a header (`path`, `image_path`, `file` …; `label`, `class`, `species` …; a box `x0,y0,x1,y1`);
    without one the first column is the path and the second the label. Lines that begin with `#` are comments. A blank
    label and −1 mean that the label is not known. A file that begins as Parquet is read as Parquet. Raises
    FinerCAMError for a file that cannot be read or holds no rows of text.
    """
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1" or path.suffix.lower() in (".parquet", ".pq")
        if is_parquet:
            yield from _parquet_rows(path)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _text_rows(path, file)
    except UnicodeDecodeError as error:
        raise FinerCAMError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except FileNotFoundError:
        raise FinerCAMError(f"{path} does not exist") from None
    except OSError as error:
        raise FinerCAMError(f"{path} cannot be read: {one_line(error)}") from None


def _text_rows(path: Path, file: Iterable[str]) -> Iterator[Row]:
    lines = (line for line in file if line.strip() and not line.startswith("#"))
    first = next(lines, None)
    if first is None:
        raise FinerCAMError(f"{path} is an empty list; it needs one picture's path a line")
    ending = path.suffix.lower()
    has_tabs = ending == ".tsv" or (ending != ".csv" and "\t" in first)
    reader = csv.reader(chain([first], lines), delimiter="\t" if has_tabs else ",")
    columns: dict[str, int] = {}
    try:
        for number, cells in enumerate(reader):
            cells = [cell.strip() for cell in cells]
            if number == 0:
                header = _columns([cell.lower() for cell in cells])
                is_header = cells[0].lower() in PATHS or {"path", "label"} <= header.keys()
                columns = header if is_header else {"path": 0, "label": 1}
                if is_header:
                    continue
            found = {name: cells[at] for name, at in columns.items() if at < len(cells)}
            yield _row(found)
    except csv.Error as error:
        raise FinerCAMError(f"{path}: line {reader.line_num}: {error}") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise FinerCAMError(f"{path} is Parquet, which needs pyarrow: pip install 'finercam[data]'") from None
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = _columns([name.lower() for name in schema.names])
            if "path" not in columns or not _is_text(schema.field(columns["path"]).type):
                raise FinerCAMError(
                    f"{path} has no column of paths (text, named {', '.join(PATHS)}); it has {', '.join(schema.names)}"
                )
            names = {what: schema.names[at] for what, at in columns.items()}
            for batch in file.iter_batches(4096, columns=list(names.values())):
                values = {what: batch.column(name).to_pylist() for what, name in names.items()}
                for row in zip(*values.values(), strict=True):
                    yield _row({what: "" if v is None else str(v) for what, v in zip(values, row, strict=True)})
    except (pa.ArrowException, OSError) as error:
        raise FinerCAMError(f"{path} cannot be read as Parquet: {one_line(error)}") from error


def _columns(names: Sequence[str]) -> dict[str, int]:
    """Where the columns are: "path", "label", and the four of a box if all of them are there."""
    found = {
        what: names.index(name)
        for what, known in (("path", PATHS), ("label", LABELS))
        for name in known[::-1]
        if name in names
    }
    return found | ({name: names.index(name) for name in BOX} if set(BOX) <= set(names) else {})


def _row(cells: dict[str, str]) -> Row:
    label = cells.get("label", "").strip()
    box = tuple(cells.get(name, "") for name in BOX)
    return Row(cells.get("path", ""), None if label in ("", "-1") else label, box if box[0] else None)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
