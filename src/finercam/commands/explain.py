"""`finercam explain`: write panels, maps and an index for photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from finercam.beside import Beside, Examples
    from finercam.certificate import Certificate
    from finercam.explainer import FinerCAM
    from finercam.explanation import Explanation
    from finercam.export.folder import Folder
    from finercam.images import Preprocess
    from finercam.models import LoadedModel

__all__ = ["explain", "load"]

BATCH = 8
RIVALS = 9
"""How many rival classes the page offers."""


def explain(
    images: list[str] = typer.Argument(..., metavar="IMAGE…", help="Files, folders or patterns such as 'a/*.jpg'."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for panels, maps and explanations.json."),
    model: str = typer.Option(..., "--model", "-m", help="The model; 'finercam models' lists the forms."),
    target: str = typer.Option(
        None, help="Class to explain, by name or id; 'A|B' is a group that counts as one. [default: each prediction]"
    ),
    against: list[str] = typer.Option(None, help="Rival class or group, by name or id; may be repeated."),
    groups: Path = typer.Option(
        None,
        help="CSV file with the columns class and group (genus, family …), whose groups can be named as classes.",
    ),
    gamma: float = typer.Option(
        None, help="Strength of the contrast; 0 is the plain method. [default: the preset's]"
    ),
    method: str = typer.Option(None, help="Base method; 'finercam methods' lists them. [default: the preset's]"),
    references: str = typer.Option(
        None, help="How rival classes are picked: predicted, similar, nearest or all. [default: predicted]"
    ),
    num_references: int = typer.Option(None, min=1, help="How many rival classes are picked. [default: 1]"),
    weights: str = typer.Option(
        None, help="How several rivals are weighted: mean, probability, orthogonal or released. [default: mean]"
    ),
    preset: str = typer.Option(
        None, help="Defaults of the other options: fast, fine, finest, measured or paper. [default: fine]"
    ),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name, or stages; may be repeated."),
    fusion: str = typer.Option(
        None, help="How the maps of several layers are fused: mean, product, geometric or weighted."
    ),
    smooth: list[str] = typer.Option(None, help="Average over views: flip, scale or larger; may be repeated."),
    size: int = typer.Option(
        None, min=16, help="Input size in pixels instead of the model's; a larger one, e.g. 448, gives finer maps."
    ),
    html: Path = typer.Option(None, help="Also write one self-contained page in which other rivals can be chosen."),
    examples: Path = typer.Option(
        None,
        help="Folder with a sub-folder of photos for each class: the rival is shown beside, with the places that decide.",
    ),
    gallery: Path = typer.Option(
        None,
        help="Folder with a sub-folder of photos for each name: the classes are these names, and --model, without its "
        "classifier, says how similar a photo is to each.",
    ),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto uses a GPU if there is one."),
    verify: bool = typer.Option(
        False, "--verify", help="Also remove the lit pixels and print what the margin to the rival becomes."
    ),
    top: int = typer.Option(1, min=1, help="How many predictions to print for each image."),
) -> None:
    """Explain why the model gives each image its class rather than another one."""
    from finercam.commands.console import complain, print_table
    from finercam.commands.pictures import find_pictures
    from finercam.explainer import FinerCAM
    from finercam.export.folder import Folder

    files, complaints = find_pictures(images)
    for complaint in complaints:
        complain(complaint)
    if not files:
        raise FinerCAMError("there is no picture to explain")
    loaded = load(model, device, size) if gallery is None else _by_similarity(gallery, model, device, size)
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
        groups=groups,
    )
    question = _question(target, against, loaded, explainer, html is not None)
    usual = None if size is None or gallery is not None else load(model, device, None).preprocess
    job = Job(
        explainer, loaded.preprocess, question, Folder(out, model), top, html is not None, examples, usual, verify
    )
    job.run(files)
    if job.rows:
        score = "similarity" if gallery is not None else "probability"
        columns = ["image", "prediction", score, "target", "references (similarity)"]
        print_table(columns, job.rows, right=[score])
        for line in job.checked:
            typer.echo(line)
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
    """A picture that could be read, and its input for the model, `(3, H, W)`."""

    path: Path
    image: Image.Image
    tensor: Tensor


@dataclass
class Job:
    """Explains the photos of one command in batches; photos that fail are reported and skipped."""

    explainer: FinerCAM
    preprocess: Preprocess
    question: dict[str, Any]
    folder: Folder
    top: int
    page: bool = False
    """Whether to keep the explanations for a page."""
    examples: Path | None = None
    usual: Preprocess | None = None
    """The model's own preprocessing, where pictures are given at another size: the prediction may change."""
    verify: bool = False
    checked: list[str] = field(default_factory=list)
    """What the margins become without the lit pixels, a line for each photo."""
    photos: Examples | None = None
    """The folder's photos that were read."""
    rows: list[tuple[str, ...]] = field(default_factory=list)
    answers: list[Explanation | Beside | Certificate] = field(default_factory=list)
    failures: int = 0
    pending: list[tuple[Path, str]] = field(default_factory=list)
    """Errors that are not printed yet: until a photo succeeds, the question itself may be wrong for all of them."""

    def run(self, files: list[Path]) -> None:
        """Explain and save all photos. Raises FinerCAMError if every photo fails for the same reason."""
        from finercam.commands.console import complain, progress

        with progress(len(files)) as bar:
            task = bar.add_task("explaining", total=len(files))

            def report(path: Path, reason: object) -> None:
                named = str(reason).startswith(str(path))  # as in "photo.jpg does not exist"
                complain(str(reason) if named else f"{path}: {reason}", None if bar.disable else bar.console)

            for batch in self._batches(files, report):
                for photo, outcome in self._outcomes(batch):
                    if isinstance(outcome, FinerCAMError):
                        self.failures += 1
                        self.pending.append((photo.path, str(outcome)))
                    else:
                        self._save(photo, outcome)
                while self.rows and self.pending:
                    report(*self.pending.pop(0))
                bar.update(task, completed=len(self.rows) + self.failures)
            if self.pending and self.failures == len(self.pending) and len({why for _, why in self.pending}) == 1:
                raise FinerCAMError(self.pending[0][1])
            for path, why in self.pending:
                report(path, why)

    def _batches(self, files: list[Path], report: Callable[[Path, object], None]) -> Iterator[list[Photo]]:
        """Batches of at most BATCH photos of one tensor shape, in the order of the files."""
        from finercam.images import read_image

        batch: list[Photo] = []
        for path in files:
            try:
                image = read_image(path)
                photo = Photo(path, image, self.preprocess(image))
            except FinerCAMError as error:
                self.failures += 1
                report(path, str(error).removeprefix(f"{path}: "))
                continue
            if batch and (len(batch) == BATCH or batch[0].tensor.shape != photo.tensor.shape):
                yield batch
                batch = []
            batch.append(photo)
        if batch:
            yield batch

    def _outcomes(self, batch: list[Photo]) -> Iterator[tuple[Photo, Explanation | FinerCAMError]]:
        """Each photo with its explanation or its error. If a batch fails, its photos are tried one by one."""
        import torch

        try:
            answer = self.explainer(torch.stack([photo.tensor for photo in batch]), **self._question_of(len(batch)))
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

    def _question_of(self, count: int) -> dict[str, Any]:
        """The question with the rivals of the command for each photo: a flat list could mean one for each."""
        against = self.question["against"]
        return self.question | {"against": None if against is None else [against] * count}

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
            named = [
                f"{label(which, answer.class_names)} ({percent(float(of.softmax(0)[which]))})"
                for which, of in ((here, answer.logits[0].cpu().float()), (own, logits.float()))
            ]
            complain(
                f"{photo.path}: at this --size the prediction is {named[0]}, at the model's own {named[1]}; --preset finest "
                "looks closer and keeps the question"
            )

    def _save(self, photo: Photo, answer: Explanation) -> None:
        from finercam.images import read_image

        beside = self._beside(answer)
        entry: Explanation | Beside | Certificate = answer if beside is None else beside
        self.folder.add(
            answer,
            photo.path.stem,
            photo.image,
            preprocess=self.preprocess,
            source=str(photo.path),
            example=None if beside is None else read_image(beside.picture),
            beside=beside,
        )
        self.rows.append(_row(photo.path, answer, self.top))
        if self.verify:
            certificate = answer.verify()
            self.checked.append(f"{photo.path.name}: {certificate}")
            entry = replace(certificate, answer=entry)
        if self.page:
            self.answers.append(entry)

    def _beside(self, answer: Explanation) -> Beside | None:
        """The rival's photo with the reversed question, if the folder of examples has one of it."""
        from finercam.beside import Examples, beside, main_rival, other_photos

        rival = int(main_rival(answer))
        if self.examples is None or rival < 0:
            return None
        if self.photos is None:
            self.photos = Examples(self.examples, self.preprocess)
        return beside(answer, self.photos)[0] if other_photos(answer, rival, self.photos) else None


