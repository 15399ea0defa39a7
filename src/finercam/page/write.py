"""Writes the page: an exported graph, the runtime, and the scripts that ask the graph and draw its maps."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError
from finercam.export.onnx import about
from finercam.io import write_whole
from finercam.page.runtime import find_runtime
from finercam.report.report import colour_tables
from finercam.text import literal, short_names
from finercam.view.drawn import MUTE
from finercam.view.strength import WEAK

__all__ = ["write_page"]

SHARED = ("numbers.js", "draw.js", "table.js", "words.js", "look.js")
"""Scripts of the live report that the page uses as they are."""
OWN = ("resize.js", "photo.js", "page.js")


def write_page(
    graph: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    runtime: str | os.PathLike[str] | None = None,
    title: str = "Why this class and not that one?",
) -> Path:
    """Write a folder that any static file server can serve: a photo is explained in the visitor's own browser.

    Nothing is sent anywhere: the page loads its graph and onnxruntime-web from its own folder.

    Args:
        graph: a file of `export_onnx(…, terms=True)` with its preprocessing.
        out: the folder; its files are replaced one by one.
        runtime: an unpacked onnxruntime-web; None takes it from the npm registry, once.
        title: heading of the page.

    Returns the page's `index.html`. Raises FinerCAMError for another graph, or where the runtime is not at hand.
    """
    said = about(graph)
    if "terms_0" not in said["outputs"] or said["preprocess"] is None:
        raise FinerCAMError(
            f"{graph} has no terms or no preprocessing; write it by export_onnx(…, terms=True, preprocess=…)"
        )
    files, folder = find_runtime(None if runtime is None else Path(runtime)), Path(out)
    write_whole(folder / "page.js", _script())
    write_whole(folder / "page.css", _text("report", "style.css") + _text("page", "page.css"))
    write_whole(folder / "worker.js", _text("page", "worker.js"))
    write_whole(folder / "about.json", json.dumps(_shown(said, title), separators=(",", ":")))
    (folder / "runtime").mkdir(exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / "runtime" / file.name)
    shutil.copyfile(graph, folder / "model.onnx")
    return write_whole(folder / "index.html", _text("page", "index.html"))


def _script() -> str:
    parts = [_text("report", name) for name in SHARED] + [_text("page", name) for name in OWN]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _shown(said: dict[str, Any], title: str) -> dict[str, Any]:
    """What the page needs to know: the graph's description, names as they are shown, and colours."""
    names = said["classes"]
    short = None if names is None else [literal(name) for name in short_names(tuple(names))]
    whole = [] if names is None else [literal(name) for name in names]
    latin = {s: w.removesuffix(f" ({s})") for s, w in zip(short or [], whole, strict=True) if s != w}
    return {
        **said,
        "classes": short,
        "latin": latin,
        "title": literal(title),
        "colours": colour_tables(),
        "weak": WEAK,
        "mute": MUTE,
    }


def _text(room: str, name: str) -> str:
    return resources.files(f"finercam.{room}").joinpath(name).read_text(encoding="utf-8")
