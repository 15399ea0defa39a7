"""A Lightning callback that logs, after each validation, why the model confuses what it confuses most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from finercam.core.capture import run_model
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.tracking.sinks import log_contrasts, takes_pictures

try:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
except ImportError:
    try:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise FinerCAMError("ContrastCallback needs Lightning: pip install lightning") from None

__all__ = ["ContrastCallback", "most_confused"]

Pair = tuple[int, int]


class ContrastCallback(Callback):
    """Logs one contrast for each of the most confused pairs of classes after a validation epoch.

    A pair is a true class and the class that was predicted in its place. Its picture is the first one of that pair, and
    the question is why the prediction rather than the true class. They go to every logger of the trainer that takes
    pictures (TensorBoard, Weights & Biases, MLflow), under `contrasts/<true> as <predicted>`.

    Args:
        data: batches of (images, labels); a loader that is small and not shuffled, or a list of batches.
        class_names: names of the classes, by id.
        pairs: how many pairs are logged.
        every: log after every so many epochs.
        model: the classifier within the LightningModule; by default the module itself.
        settings: settings of FinerCAM, for example `preset="fast"`.
    """

    def __init__(
        self,
        data: Iterable[tuple[Tensor, Tensor]],
        class_names: Sequence[str] | None = None,
        *,
        pairs: int = 4,
        every: int = 1,
        model: Callable[[Any], nn.Module] = lambda module: module,
        **settings: Any,
    ) -> None:
        if pairs < 1 or every < 1:
            raise FinerCAMError(f"pairs={pairs}, every={every}: expected whole numbers from 1 on")
        self.data, self.class_names = data, class_names
        self.pairs, self.every = pairs, every
        self.model, self.settings = model, settings

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.current_epoch % self.every or not trainer.is_global_zero:
            return
        model = self.model(pl_module)
        explain = FinerCAM(model, class_names=self.class_names, **self.settings)
        for (true, predicted), image in most_confused(model, self.data, self.pairs, pl_module.device).items():
            answer = explain(image[None], target=[predicted], against=[[true]])
            tag = f"contrasts/{answer.reference_names[0][0]} as {answer.target_names[0]}"
            for sink in filter(None, map(_sink, trainer.loggers)):
                log_contrasts(sink, tag, answer, trainer.global_step)


def most_confused(
    model: nn.Module, data: Iterable[tuple[Tensor, Tensor]], pairs: int, device: Any = None
) -> dict[Pair, Tensor]:
    """The most frequent pairs (true class, prediction) that differ, each with its first image `(C, H, W)`."""
    counts: Counter[Pair] = Counter()
    first: dict[Pair, Tensor] = {}
    for images, labels in data:
        images = images.to(device)
        predictions = run_model(model, images).argmax(1).tolist()
        for image, true, predicted in zip(images, labels.tolist(), predictions, strict=True):
            if true != predicted:
                counts[true, predicted] += 1
                first.setdefault((true, predicted), image)
    return {pair: first[pair] for pair, _ in counts.most_common(pairs)}


def _sink(logger: Any) -> Any:
    """Where a logger of Lightning takes pictures, or None if it takes none (CSV)."""
    experiment = logger.experiment
    if hasattr(logger, "run_id") and hasattr(experiment, "log_image"):  # MLflow's client must know the run
        return SimpleNamespace(log_image=partial(experiment.log_image, logger.run_id))
    return experiment if takes_pictures(experiment) else None