def _row(path: Path, answer: Explanation, top: int) -> tuple[str, ...]:
    from finercam.names import label
    from finercam.text import score_text

    p, ids = answer.probabilities[0].topk(min(top, answer.logits.shape[1]))
    similarity = answer.similarity[0].tolist()
    rivals = [
        name if math.isnan(near) else f"{name} ({near:.2f})"
        for name, near in zip(answer.reference_names[0], similarity, strict=False)
    ]
    return (
        path.name,
        "\n".join(label(index, answer.class_names) for index in ids.tolist()),
        "\n".join(score_text(one, answer.link) for one in p.tolist()),
        answer.target_names[0],
        "\n".join(rivals),
    )


def load(string: str, device: str, size: int | None) -> LoadedModel:
    """Load a model on a device, with its preprocessing at the given size."""
    from finercam.models import load_model

    loaded = load_model(string, _device(device))
    if size is None:
        return loaded
    native = loaded.preprocess.mode == "native"
    sized: dict[str, Any] = {"max_side": size} if native else {"size": (size, size)}
    return replace(loaded, preprocess=replace(loaded.preprocess, **sized))


def _by_similarity(gallery: Path, model: str, device: str, size: int | None) -> LoadedModel:
    """The names of a gallery as the classes of a model's image encoder."""
    from finercam.gallery import Gallery
    from finercam.models import LoadedModel
    from finercam.models.backbone import load_backbone

    backbone = load_backbone(model, size=size, device=_device(device))
    named = Gallery(backbone.model, gallery, backbone.preprocess)
    return LoadedModel(named.eval(), backbone.preprocess, named.class_names, backbone.name)


