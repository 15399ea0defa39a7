"""The app in a real browser: what is clicked is what Python answers, names are text, and nothing comes from outside."""

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from finercam import FinerCAM, load_model
from finercam.app import views
from finercam.data.fieldguide import Fieldguide
from finercam.export.folder import arrays
from finercam.images import Preprocess, read_image
from finercam.models.builtin import PatchCNN
from finercam.models.directory import save_directory
from finercam.view.drawn import picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason="no gradio: the app's browser tests are left out"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="no playwright: the app's browser tests are left out"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the app's browser tests are left out"),
]

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOSTILE = [
    '<script>document.title="got in"</script>',
    "${document.title='got in'}",
    "{{q}}",
    '<img src=x onerror="1">',
]
PATIENCE = 120_000  # a busy machine is no failure


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("models") / "birds"
    architecture = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 4}}
    return save_directory(
        path, PatchCNN(4), architecture=architecture, class_names=HOSTILE, preprocess=Preprocess((64, 64))
    )


@pytest.fixture(scope="module")
def address():
    from finercam.app.serve import serving

    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Opens the app; at the end no error, no warning, no failed and no outside request may have been."""
    seen, contexts = [], []

    def outside(url):
        return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != "127.0.0.1"

    def details(kind, text):
        # gradio's client says so whenever it closes the stream of an upload
        if kind in ("error", "warning") and text != "Method not implemented.":
            seen.append(f"{kind}: {text}")

    def open_(**context):
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: details(m.type, m.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: seen.append(r.url) if outside(r.url) else None)
        page.on("response", lambda r: seen.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(address)
        page.wait_for_selector("#finer img")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert seen == []


@pytest.fixture(scope="module")
def royal():
    """What Python says of the picture that the app begins with."""
    loaded = load_model("fieldguide/cnn")
    image = loaded.preprocess(Fieldguide(12, seed=4242).image(5))[None]
    return FinerCAM(loaded.model, class_names=loaded.class_names, keep=49)(image)


def shows(page, text):
    page.wait_for_function("(text) => document.querySelector('#headline').innerText.includes(text)", arg=text)


def wait(page, selector, text):
    page.wait_for_function("([s, text]) => document.querySelector(s)?.innerText.includes(text)", arg=[selector, text])


def drawn(page):
    return views.pixels(page.locator("#finer img").get_attribute("src")).astype(int)


def same(page, answer, photo, tmp_path):
    """The maps to download are Python's to the bit, and the picture on the page is theirs."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Maps (.npz)").click()
    file = tmp_path / "maps.npz"
    download.value.save_as(file)
    with np.load(file, allow_pickle=False) as saved:
        for key, expected in arrays(answer).items():
            np.testing.assert_allclose(saved[key], expected, rtol=2e-3 if "map" in key else 1e-4, atol=1e-3)
    expected = np.asarray(picture(photo, answer)).astype(int)
    assert np.abs(drawn(page) - expected).mean() < 2


def test_clicks_are_questions_and_answers_are_python_s(opened, royal, tmp_path):
    from finercam.view.shown import shown

    photo = shown(royal, Fieldguide(12, seed=4242).image(5), load_model("fieldguide/cnn").preprocess)[0]
    page = opened(viewport={"width": 1280, "height": 900})
    shows(page, "Why \u2068Royal Pippin\u2069 99.7 %, and not \u2068Barred Pippin\u2069 0.2 %?")
    assert page.locator("#method input").input_value() == "Fine (default)"
    same(page, royal, photo, tmp_path)
    page.locator("#gamma input[type=range]").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#gamma input[type=number]').value === '1.4'")
    wait(page, "#details", "without a run of the model")
    page.wait_for_timeout(500)  # the last of eight moves
    same(page, royal.ask(gamma=1.4), photo, tmp_path)
    page.locator("#verify").click()
    wait(page, "#details", f"Checked: {royal.ask(gamma=1.4).verify()}.")
    page.locator("#rivals label").nth(2).click()
    page.wait_for_function("() => document.querySelectorAll('#headline .against').length === 2")
    assert "Checked" not in page.locator("#details").inner_text()
    names = royal.class_names
    third = int(royal.logits[0].topk(4).indices[3])
    assert page.locator("#headline .against").nth(1).inner_text() == f"\u2068{names[third]}\u2069"
    both = royal.ask(against=[int(royal.references[0, 0]), third], gamma=1.4)
    same(page, both, photo, tmp_path)
    page.locator("#reverse").click()
    shows(page, "Why \u2068Barred Pippin\u2069")
    same(page, both.reverse(), photo, tmp_path)
    page.locator("#gallery button").nth(2).click()
    shows(page, "Why \u2068White-shouldered Zest\u2069")
    page.locator("#view label").nth(3).click()
    page.wait_for_function(
        "() => document.querySelector('#plain img').src === document.querySelector('#finer img').src"
    )
    for kind, ending in (("Panel (PNG)", ".png"), ("Live report (HTML)", ".html")):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind).click()
        assert download.value.suggested_filename == f"finercam-White-shouldered_Zest{ending}"


