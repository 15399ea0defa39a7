"""`finercam explain`: photos in, panels, maps and an index out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from finercam.explainer import FinerCAM
    from finercam.explanation import Explanation
    from finercam.export.folder import Folder
    from finercam.images import Preprocess
    from finercam.models import LoadedModel

__all__ = ["explain", "load"]

BATCH = 8
RIVALS = 9
"""Classes that the page offers besides the target."""


def explain(
    images: list[str] = typer.Argument(..., metavar="IMAGE…", help="Files, folders or patterns such as 'a/*.jpg'."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for panels, maps and explanations.json."),
    model: str = typer.Option(..., "--model", "-m", help="What to explain; 'finercam models' tells the forms."),
    target: str = typer.Option(None, help="Class to explain, by name or id; else each image's prediction."),
    against: list[str] = typer.Option(None, help="Class to hold it against, by name or id; may be repeated."),
    gamma: float = typer.Option(
        None, help="Strength of the contrast; 0 is the plain method. [default: the preset's]"
    ),
    method: str = typer.Option(None, help="Base method; 'finercam methods' lists them. [default: the preset's]"),
    references: str = typer.Option(
        None, help="How rivals are picked: predicted, similar, nearest or all. [default: predicted]"
    ),
    num_references: int = typer.Option(None, min=1, help="How many rivals are picked. [default: 1]"),
    weights: str = typer.Option(
        None, help="How rivals count: mean, probability, orthogonal, released. [default: mean]"
    ),
    preset: str = typer.Option(
        None, help="How to explain where nothing else is said: fast, fine, finest, measured, paper. [default: fine]"
    ),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name, or stages; may be repeated."),
    fusion: str = typer.Option(
        None, help="How the maps of several layers are joined: mean, product, geometric or weighted."
    ),
    smooth: list[str] = typer.Option(None, help="Average over views: flip, scale or larger; may be repeated."),
    size: int = typer.Option(
        None, min=16, help="Input size in pixels, e.g. 448 for finer maps than the model's own."
    ),
    html: Path = typer.Option(None, help="Also write one self-contained page in which other rivals can be asked."),
    examples: Path = typer.Option(
        None, help="Folder with a sub-folder or picture a class; the panel and the page show one of the rival."
    ),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto takes a GPU where there is one."),
    top: int = typer.Option(1, min=1, help="How many predictions to print for each image."),
) -> None:
    """Explain why each image is its class rather than another one."""
    from finercam.commands.console import complain, print_table
    from finercam.commands.pictures import find_pictures
    from finercam.explainer import FinerCAM
    from finercam.export.folder import Folder

    files, complaints = find_pictures(images)
    for complaint in complaints:
        complain(complaint)
    if not files:
        raise FinerCAMError("there is no picture to explain")
    loaded = load(model, device, size)
    explainer = FinerCAM(
        loaded.model,
        method,
        gamma=gamma,
        references=references,
        num_references=num_references,
        weights=weights,
        layer=layer or None,
        class_names=loaded.class_names,
        fusion=fusion,
        smooth=tuple(smooth) if smooth else None,
        keep=None if html is None else RIVALS + 1,
        preset=preset,
    )
    question = {"target": _class(target, loaded), "against": [_class(d, loaded) for d in against or ()] or None}
    usual = None if size is None else load(model, device, None).preprocess
    job = Job(explainer, loaded.preprocess, question, Folder(out, model), top, html is not None, examples, usual)
    job.run(files)
    if job.rows:
        columns = ["image", "prediction", "probability", "target", "references (similarity)"]
        print_table(columns, job.rows, right=["probability"])
        typer.echo(f"{len(job.rows)} explained: {job.folder.finish()}")
        if html is not None:
            from finercam.report import write_report

            names = [row[0] for row in job.rows]
            page = write_report(
                job.answers, html, names=names, preprocess=loaded.preprocess, examples=examples, rivals=RIVALS
            )
            typer.echo(f"open this page: {page.resolve()}")
    if job.failures or complaints:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Photo:
    """A picture that could be read, and what the model takes of it, `(3, H, W)`."""

    path: Path
    image: Image.Image
    tensor: Tensor


@dataclass
class Job:
    """Photos of one command, explained in batches as they come; what fails is told and left out."""

    explainer: FinerCAM
    preprocess: Preprocess
    question: dict[str, Any]
    folder: Folder
    top: int
    page: bool = False
    """Hold on to the answers, for a page of them all."""
    examples: Path | None = None
    usual: Preprocess | None = None
    """The model's own preprocessing, where pictures are given at another size: the prediction may change."""
    rows: list[tuple[str, ...]] = field(default_factory=list)
    answers: list[Explanation] = field(default_factory=list)
    failures: int = 0
    pending: list[tuple[Path, str]] = field(default_factory=list)
    """Refused while nothing had succeeded: it may be the question that is wrong, and then once is enough."""

    def run(self, files: list[Path]) -> None:
        """Explain and save them all. Raises FinerCAMError if every one is refused for the same reason."""
        from finercam.commands.console import complain, progress

        with progress(len(files)) as bar:
            task = bar.add_task("explaining", total=len(files))

            def tell(path: Path, reason: object) -> None:
                named = str(reason).startswith(str(path))  # as in "photo.jpg does not exist"
                complain(str(reason) if named else f"{path}: {reason}", None if bar.disable else bar.console)

            for batch in self._batches(files, tell):
                for photo, outcome in self._outcomes(batch):
                    if isinstance(outcome, FinerCAMError):
                        self.failures += 1
                        self.pending.append((photo.path, str(outcome)))
                    else:
                        self._save(photo, outcome)
                while self.rows and self.pending:
                    tell(*self.pending.pop(0))
                bar.update(task, completed=len(self.rows) + self.failures)
            if self.pending and self.failures == len(self.pending) and len({why for _, why in self.pending}) == 1:
                raise FinerCAMError(self.pending[0][1])
            for path, why in self.pending:
                tell(path, why)

    def _batches(self, files: list[Path], tell: Callable[[Path, object], None]) -> Iterator[list[Photo]]:
        """Photos whose tensors have one shape, in the order of the files, at most BATCH at a time."""
        from finercam.images import read_image

        batch: list[Photo] = []
        for path in files:
            try:
                image = read_image(path)
                photo = Photo(path, image, self.preprocess(image))
            except FinerCAMError as error:
                self.failures += 1
                tell(path, str(error).removeprefix(f"{path}: "))
                continue
            if batch and (len(batch) == BATCH or batch[0].tensor.shape != photo.tensor.shape):
                yield batch
                batch = []
            batch.append(photo)
        if batch:
            yield batch

    def _outcomes(self, batch: list[Photo]) -> Iterator[tuple[Photo, Explanation | FinerCAMError]]:
        """Each photo's explanation, or why there is none; where a batch is refused its photos are tried alone."""
        import torch

        try:
            answer = self.explainer(torch.stack([photo.tensor for photo in batch]), **self.question)
        except FinerCAMError as error:
            if len(batch) == 1:
                yield batch[0], error
            else:
                for photo in batch:
                    yield from self._outcomes([photo])
            return
        for photo, one in zip(batch, answer, strict=True):
            self._warn_of_size(photo, one)
            yield photo, one

    def _warn_of_size(self, photo: Photo, answer: Explanation) -> None:
        """Say where the prediction is another one than at the model's own size."""
        if self.usual is None:
            return
        from finercam.commands.console import complain
        from finercam.names import label
        from finercam.text import percent

        images = self.explainer.classifier.prepared(self.usual(photo.image)[None])
        logits = self.explainer.capture(images).logits[0].cpu()
        own, here = int(logits.argmax()), int(answer.logits[0].argmax())
        if own != here:
            told = [
                f"{label(which, answer.class_names)} ({percent(float(of.softmax(0)[which]))})"
                for which, of in ((here, answer.logits[0].cpu().float()), (own, logits.float()))
            ]
            complain(
                f"{photo.path}: at this --size the prediction is {told[0]}, at the model's own {told[1]}; --preset finest "
                "looks closer and keeps the question"
            )

    def _save(self, photo: Photo, answer: Explanation) -> None:
        self.folder.add(
            answer,
            photo.path.stem,
            photo.image,
            preprocess=self.preprocess,
            source=str(photo.path),
            example=self._example(answer),
        )
        self.rows.append(_row(photo.path, answer, self.top))
        if self.page:
            self.answers.append(answer)

    def _example(self, answer: Explanation) -> Image.Image | None:
        """A picture of the rival in question, where there is a folder of examples that has one."""
        from finercam.names import label
        from finercam.report.pictures import example_picture
        from finercam.view.questions import closest

        rival = int(closest(answer))
        if self.examples is None or rival < 0:
            return None
        return example_picture(label(rival, answer.class_names), rival, self.examples)


