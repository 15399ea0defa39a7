"""What the app gives to take along: the panel, the maps, and the live report, as files in a folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from finercam.app.asking import Asked
from finercam.app.opened import ONE_AT_A_TIME, RIVALS
from finercam.export.folder import arrays, safe_stem
from finercam.io import write_whole

__all__ = ["KINDS", "write_maps", "write_panel", "write_report"]


def write_panel(asked: Asked, folder: Path) -> Path:
    """The panel as a PNG: photo, plain, finer, signed difference."""
    from finercam.view.plot import panel
    from finercam.view.sheet import png

    with ONE_AT_A_TIME:  # the panel asks for the closest rival, which may not be kept
        figure = panel(asked.shown, asked.picture.image, preprocess=asked.opened.preprocess)
    return write_whole(_file(asked, folder, "png"), png(figure))


def write_maps(asked: Asked, folder: Path) -> Path:
    """The maps as `.npz`, with what `finercam.export.folder.arrays` says; loads with `allow_pickle=False`."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays(asked.shown))  # type: ignore[arg-type]
    return write_whole(_file(asked, folder, "npz"), stream.getvalue())


def write_report(asked: Asked, folder: Path) -> Path:
    """The live report as one HTML file."""
    from finercam.report import write_report

    count = max(1, min(max(RIVALS, len(asked.against)), asked.classes - 1, 40))
    with ONE_AT_A_TIME:
        return write_report(
            asked.answer,
            _file(asked, folder, "html"),
            names=[asked.picture.name],
            preprocess=asked.opened.preprocess,
            rivals=count,
        )


KINDS: dict[str, Callable[[Asked, Path], Path]] = {
    "Panel (PNG)": write_panel,
    "Maps (.npz)": write_maps,
    "Live report (HTML)": write_report,
}


def _file(asked: Asked, folder: Path, ending: str) -> Path:
    return folder / f"finercam-{safe_stem(asked.picture.name)}.{ending}"
