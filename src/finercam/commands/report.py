"""`finercam report`: write the interactive page of a finished run, without its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from finercam.explanation import Explanation
    from finercam.run import Run

__all__ = ["report", "write_run_report"]


def report(
    run: str = typer.Argument(..., help="Folder (or s3:// address) that 'finercam run' wrote."),
    html: Path = typer.Option(..., help="The page to write, one self-contained file."),
    limit: int = typer.Option(100, min=1, help="Show at most this many images, from the first on."),
    only: str = typer.Option("all", help="all, or wrong: images whose label is known and is not the prediction."),
    gamma: float = typer.Option(None, help="Strength of the contrast. [default: the run's]"),
    title: str = typer.Option("Why this class and not that one?", help="Heading of the page."),
) -> None:
    """Write the explanations of a run as a page in which rivals and strength can be changed."""
    from finercam.run import open_run

    page, count = write_run_report(open_run(run), html, limit=limit, only=only, gamma=gamma, title=title)
    typer.echo(f"{count} images; open this page: {page.resolve()}")


def write_run_report(
    run: Run, html: Path, *, limit: int = 100, only: str = "all", gamma: float | None = None, **options: Any
) -> tuple[Path, int]:
    """Write the page and return its path and number of images. Photos that no longer exist are left out.

    Raises FinerCAMError for methods that are not linear, because a run does not keep enough of them for a page.
    """
    from finercam.report import write_report

    if only not in ("all", "wrong"):
        raise FinerCAMError(f"only={only!r}: expected all or wrong")
    if not run.manifest.settings.linear:
        raise FinerCAMError(
            f"a run keeps only single maps of {run.manifest.settings.method}, and a page needs more; "
            "use finercam explain --html"
        )
    chosen = _chosen(run, limit, only)
    page = write_report(
        _answers(run, [row["position"] for row in chosen], gamma),
        html,
        names=[row["path"] for row in chosen],
        labels=[row["label_id"] for row in chosen],
        images=_Photos(run, chosen),
        preprocess=run.preprocess,
        **options,
    )
    return page, len(chosen)


def _chosen(run: Run, limit: int, only: str) -> list[dict[str, Any]]:
    """Rows of the images to show, read shard by shard until there are enough."""
    rows: list[dict[str, Any]] = []
    for part in run.parts():
        for row in part.rows.select(["position", "path", "label_id", "top_ids"]).to_pylist():
            if only == "all" or (row["label_id"] is not None and row["label_id"] != row["top_ids"][0]):
                rows.append(row)
                if len(rows) == limit:
                    return rows
    if not rows:
        raise FinerCAMError(f"{run.store.place} has no image to show ({only})")
    return rows


def _answers(run: Run, positions: list[int], gamma: float | None) -> Iterator[Explanation]:
    wanted = set(positions)
    for part in run.parts():
        for position, answer in zip(part.positions, part.answer, strict=True):
            if position in wanted:
                wanted.discard(position)
                yield answer if gamma is None else answer.ask(gamma=gamma)
        if not wanted:
            return


class _Photos(Sequence[Any]):
    """The photos of some rows, opened on access; None for a photo that no longer exists."""

    def __init__(self, run: Run, rows: list[dict[str, Any]]) -> None:
        self.run, self.rows = run, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        row = self.rows[at]
        try:
            return self.run.picture(row["position"], row["path"])
        except FinerCAMError:
            return None
