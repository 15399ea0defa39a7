"""The page in a real browser: maps as Python's, from a photo's file on, and no request to another host."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from finercam import FinerCAM, FinerCAMError, load_model
from finercam.data.fieldguide import Fieldguide
from finercam.export.onnx import export_onnx
from finercam.images import read_image
from finercam.page import write_page
from finercam.page.runtime import find_runtime

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("playwright") is None, reason="no playwright: the page's browser tests are left out"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page's browser tests are left out"),
]
FLAGS = [*("--headless", "--no-sandbox", "--disable-gpu"), *("--disable-background-networking", "--disable-sync")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def explain():
    loaded = load_model("fieldguide/cnn")
    return FinerCAM(loaded.model, class_names=loaded.class_names), loaded.preprocess


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo that is resized and cut: larger than the model's input, and not square."""
    file = tmp_path_factory.mktemp("photos") / "bird.png"
    Fieldguide(1, seed=5).image(0).resize((300, 230)).save(file)
    return file


@pytest.fixture(scope="module")
def site(explain, tmp_path_factory):
    try:
        find_runtime()
    except FinerCAMError as error:
        pytest.skip(f"no onnxruntime-web: {error}")
    explain, preprocess = explain
    folder = tmp_path_factory.mktemp("site")
    graph = folder / "graph.onnx"
    images = torch.rand(2, 3, *preprocess.size, generator=torch.Generator().manual_seed(0))
    export_onnx(explain, images, graph, preprocess=preprocess, terms=True, name="fieldguide/cnn")
    return write_page(graph, folder / "page").parent


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def page(address, photo):
    """The page with a photo; at the end there was no error and no request to another host."""
    from playwright.sync_api import sync_playwright

    seen: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(120_000)
        context.on("request", lambda r: None if r.url.startswith((address, "data:")) else seen.append(r.url))
        page.on("console", lambda m: seen.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(address)
        page.wait_for_function("() => document.getElementById('model').textContent")
        page.set_input_files("#file-input", str(photo))
        idle(page)
        yield page
        browser.close()
    assert seen == []


def idle(page):
    page.wait_for_function(
        "() => window.finercam.state().photo && !window.finercam.state().busy && document.getElementById('status').hidden"
    )


def drawn(page, size):
    return np.array(page.evaluate("() => window.finercam.maps()")).reshape(size)


def wanted(explain, photo, **question):
    explain, preprocess = explain
    return explain(preprocess(read_image(photo))[None], **question)


def test_the_page_reads_a_photo_as_python_does(page, photo, explain):
    found = np.array(page.evaluate("() => window.finercam.input()"))
    assert np.abs(found - explain[1](read_image(photo)).numpy().ravel()).max() < 1e-6


def test_its_maps_are_pythons(page, photo, explain):
    usual = wanted(explain, photo)
    assert page.evaluate("() => window.finercam.state().target") == int(usual.target)
    assert page.evaluate("() => window.finercam.state().rivals") == usual.references[0].tolist()
    assert np.abs(drawn(page, usual.image_size) - usual.maps[0].numpy()).max() < 1e-3

    page.locator("#gamma").fill("0.35")
    answer = wanted(explain, photo, gamma=0.35)
    assert np.abs(drawn(page, usual.image_size) - answer.maps[0].numpy()).max() < 1e-3


def test_a_click_on_a_rival_and_a_search_ask_again(page, photo, explain):
    target = page.evaluate("() => window.finercam.state().target")
    page.locator("#rivals button.rival").nth(3).click()
    idle(page)
    rivals = page.evaluate("() => window.finercam.state().rivals")
    assert len(rivals) == 2
    answer = wanted(explain, photo, target=target, against=rivals, gamma=0.35)
    assert np.abs(drawn(page, answer.image_size) - answer.maps[0].numpy()).max() < 1e-3

    last = explain[0].class_names[-1]
    page.locator("#search").fill(last.split(" (")[0])
    page.locator("#rivals li", has_text=last.split(" (")[0]).get_by_text("why?").click()
    idle(page)
    answer = wanted(explain, photo, target=last, against=[target], gamma=0.35)
    assert np.abs(drawn(page, answer.image_size) - answer.maps[0].numpy()).max() < 1e-3
    page.locator("#reverse").click()
    idle(page)
    assert page.evaluate("() => window.finercam.state().target") == target


def test_what_is_no_photo_is_refused_in_words(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    page.set_input_files("#file-input", str(tmp_path / "notes.txt"))
    page.wait_for_function("() => document.getElementById('status').textContent.includes('cannot be explained')")


def test_a_folder_without_the_runtime_is_refused(tmp_path):
    with pytest.raises(FinerCAMError, match="npm pack onnxruntime-web"):
        find_runtime(tmp_path)
