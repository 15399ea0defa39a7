"""Variables of MATLAB files of version 5, as Stanford Cars has them; scipy's reader ends the process on broken ones."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["read_variable"]

MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4
LARGEST, DEEPEST = 1 << 28, 8
"""Bytes of one unpacked variable, and cells within cells."""


class _Broken(ValueError):
    """The bytes are no MATLAB file of the supported kind."""


def read_variable(path: Path, name: str) -> Any:
    """One variable: text, a number or a flat list of numbers, a list for a cell array, a list of dicts for a struct.

    Raises FinerCAMError for a file that cannot be read or lacks the variable. Nothing in the file is executed.
    Format: "MAT-File Level 5", MathWorks.
    """
    try:
        data = path.read_bytes()
        if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
            raise _Broken("no header of version 5")
        order = "<" if data[126:128] == b"IM" else ">"
        for kind, content in _elements(memoryview(data)[128:], order):
            if kind == COMPRESSED:
                kind, content = next(_elements(_unpacked(content), order))
            if kind == MATRIX and (found := _matrix(content, order, name)) is not None:
                return found[0]
    except FileNotFoundError:
        raise FinerCAMError(f"{path} does not exist") from None
    except (OSError, ValueError, LookupError, struct.error, zlib.error, StopIteration) as error:
        raise FinerCAMError(f"{path} is not a MATLAB file that can be read: {one_line(error)}") from error
    raise FinerCAMError(f"{path} has no variable {name!r}")


def _unpacked(content: memoryview) -> memoryview:
    unpacking = zlib.decompressobj()
    data = unpacking.decompress(content, LARGEST)
    if unpacking.unconsumed_tail:
        raise _Broken(f"a variable of more than {LARGEST >> 20} MB")
    return memoryview(data)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements one after the other."""
    at = 0
    while at < len(data):
        (word,) = struct.unpack_from(f"{order}I", data, at)
        if word >> 16:  # up to four bytes stand in the tag itself
            kind, size, begin, end = word & 0xFFFF, word >> 16, at + 4, at + 8
        else:
            kind, begin = word, at + 8
            (size,) = struct.unpack_from(f"{order}I", data, at + 4)
            end = begin + size + (0 if kind == COMPRESSED else -size % 8)
        if begin + size > len(data) or (word >> 16 and size > 4):
            raise _Broken("an element is longer than what is there")
        yield kind, data[begin : begin + size]
        at = end


def _matrix(content: memoryview, order: str, wanted: str | None = None, depth: int = 0) -> tuple[Any] | None:
    """The value of a matrix element in a tuple; None if its name is not the wanted one."""
    if depth > DEEPEST:
        raise _Broken("cells are nested too deeply")
    if not content:
        return ([],)
    parts = _elements(content, order)
    flags, shape, name = _numbers(next(parts), order), _numbers(next(parts), order), bytes(next(parts)[1]).decode()
    if wanted is not None and name != wanted:
        return None
    kind, count = flags[0] & 0xFF, math.prod(shape)
    if min(shape, default=-1) < 0 or count > len(content):
        raise _Broken("a shape that does not fit its content")
    if kind == CELL:
        return ([_value(parts, order, depth) for _ in range(count)],)
    if kind == STRUCT:
        return (_rows(parts, order, count, len(content), depth),)
    if count == 0:
        return ("" if kind == CHAR else [],)
    part = next(parts)
    if kind == CHAR:
        if part[0] not in TEXTS:
            raise _Broken("text in an unknown encoding")
        encoding = TEXTS[part[0]]
        return (
            bytes(part[1]).decode(
                encoding + {"<": "-le", ">": "-be"}[order] * (encoding not in ("latin-1", "utf-8"))
            ),
        )
    values = _numbers(part, order)
    return (values[0] if len(values) == 1 else values,)


def _value(parts: Iterator[tuple[int, memoryview]], order: str, depth: int) -> Any:
    kind, content = next(parts)
    found = _matrix(content, order, depth=depth + 1) if kind == MATRIX else None
    if found is None:
        raise _Broken("a cell without a value")
    return found[0]


def _rows(parts: Iterator[tuple[int, memoryview]], order: str, count: int, size: int, depth: int) -> list[Any]:
    """The rows of a struct array, a dict each."""
    (width,), text = _numbers(next(parts), order), bytes(next(parts)[1])
    if width < 1 or count * (len(text) // width) * 8 > size:
        raise _Broken("a struct that does not fit its content")
    names = [text[at : at + width].split(b"\0")[0].decode() for at in range(0, len(text), width)]
    return [{name: _value(parts, order, depth) for name in names} for _ in range(count)]


def _numbers(part: tuple[int, memoryview], order: str) -> list[Any]:
    kind, content = part
    if kind not in NUMBERS:
        raise _Broken(f"numbers of an unknown type {kind}")
    size = struct.calcsize(NUMBERS[kind])
    return list(
        struct.unpack(f"{order}{len(content) // size}{NUMBERS[kind]}", content[: len(content) // size * size])
    )