def _row(path: Path, answer: Explanation, top: int) -> tuple[str, ...]:
    from finercam.names import label
    from finercam.text import percent

    p, ids = answer.probabilities[0].topk(min(top, answer.logits.shape[1]))
    similarity = answer.similarity[0].tolist()
    rivals = [
        name if math.isnan(near) else f"{name} ({near:.2f})"
        for name, near in zip(answer.reference_names[0], similarity, strict=False)
    ]
    return (
        path.name,
        "\n".join(label(index, answer.class_names) for index in ids.tolist()),
        "\n".join(map(percent, p.tolist())),
        answer.target_names[0],
        "\n".join(rivals),
    )


def load(string: str, device: str, size: int | None) -> LoadedModel:
    """The model on its device, and its preprocessing at the size asked for."""
    import torch

    from finercam.models import load_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(string, device)
    if size is None:
        return loaded
    native = loaded.preprocess.mode == "native"
    sized: dict[str, Any] = {"max_side": size} if native else {"size": (size, size)}
    return replace(loaded, preprocess=replace(loaded.preprocess, **sized))


def _class(typed: str | None, loaded: LoadedModel) -> int | str | None:
    """A class as typed: a name, or an id where no class has that name; a wrong one is told before any work."""
    from finercam.names import class_id

    names = loaded.class_names
    if typed is None:
        return None
    if typed.strip().isdecimal() and typed not in (names or ()):
        return class_id(int(typed), names, len(names)) if names is not None else int(typed)
    return class_id(typed, names, len(names or ()))
