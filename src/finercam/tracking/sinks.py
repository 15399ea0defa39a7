"""Panels of an explanation as pictures of an experiment tracker."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from finercam.errors import FinerCAMError
from finercam.export.folder import safe_stem

if TYPE_CHECKING:
    from finercam.explanation import Explanation

__all__ = ["SINKS", "log_contrasts", "takes_pictures"]


def log_contrasts(
    sink: Any, tag: str, answer: Explanation, step: int | None = None, photos: Any = None, **how: Any
) -> None:
    """Log the panel of each image of an explanation under `tag`.

    `sink` is a TensorBoard `SummaryWriter`, a Weights & Biases run, or an MLflow client's module (`mlflow`). `photos`
    and further options are those of `finercam.plot.panel`; without photos the images that were kept are shown. Raises
    FinerCAMError for another sink.

    >>> log_contrasts(print, "birds", None)
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: a builtin_function_or_method cannot log pictures: expected a TensorBoard SummaryWriter, a Weights & Biases run, or the module mlflow
    """
    for offers, log in SINKS.items():
        if hasattr(sink, offers):
            log(sink, tag, [_panel(one, photo, how) for one, photo in _each(answer, photos)], step)
            return
    raise FinerCAMError(
        f"a {type(sink).__name__} cannot log pictures: expected a TensorBoard SummaryWriter, a Weights & Biases run, "
        "or the module mlflow"
    )


def takes_pictures(sink: Any) -> bool:
    """Whether `log_contrasts` knows how to log to it."""
    return any(hasattr(sink, offers) for offers in SINKS)


def _tensorboard(writer: Any, tag: str, pictures: list[Image.Image], step: int | None) -> None:
    for number, picture in enumerate(pictures):
        writer.add_image(f"{tag}/{number}", np.asarray(picture), step, dataformats="HWC")


def _wandb(run: Any, tag: str, pictures: list[Image.Image], step: int | None) -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    run.log({tag: [wandb.Image(picture) for picture in pictures]}, step=step)


def _mlflow(client: Any, tag: str, pictures: list[Image.Image], step: int | None) -> None:
    folder = "/".join(map(safe_stem, tag.split("/")))
    for number, picture in enumerate(pictures):
        client.log_image(picture, artifact_file=f"{folder}/{'' if step is None else f'{step:06d}-'}{number}.png")


SINKS: dict[str, Callable[[Any, str, list[Image.Image], int | None], None]] = {
    "add_image": _tensorboard,
    "log_image": _mlflow,
    "log_artifact": _wandb,
}
"""How to log, by a method that only this tracker has; MLflow has `log_artifact` as well, so it comes first."""


def _each(answer: Explanation, photos: Any) -> list[tuple[Explanation, Any]]:
    from finercam.view.shown import one_each

    return list(zip(answer, [None] * len(answer) if photos is None else one_each(photos, len(answer)), strict=True))


def _panel(answer: Explanation, photo: Any, how: dict[str, Any]) -> Image.Image:
    from finercam.view.plot import panel_png

    return Image.open(io.BytesIO(panel_png(answer, photo, **how))).convert("RGB")
