"""Pictures of an explanation: matplotlib figures for sheets and curves, Pillow images for overlays.

The figures use no global state (no pyplot) and need no display; save them with `figure.savefig(…)`.
"""

from finercam.view.beside import beside
from finercam.view.blend import contour, heat, overlay, signed
from finercam.view.curves import curves
from finercam.view.questions import closest, difference, gamma_strip, pair, panel, panel_png, reference_grid

__all__ = [
    "beside",
    "closest",
    "contour",
    "curves",
    "difference",
    "gamma_strip",
    "heat",
    "overlay",
    "pair",
    "panel",
    "panel_png",
    "reference_grid",
    "signed",
]
