"""The page: what is clicked becomes a question, and what is answered becomes what is shown. Needs gradio."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base
from PIL import Image

from finercam import methods
from finercam.app import questions, views
from finercam.app.files import KINDS
from finercam.app.opened import Opened, model_choices, open_model, read_texts
from finercam.app.questions import STRATEGIES, Picture, Result
from finercam.core.presets import DEFAULT, PRESETS
from finercam.errors import FinerCAMError
from finercam.images import read_image
from finercam.view.drawn import VIEWS

__all__ = ["MAX_BYTES", "Page", "asset", "theme"]

MAX_BYTES, MAX_PIXELS = 20_000_000, 32_000_000
"""Largest upload, on the disk and decoded."""

KEPT_SECONDS = 1800
"""How long the picture of an idle visitor stays in memory."""

UNKNOWN = (
    "This model does not know the painted birds: its answer to this one says little. Choose a photo of your own."
)
TEXTS = "red crest, white wing bars, massive beak, bird"
SAVE = """() => {
    const save = () => document.querySelector("#save a, #save button, button#save, a#save")?.click()
    setTimeout(save, 250)
}"""

Update = dict[Any, Any]


class Page:
    """The page's parts and what happens between them; `blocks` is gradio's.

    `models` are offered besides the built-in ones, and `photos`, files, before the built-in pictures. Only where
    `typed` can visitors name any other model: it may be a folder of this machine, or a download. `folder` is where
    files to download are written, for a minute.
    """

    def __init__(
        self,
        models: Sequence[str] = (),
        typed: bool = True,
        folder: Path | None = None,
        photos: Sequence[Path] = (),
    ) -> None:
        self.models = model_choices(models)
        given = [Picture(read_image(path, max_pixels=MAX_PIXELS), path.name) for path in photos]
        self.pictures = [*given, *questions.gallery()]
        self.typed = typed
        self.folder = Path(tempfile.gettempdir()) if folder is None else folder
        with gr.Blocks(
            title="finercam: why this class and not that one?", analytics_enabled=False, delete_cache=(60, 600)
        ) as self.blocks:
            self.result = gr.State(None, time_to_live=KEPT_SECONDS)
            self._parts()
            self._events()

    # --- what there is to see

    def _parts(self) -> None:
        gr.HTML(
            "<header><h1>finercam</h1><p>Why this class, and not that one? Click a rival, drag γ, and see what decides.</p>"
            "</header>"
        )
        self._pick_parts()
        self.notice = gr.HTML(visible=False, elem_id="notice")
        self.headline = gr.HTML("<h2>…</h2>", elem_id="headline")
        with gr.Row(elem_id="work"):
            self._look_parts()
            self._ask_parts()
        self.file = gr.DownloadButton("", visible="hidden", elem_id="save")

    def _pick_parts(self) -> None:
        """Upload and gallery."""
        with gr.Row(elem_id="pick", equal_height=True):
            self.upload = gr.File(
                label="Your photo", show_label=False, file_types=["image"], height=100, scale=1, min_width=190,
                elem_id="drop",
            )  # fmt: skip
            self.gallery = gr.Gallery(
                [(_small(one.image), one.name) for one in self.pictures], label="Pictures", show_label=False,
                columns=12, rows=1, height=100, allow_preview=False, object_fit="cover", interactive=False, buttons=[],
                format="png", scale=5, min_width=280, elem_id="gallery", container=False,
            )  # fmt: skip

    def _look_parts(self) -> None:
        """The two maps with γ, view, model and method."""
        with gr.Column(scale=7, min_width=320, elem_id="look"):
            with gr.Row(elem_id="stage"):
                self.plain = gr.HTML(elem_id="plain", min_height=200)
                self.finer = gr.HTML(elem_id="finer", min_height=200)
            self.gamma = gr.Slider(
                0, 2, PRESETS[DEFAULT].gamma, step=0.05, label="γ", info="strength of the contrast: 0 is the plain map", buttons=[],
                elem_id="gamma",
            )  # fmt: skip
            self.view = gr.Radio(
                [(view.capitalize(), view) for view in VIEWS], value="overlay", show_label=False,
                label="View", container=False, elem_id="view",
            )  # fmt: skip
            self.details = gr.HTML(elem_id="details")
            with gr.Row(elem_id="which"):
                self.model = gr.Dropdown(
                    self.models, value=self.models[0], label="Model", allow_custom_value=self.typed, min_width=200,
                    info="or type timm/<name>, or a model folder" if self.typed else "the ones offered here",
                    elem_id="model",
                )  # fmt: skip
                self.method = gr.Dropdown(
                    _methods(False), value=DEFAULT, label="Method", info="how evidence becomes a map",
                    min_width=200, elem_id="method",
                )  # fmt: skip

    def _ask_parts(self) -> None:
        """The question: target, rivals, how rivals are picked, and the files to take along."""
        with gr.Column(scale=5, min_width=300, elem_id="ask"):
            self.texts = gr.Textbox(
                TEXTS, label="Look for", info="texts separated by commas; the first is held against the last",
                visible=False, submit_btn="Look", max_length=2000, elem_id="texts",
            )  # fmt: skip
            self.target = gr.Dropdown([], label="Why", filterable=True, elem_id="target")
            self.rivals = gr.CheckboxGroup([], label="and not", elem_id="rivals")
            self.other = gr.Dropdown([], value=None, label="and not another class", filterable=True, elem_id="other")
            self.reverse = gr.Button("⇄ Ask the reverse question", size="md", elem_id="reverse")
            self.verify = gr.Button("Check: what if the lit 5 % were removed?", size="md", elem_id="verify")
            with gr.Accordion("How rivals are picked", open=False, elem_id="settings"), gr.Row():
                self.strategy = gr.Dropdown(
                    list(STRATEGIES), value="predicted", label="References", min_width=110, elem_id="strategy"
                )
                self.count = gr.Dropdown([1, 2, 3, 4, 5], value=1, label="How many", min_width=90, elem_id="count")
                self.weights = gr.Dropdown(
                    ["mean", "probability", "orthogonal"], value="mean", label="Weights", min_width=110,
                    elem_id="weights",
                )  # fmt: skip
            with gr.Row(elem_id="files"):
                self.buttons = {kind: gr.Button(kind, size="sm", min_width=90) for kind in KINDS}

    def _shown(self, result: Result, view: str) -> Update:
        """All that depends on the answer."""
        return {
            self.result: result,
            self.notice: gr.update(visible=False),
            self.headline: views.headline(result),
            self.plain: views.plain(result, view),
            self.finer: views.finer(result, view),
            self.details: views.details(result),
            self.rivals: gr.update(choices=views.choices(result), value=result.against),
            self.target: gr.update(value=result.target),
        }

    def _fresh(self, result: Result, view: str) -> Update:
        """What a new picture or model changes besides: the classes there are."""
        names = [(views.short(result.name(index)), index) for index in range(result.classes)]
        return {
            **self._shown(result, view),
            self.target: gr.update(choices=names, value=result.target),
            self.other: gr.update(choices=names, value=None),
            self.texts: gr.update(visible=result.opened.by_words),
            self.gamma: float(result.answer.gamma[0]),
            self.method: gr.update(choices=_methods(result.opened.by_words), value=result.method),
        }

    # --- what can be done

    def _events(self) -> None:
        setting = [self.model, self.method, self.strategy, self.count, self.gamma, self.weights]
        setting += [self.texts, self.view]
        some = [
            self.result, self.notice, self.headline, self.plain, self.finer, self.details, self.rivals, self.target,
        ]  # fmt: skip
        everything = [*some, self.other, self.texts, self.method, self.gamma, self.upload]

        def on(
            trigger: Callable[..., Any], act: Callable[..., Update], given: list[Any], seen: list[Any], **more: Any
        ):
            # every choice is answered, one after another, from the state that the one before left
            one_queue = {"trigger_mode": "multiple", "concurrency_id": "questions", "concurrency_limit": 1}
            more = {"show_progress": "hidden", "api_visibility": "private", **one_queue, **more}
            return trigger(self._safe(act), given, seen, **more)

        slow = {"show_progress": "minimal", "show_progress_on": [self.finer]}
        on(self.blocks.load, self._start, setting, everything, **slow)
        on(self.gallery.select, self._gallery, setting, everything, **slow)
        on(self.upload.upload, self._upload, [self.upload, *setting], everything, **slow)
        for trigger in (self.model.input, self.texts.submit):
            on(trigger, self._again, [self.result, *setting], everything, **slow)
        on(self.method.select, self._method, [self.result, self.method, self.view], [*some, self.method], **slow)

        def ask(trigger: Callable[..., Any], question: Callable[..., Result], *controls: Any):
            on(trigger, self._about(question), [self.result, *controls, self.view], some)

        ask(self.target.select, lambda result, c: questions.ask(result, target=c), self.target)
        ask(self.rivals.input, lambda result, rivals: questions.ask(result, against=rivals), self.rivals)
        ask(self.weights.select, lambda result, weights: questions.ask(result, weights=weights), self.weights)
        ask(self.reverse.click, questions.reverse)
        ask(self.verify.click, questions.verify)
        for trigger in (self.strategy.select, self.count.select):
            ask(trigger, questions.pick, self.strategy, self.count)
        on(self.other.select, self._other, [self.result, self.other, self.view], [*some, self.other])
        dragged = {"trigger_mode": "always_last"}
        moved = [self.result, self.notice, self.finer, self.details]
        on(self.gamma.input, self._gamma, [self.result, self.gamma, self.view], moved, **dragged)
        on(self.view.input, self._view, [self.result, self.view], [self.notice, self.plain, self.finer], **dragged)
        for kind, button in self.buttons.items():
            seen = [self.notice, self.file]
            on(button.click, self._file(kind), [self.result], seen, show_progress="minimal").success(None, js=SAVE)

    def _safe(self, act: Callable[..., Update]) -> Callable[..., Update]:
        """The same, but an error that the visitor can fix becomes one line on the page, and nothing else changes."""

        @wraps(act)
        def safe(*given: Any) -> Update:
            try:
                return act(*given)
            except FinerCAMError as error:
                return {self.notice: gr.update(value=views.notice(str(error)), visible=True)}

        return safe

    def _start(self, *setting: Any) -> Update:
        opened = self._opened(setting[0])
        first, known = questions.first_picture(opened, self.pictures)
        update = self._look(first, *setting, usual=True)
        if known:
            return update
        return {**update, self.notice: gr.update(value=views.notice(UNKNOWN), visible=True)}

    def _gallery(self, chosen: gr.SelectData, *setting: Any) -> Update:
        return self._look(self.pictures[chosen.index], *setting)

    def _upload(self, file: str | None, *setting: Any) -> Update:
        if file is None:
            raise FinerCAMError("no file arrived; choose a picture")
        path = Path(file)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise FinerCAMError(f"{path.name} is larger than {MAX_BYTES // 1_000_000} MB; shrink it first")
            image = read_image(path, max_pixels=MAX_PIXELS)
            return {**self._look(Picture(image, path.name), *setting), self.upload: None}
        except FinerCAMError as error:
            # the name alone: the path on this machine is private
            line = views.notice(str(error).replace(str(path), path.name))
            return {self.notice: gr.update(value=line, visible=True), self.upload: None}
        finally:
            path.unlink(missing_ok=True)

    def _again(self, result: Result | None, *setting: Any) -> Update:
        if result is None:
            return self._start(*setting)
        return self._look(result.picture, *setting, usual=self._opened(setting[0]).by_words != result.opened.by_words)

    def _opened(self, model: str | None) -> Opened:
        if not self.typed and model not in self.models:
            raise FinerCAMError(f"model {model!r} is not offered here; choose one from the list")
        return open_model(str(model or ""))

    def _look(
        self, picture: Picture, model: str, method: str, strategy: str, count: float, gamma: float, weights: str,
        texts: str, view: str, usual: bool = False,
    ) -> Update:  # fmt: skip
        opened = self._opened(model)
        if usual:  # a model of another kind: what was measured to be best for it
            gamma, method = opened.usual_gamma, opened.usual_method
        fitting = [name for _, name in _methods(opened.by_words)]
        method = method if method in fitting else opened.usual_method
        typed = read_texts(texts) if opened.by_words else ()
        result = questions.look(opened, picture, method, strategy, int(count), float(gamma), weights, typed)
        return self._fresh(result, view)

    def _about(self, question: Callable[..., Result]) -> Callable[..., Update]:
        """A handler that shows the answer to a question about the result, given the values of some controls."""

        def act(result: Result | None, *values: Any) -> Update:
            return self._shown(question(_there(result), *values[:-1]), values[-1])

        return act

    def _method(self, result: Result | None, method: str, view: str) -> Update:
        result = _there(result)
        try:
            return self._shown(questions.switch(result, method), view)
        except FinerCAMError as error:  # the menu goes back to the method of the map
            return {
                self.method: result.method,
                self.notice: gr.update(value=views.notice(str(error)), visible=True),
            }

    def _other(self, result: Result | None, other: int | None, view: str) -> Update:
        result = _there(result)
        if other is None or int(other) in (result.target, *result.against):
            return {self.other: None}
        return {**self._shown(questions.ask(result, against=[*result.against, int(other)]), view), self.other: None}

    def _gamma(self, result: Result | None, gamma: float, view: str) -> Update:
        result = questions.ask(_there(result), gamma=float(gamma))
        return {
            self.result: result, self.finer: views.finer(result, view), self.details: views.details(result),
            self.notice: gr.update(visible=False),
        }  # fmt: skip

    def _view(self, result: Result | None, view: str) -> Update:
        result = _there(result)
        return {self.plain: views.plain(result, view), self.finer: views.finer(result, view)}

    def _file(self, kind: str) -> Callable[[Result | None], Update]:
        def make(result: Result | None) -> Update:
            result = _there(result)
            _sweep(self.folder)
            fresh = Path(tempfile.mkdtemp(prefix="file-", dir=self.folder))
            return {self.file: str(KINDS[kind](result, fresh)), self.notice: gr.update(visible=False)}

        return make


def theme() -> gr.Theme:
    """Colours of the live report, and fonts of the visitor's own device: none is fetched."""
    own = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    return Base(
        primary_hue="orange", secondary_hue="indigo", neutral_hue="stone", font=own, font_mono=["ui-monospace", "monospace"],
        radius_size="lg",
    ).set(
        body_background_fill="#f6f5f1", body_background_fill_dark="#131314",
        body_text_color="#1e1d1a", body_text_color_dark="#eeece7",
        block_background_fill="#ffffff", block_background_fill_dark="#1c1c1e",
        block_border_color="#e2dfd7", block_border_color_dark="#303033",
        block_info_text_color="#67645c", block_info_text_color_dark="#a19e95",
        input_background_fill="#f4f2ed", input_background_fill_dark="#29292c",
        checkbox_label_background_fill="#f4f2ed", checkbox_label_background_fill_dark="#29292c",
        checkbox_label_background_fill_hover="#eceae4", checkbox_label_background_fill_hover_dark="#343438",
        checkbox_background_color_dark="#131314", checkbox_border_color_dark="#6b6a66",
        button_secondary_background_fill="#eceae4", button_secondary_background_fill_dark="#29292c",
        button_secondary_background_fill_hover="#e2dfd7", button_secondary_background_fill_hover_dark="#343438",
        slider_color="#dd4a00", slider_color_dark="#ffa05c",
    )  # fmt: skip


def asset(name: str) -> str:
    return resources.files("finercam.app").joinpath(name).read_text(encoding="utf-8")


def _methods(by_words: bool) -> list[tuple[str, str]]:
    """What to read, and the name, of the default preset and of the methods that fit.

    Some methods need the towers of an image–text model. They are offered first for one, and no preset is.
    """
    fitting = [name for name in methods.names() if methods.get(name).fits(by_words)]
    fitting.sort(key=lambda name: not methods.get(name).needs_text)
    preset = [] if by_words else [(f"{DEFAULT.capitalize()} (default)", DEFAULT)]
    return [*preset, *((name, name) for name in fitting)]


def _small(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((256, 256))
    return small


def _there(result: Result | None) -> Result:
    if result is None:
        raise FinerCAMError("the picture is no longer in memory; choose one")
    return result


def _sweep(folder: Path) -> None:
    """Remove files that were fetched long ago: gradio serves copies of its own, and deletes those itself."""
    for made in folder.glob("file-*"):
        if time.time() - made.stat().st_mtime > 60:
            shutil.rmtree(made, ignore_errors=True)
