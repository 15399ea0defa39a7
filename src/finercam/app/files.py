"""Files to download from the app: the panel, the maps and the live report."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from finercam.app.opened import ONE_AT_A_TIME, RIVALS
from finercam.app.questions import Result
from finercam.export.folder import arrays, safe_stem
from finercam.io import write_whole

__all__ = ["KINDS", "write_maps", "write_panel", "write_report"]


def write_panel(result: Result, folder: Path) -> Path:
    """The panel as a PNG: photo, plain, finer, signed difference."""
    from finercam.view.plot import panel_png

    with ONE_AT_A_TIME:  # the panel asks about the closest rival, whose evidence may not be kept
        drawn = panel_png(result.shown, result.picture.image, preprocess=result.opened.preprocess)
    return write_whole(_file(result, folder, "png"), drawn)


def write_maps(result: Result, folder: Path) -> Path:
    """The maps as `.npz` with the arrays of `finercam.export.folder.arrays`; loads with `allow_pickle=False`."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays(result.shown))  # type: ignore[arg-type]
    return write_whole(_file(result, folder, "npz"), stream.getvalue())


def write_report(result: Result, folder: Path) -> Path:
    """The live report as one HTML file."""
    from finercam.report import write_report

    photo, prepare = result.picture, result.opened.preprocess
    rivals = max(1, min(max(RIVALS, len(result.against)), result.classes - 1, 40))
    file = _file(result, folder, "html")
    with ONE_AT_A_TIME:
        return write_report(
            result.certificate or result.answer,
            file,
            names=[photo.name],
            images=[photo.image],
            preprocess=prepare,
            rivals=rivals,
        )


KINDS: dict[str, Callable[[Result, Path], Path]] = {
    "Panel (PNG)": write_panel,
    "Maps (.npz)": write_maps,
    "Live report (HTML)": write_report,
}


def _file(result: Result, folder: Path, ending: str) -> Path:
    return folder / f"finercam-{safe_stem(result.picture.name)}.{ending}"