def _device(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _question(
    target: str | None, against: list[str] | None, loaded: LoadedModel, explainer: FinerCAM, page: bool
) -> dict[str, Any]:
    """Target and rivals as they were typed. Refuses a page about groups before the work."""
    named = [name for name, _ in explainer.question.groups]
    own, rivals = _class(target, loaded, named), [_class(d, loaded, named) for d in against or ()]
    if page and any(isinstance(one, (frozenset, str)) for one in (own, *rivals)):
        raise FinerCAMError("--html compares single classes, and the question is about a group of them; leave it out")
    return {"target": own, "against": rivals or None}


def _class(typed: str | None, loaded: LoadedModel, groups: Sequence[str] = ()) -> int | str | frozenset | None:
    """What was typed: a class by its name, or its id if no class has that name, a named group, or the set 'A|B'.

    Checked before the model runs.
    """
    from finercam.names import class_id

    names = loaded.class_names
    if typed is None:
        return None
    if typed not in (names or ()):
        if typed.strip().casefold() in (group.casefold() for group in groups):
            return typed
        if "|" in typed:
            return frozenset(_class(one.strip(), loaded) for one in typed.split("|"))
        if typed.strip().isdecimal():
            return class_id(int(typed), names, len(names)) if names is not None else int(typed)
    return class_id(typed, names, len(names or ()))