def test_uploads_are_read_checked_and_deleted(opened, tmp_path, monkeypatch):
    cache, uploads = Path(os.environ["GRADIO_TEMP_DIR"]), []
    monkeypatch.setattr(
        "finercam.app.page.read_image", lambda path, **more: (uploads.append(path), read_image(path, **more))[1]
    )
    page = opened(viewport={"width": 1280, "height": 900})
    good, text, large = (tmp_path / name for name in ("<b>&'my bird.png", "no picture.png", "large.png"))
    birds = Fieldguide(12, seed=4242)
    birds.image(7).save(good)
    page.locator("#drop input[type=file]").set_input_files(good)
    shows(page, "Carnival Brolly")
    assert "my bird" in page.locator("#headline .file").inner_text()
    text.write_text("no picture at all")
    page.locator("#drop input[type=file]").set_input_files(text)
    wait(page, "#notice", "no known picture format")
    assert str(cache) not in page.locator("#notice").inner_text()
    shows(page, "Carnival Brolly")  # a bad picture loses nothing
    Image.new("RGB", (6000, 5400)).save(large)  # a small file that is large decoded
    page.locator("#drop input[type=file]").set_input_files(large)
    wait(page, "#notice", "more than the limit of 32,000,000 pixels")
    assert len(uploads) == 3 and all(path.is_relative_to(cache) and not path.exists() for path in uploads)
    page.locator("#gallery button").nth(1).click()
    shows(page, "Plain Stilter")
    page.locator("#notice").wait_for(state="hidden")


def test_hostile_class_names_are_text_and_visitors_are_apart(opened, folder):
    first = opened(viewport={"width": 1280, "height": 900})
    second = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark")
    assert second.evaluate("() => document.documentElement.scrollWidth") <= 390
    first.locator("#model input").fill(str(folder))
    first.keyboard.press("Enter")
    shows(first, "birds")
    labels = first.locator("#rivals label").all_inner_texts()
    target = first.locator("#headline .for").inner_text().strip("\u2068\u2069")
    assert {target, *(label.rsplit(" · ", 1)[0] for label in labels)} == set(HOSTILE)
    assert first.title() == "finercam: why this class and not that one?"
    assert first.locator("#rivals script, #rivals img, #headline script, #headline img").count() == 0
    second.locator("#rivals label").nth(1).tap()  # the second visitor's question is still about his own picture
    second.wait_for_function("() => document.querySelectorAll('#headline .against').length === 2")
    shows(second, "Royal Pippin")
    first.locator("#model input").fill("fieldguide/nothing")
    first.keyboard.press("Enter")
    wait(first, "#notice", "expected one of fieldguide/cnn")
    assert first.locator("#headline .for").inner_text().strip("\u2068\u2069") == target


def test_only_this_machine_and_only_listed_models_for_others(address, folder):
    from finercam.app.page import Page

    assert urlsplit(address).hostname == "127.0.0.1"
    page = Page(typed=False)
    update = page._safe(page._again)(None, str(folder), "gradcam", "predicted", 1, 0.6, "mean", "", "overlay")
    assert list(update) == [page.notice] and "not offered here" in update[page.notice]["value"]


def test_a_port_in_use_is_one_line(address):
    from finercam.app.serve import serving
    from finercam.errors import FinerCAMError

    with (
        pytest.raises(FinerCAMError, match=r"no server at 127\.0\.0\.1:") as error,
        serving(port=urlsplit(address).port),
    ):
        pass
    assert "\n" not in str(error.value)
    assert "in use" in str(error.value) and "GRADIO" not in str(error.value) and "launch" not in str(error.value)


def test_a_model_that_does_not_exist_stops_the_command_before_it_serves():
    from finercam.app.serve import serving
    from finercam.errors import FinerCAMError

    with pytest.raises(FinerCAMError, match="nope/x"), serving(models=["nope/x"]):
        pass


def test_files_of_a_killed_server_are_removed_by_the_next(tmp_path, monkeypatch):
    from finercam.app.serve import SCRATCH, serving
    from finercam.errors import FinerCAMError

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("killed", "new"):
        (tmp_path / f"{SCRATCH}{name}" / "cache").mkdir(parents=True)
    os.utime(tmp_path / f"{SCRATCH}killed", (1, 1))
    with pytest.raises(FinerCAMError, match="nope/x"), serving(models=["nope/x"]):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [f"{SCRATCH}new"]


def test_only_requests_under_its_own_name_are_answered(address):
    import http.client

    where = urlsplit(address)

    def status(**headers):
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
        connection.request("GET", "/config", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Access-Control-Allow-Credentials")

    assert status()[0] == 200
    assert status(Host="evil.example")[0] == 403
    # a page that is served at another port of this machine
    assert status(Origin="http://localhost:9999") == (403, None)
    assert status(Origin=f"http://{where.netloc}")[0] == 200


def test_each_choice_is_asked_once_and_none_is_lost(opened, monkeypatch):
    import time

    from finercam.app import questions

    switch, calls = questions.switch, []

    def slow(result, method):
        calls.append(method)
        time.sleep(1.5)  # as long as a score method takes
        return switch(result, method)

    monkeypatch.setattr(questions, "switch", slow)
    page = opened(viewport={"width": 1280, "height": 900})
    for method in ("layercam", "hirescam"):  # the second one while the first is being answered
        page.locator("#method input").click()
        page.get_by_role("option", name=method, exact=True).click()
    page.locator("#rivals label").nth(2).click()  # and a rival, too
    page.wait_for_function("() => document.querySelectorAll('#headline .against').length === 2")
    wait(page, "#details", "HiResCAM at")
    assert calls == ["layercam", "hirescam"]
    assert page.locator("#method input").input_value() == "hirescam"
    assert page.locator("#rivals input:checked").count() == 2
