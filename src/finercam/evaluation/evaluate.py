"""evaluate: methods by contrasts by metrics on a dataset, resumable, with its controls and chance levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finercam.data.sample import ImageDataset
from finercam.evaluation.measure import measure
from finercam.evaluation.plan import Options, make_plan
from finercam.evaluation.shards import Shards
from finercam.evaluation.summary import Line
from finercam.evaluation.tables import write_summary
from finercam.run.reader import Run, open_run

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["evaluate"]


def evaluate(  # noqa: PLR0913
    dataset: ImageDataset,
    model: LoadedModel,
    out: str | Path,
    methods: Sequence[str] | None = None,
    contrasts: Sequence[str] | None = None,
    groups: Sequence[str] = ("rd",),
    *,
    run: str | Path | Run | None = None,
    layer: str | Sequence[str] | None = None,
    fusion: str | None = None,
    target: str = "label",
    fill: str = "zero",
    steps: int = 50,
    tolerance: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    baseline: str = "same",
    correct_only: bool = False,
    seed: int = 0,
    redo: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """Measure every method under every contrast on a dataset; writes `out` and returns the summary's lines.

    Writes `parts/*.parquet` (a row for each picture and map), `settings.json`, `summary.md`, `summary.csv`,
    `summary.json`, and the paper's table of this dataset, `paper.md` and `paper.csv`. It always adds the plain map, the
    controls (uniform, centred Gaussian, shuffled plain map) and chance levels; the contrast "random" (random rivals) is
    a control too. One capture of a picture serves all contrasts and all methods that gather the same evidence. Results
    are saved every few pictures; the same call continues where it stopped.

    `methods` are ("gradcam",) and `contrasts` ("plain", "paper", "pair") by default. With `run` (a finished `finercam
    run` of this dataset and model, or its folder) they are the run's own, and its stored maps are measured: the model
    runs only to score pictures with removed pixels, and for logits that the run lacks.

    `groups` are names of metrics; "paper" stands for deletion, rd and, where the data have boxes or masks,
    localisation. `target` is "label" (as in the paper) or "prediction". A dataset's classes are matched with the
    model's by name; pictures of a class that the model lacks are recorded as errors. `limit` pictures are drawn at
    random by `seed`. With `baseline="last"` everything is compared with the plain Grad-CAM of the model's last layer
    instead of with the plain map of the same layers and fusion.

    Raises FinerCAMError before any work for an unknown name, for a dataset that lacks the annotation which a metric
    given by its name needs, for classes of which none is the model's, and for a dataset other than the run's.
    """
    options = Options(
        methods, contrasts, groups, layer, fusion, target, fill, steps, tolerance, limit, batch_size, baseline, seed
    )
    stored = open_run(run) if isinstance(run, str | Path) else run
    plan = make_plan(dataset, model, options, stored)
    shards = Shards(Path(out), plan.settings, redo)
    measure(plan, shards, progress)
    return write_summary(shards, plan, correct_only)
