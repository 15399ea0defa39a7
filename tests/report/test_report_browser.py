"""The page in a real browser, opened from the disk: it draws, answers, and its numbers are Python's."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from finercam import FinerCAM
from finercam.core.fuse import FUSIONS
from finercam.report import write_report
from finercam.view.drawn import drawn as view_drawn
from finercam.view.drawn import drawn_signed, strength_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("playwright") is None, reason="no playwright: the report's browser tests are left out"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the report's browser tests are left out"),
]

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOSTILE = ['<script>document.title="got in"</script>', "</script><b>bold", "عصفور أزرق", "\"🐦\" & 'q'", "x" * 300]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a file; at the end no error, no warning and no request but for the file and its data may have been."""
    seen = []
    contexts = []

    def open_(file, address="", **context):
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)  # a busy machine is no failure
        # the one warning left out is about these tests, which read the canvas
        page.on("console", lambda m: None if "willReadFrequently" in m.text else seen.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: seen.append(r.url) if r.url.split(":")[0] not in ("file", "data") else None)
        page.goto(file.as_uri() + address)
        frame(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert seen == []


@pytest.fixture(scope="module")
def answer(model, images):
    names = HOSTILE + [f"bird {k}" for k in range(len(HOSTILE), 14)]
    explain = FinerCAM(model, layer="1", class_names=names, keep=14)
    return explain(images, target=[5, 6, 7], against=[[8, 9], [0, 1, 2, 3], [4]])


@pytest.fixture(scope="module")
def file(answer, tmp_path_factory):
    labels = [int(answer.logits[0].argmax()), 13 - int(answer.logits[1].argmax()), None]
    names = ["first.jpg", HOSTILE[1], HOSTILE[2]]
    path = tmp_path_factory.mktemp("report") / "a # report?.html"
    return write_report(answer, path, names=names, labels=labels, rivals=13, title=HOSTILE[0])


def frame(page):
    """Wait until the page has drawn its state."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def state(page):
    return page.evaluate("() => window.finercam.state()")


def drawn(page, size=(60, 84)):
    return np.array(page.evaluate("() => Array.from(window.finercam.maps())")).reshape(size)


def same(page, expected):
    """What the page computed is what Python answers, but for what its whole numbers rounded off."""
    frame(page)
    signed = page.evaluate("() => { const s = window.finercam.signed(); return [s.noise, ...s.values] }")
    right = expected.signed[0].flatten().double().numpy()
    # a grid's maps are rounded as a whole; floats of single precision add their own
    allowed = 1.01 * signed[0] + 3e-5 * np.abs(right).max()
    assert np.abs(np.array(signed[1:]) - right).max() <= allowed
    peak = expected.signed[0].max().clamp(min=0).double().item() or 1.0
    assert np.abs(drawn(page) - expected.maps[0].double().numpy()).max() <= 2.2 * allowed / (0.8 * peak)
    assert allowed < 0.02 * np.abs(right).max()  # else the comparison would say nothing


def slide(page, gamma):
    page.locator("#gamma").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')) }", gamma
    )


def test_the_first_answer_is_python_s_and_is_drawn(opened, file, answer):
    page = opened(file, "#/1")
    same(page, answer[0])
    assert page.locator("#photo").evaluate("(photo) => photo.complete && photo.naturalWidth") == 84
    pixels = page.locator("#map").evaluate("""(canvas) => {
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
        return [canvas.width, canvas.height, ...Array.from(data)]
    }""")
    alpha = np.array(pixels[2:]).reshape(pixels[1], pixels[0], 4)[..., 3]
    maps = view_drawn(answer[0]).numpy()
    assert alpha.shape == maps.shape
    assert np.abs(alpha / 255 - 0.72 * maps**0.8).max() < 0.02  # as opaque as view/colours.py makes pictures
    assert not alpha[maps == 0].any() or alpha[maps == 0].max() == 0


def test_strength_is_python_s_and_a_weak_map_is_drawn_weak(opened, file, answer):
    page = opened(file, "#/1")
    steps = [(picture, round(0.05 * step, 2)) for picture in range(3) for step in range(12, 41)]
    dimmed = [at for at in steps if 0.1 < strength_of(answer[at[0]].ask(gamma=at[1])).brightness < 1]
    for picture, gamma in [*steps[:1], *dimmed[:2], *dimmed[-1:]]:
        page.evaluate("([picture, g]) => { location.hash = `#/${picture + 1}?g=${g}` }", [picture, gamma])
        page.wait_for_function("(p) => window.finercam.state().picture === p", arg=picture)
        frame(page)
        held = strength_of(answer[picture].ask(gamma=gamma))
        found = page.evaluate("() => window.finercam.strength()")
        assert found["share"] == pytest.approx(held.share, abs=2e-3)
        assert found["relative"] == pytest.approx(held.relative, abs=2e-3)
        assert page.locator("#strength").inner_text() == (held.words if held.positive else "")
        alphas = page.locator(
            "#map"
        ).evaluate("""(canvas) =>
            Math.max(...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.filter((_, i) => i % 4 === 3))""")
        assert alphas / 255 == pytest.approx(0.72 * held.brightness**0.8, abs=0.02)
    assert dimmed  # else nothing was tested


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_does_not_jump_when_a_title_wraps(opened, file, width):
    page = opened(file, "#/1", viewport={"width": width, "height": 850})
    tops = set()
    for rivals in ([1], [1, 2, 3, 4], []):  # one of the names has 300 letters
        page.evaluate("(rivals) => window.finercam.set({ rivals })", rivals)
        frame(page)
        tops.add((page.locator("#stage").bounding_box()["y"], page.locator("#gamma").bounding_box()["y"]))
    assert len(tops) == 1


def test_plain_and_finer_side_by_side_and_views_above_the_rivals_on_a_phone(opened, file, answer):
    for width in (390, 1440, 2200):
        page = opened(file, "#/1", viewport={"width": width, "height": 900})
        plain, finer = (page.locator(name).bounding_box() for name in ("#plain-map", "#map"))
        assert plain["y"] == finer["y"] and plain["x"] + plain["width"] <= finer["x"]
        assert page.locator("#modes").bounding_box()["y"] > finer["y"]
        if width == 390:
            assert page.locator("#modes").bounding_box()["y"] < page.locator("#rivals").bounding_box()["y"]
        else:  # most of a wide screen is used
            right = page.locator(".ask").bounding_box()
            assert right["x"] + right["width"] - plain["x"] > 0.75 * width
    alpha = page.locator(
        "#plain-map"
    ).evaluate("""(canvas) =>
        Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).filter((_, i) => i % 4 === 3)""")
    expected = 0.72 * view_drawn(answer[0].plain).numpy() ** 0.8
    assert np.abs(np.array(alpha).reshape(60, 84) / 255 - expected).max() < 0.02


def test_a_saved_picture_carries_question_maps_and_legend(opened, file, tmp_path):
    from PIL import Image

    page = opened(file, "#/1")
    with page.expect_download() as download:
        page.keyboard.press("s")
    download.value.save_as(tmp_path / "saved.png")
    assert download.value.suggested_filename == "map-1.png"
    saved = np.asarray(Image.open(tmp_path / "saved.png").convert("RGB")).astype(int)
    assert saved.shape[1] > 1000 and saved.shape[0] > 500
    head, foot = saved[28:60], saved[-40:-14]  # the question above, how it was made below
    assert (head < 100).all(-1).any() and (foot < 140).all(-1).any()
    assert (saved[-120:-60].max(-1) - saved[-120:-60].min(-1)).max() > 60  # the legend's colours


def test_slider_rivals_and_reverse_equal_ask(opened, file, answer):
    one = answer[0]
    page = opened(file, "#/1")
    for gamma in (0, 0.35, 1.2, 2):
        slide(page, gamma)
        same(page, one.ask(gamma=gamma))
    assert page.locator("#gamma-value").inner_text() == "2.00"
    slide(page, 0.6)
    rivals = state(page)["classes"]
    place = rivals.index(3)
    page.locator(f"[data-rival='{place}']").click()
    same(page, one.ask(against=[8, 9, 3]))
    for d in (8, 9):
        page.locator(f"[data-rival='{rivals.index(d)}']").click()
    same(page, one.ask(against=[3]))
    page.locator("#reverse").click()
    same(page, one.ask(target=3, against=[5]))
    assert page.locator("#question").inner_text() == f"Why {HOSTILE[3]} and not bird 5?"
    page.locator("#reset").click()
    same(page, one)
    for d in (8, 9):
        page.locator(f"[data-rival='{rivals.index(d)}']").click()
    same(page, one.plain)
    assert page.locator("#gamma").is_disabled() and page.locator("#reverse").is_disabled()


@pytest.mark.parametrize("weights", ["probability", "orthogonal"])
def test_weights_are_computed_in_the_page(opened, file, answer, weights):
    page = opened(file, "#/2")
    page.locator("#weights").select_option(weights)
    same(page, answer[1].ask(weights=weights))


@pytest.mark.parametrize("method", ["hirescam", "xgradcam", "layercam"])
def test_methods_are_switched(opened, file, answer, method):
    page = opened(file, "#/1")
    page.locator(f"#methods input[value={method}]").check()
    same(page, answer[0].ask(method=method))
    slide(page, 1.42)
    same(page, answer[0].ask(method=method, gamma=1.4 if method == "layercam" else 1.42))
    if method == "layercam":
        assert page.locator("#method-note").is_visible()
        page.locator("[data-rival='3']").click()  # one rival at a time
        third = state(page)["classes"][3]
        same(page, answer[0].ask(method=method, against=[third], gamma=1.4))
        page.keyboard.press("ArrowUp")
        same(page, answer[0].ask(method=method, against=[third], gamma=1.5))
        page.locator("#reset").click()
        same(page, answer[0].ask(method=method))


def test_keys(opened, file, answer):
    page = opened(file, "#/1")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    same(page, answer[0].ask(gamma=0.9))
    page.keyboard.down("p")
    same(page, answer[0].plain)
    page.keyboard.up("p")
    same(page, answer[0].ask(gamma=0.9))
    page.keyboard.press("1")
    same(page, answer[0].ask(gamma=0.9, against=[9]))
    page.keyboard.press("r")
    same(page, answer[0].ask(gamma=0.9, target=9, against=[5]))
    page.keyboard.press("0")
    same(page, answer[0])
    modes = []
    for _ in range(3):
        page.keyboard.press("m")
        frame(page)
        modes.append(state(page)["mode"])
    assert modes == ["contour", "signed", "overlay"]
    page.keyboard.press("n")
    assert state(page)["method"] == "hirescam"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => window.finercam.state().picture === 1")
    same(page, answer[1].ask(method="hirescam"))
    page.keyboard.press("?")
    page.locator("#help").wait_for(state="visible")
    page.keyboard.press("Escape")
    page.locator("#help").wait_for(state="hidden")
    assert state(page)["picture"] == 1
    page.locator("#help-open").click()
    page.locator("#help button").click()
    page.locator("#help").wait_for(state="hidden")
    page.keyboard.press("Escape")
    page.wait_for_function("() => window.finercam.state().picture === null")
    assert page.locator("#all").is_visible()


def test_hover_reads_the_value_there(opened, file, answer):
    page = opened(file, "#/1")
    box = page.locator("#stage").bounding_box()
    for x, y in ((3, 5), (40, 30), (79, 56)):
        page.mouse.move(box["x"] + (x + 0.5) / 84 * box["width"], box["y"] + (y + 0.5) / 60 * box["height"])
        read = page.evaluate("([x, y]) => window.finercam.mapAt(x, y)", [x, y])
        assert read["value"] == pytest.approx(float(answer.maps[0, y, x]), abs=3e-4)
        assert read["signed"] == pytest.approx(float(answer.signed_maps[0, y, x]), abs=3e-4)
        assert page.locator("#value").inner_text() == f"{read['value']:.2f}"
    page.mouse.move(2, 2)
    page.locator("#bubble").wait_for(state="hidden")


def test_touch_reads_and_the_page_scrolls_no_further_than_the_phone(opened, file, answer):
    page = opened(file, "#/1", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.locator("#stage").tap(position={"x": 100, "y": 100})
    page.locator("#bubble").wait_for(state="visible")
    page.locator("[data-rival='3']").tap()
    third = state(page)["classes"][3]
    same(page, answer[0].ask(against=[8, 9, third]))
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.locator("[data-rival='13']").scroll_into_view_if_needed()
    assert page.locator("#stage").bounding_box()["y"] >= 0  # the picture stays in sight


def test_signed_view_is_symmetric_and_contour_draws_lines(opened, file, answer):
    page = opened(file, "#/1?v=signed&g=1")
    colours = page.locator("#map").evaluate("""(canvas) =>
        Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)""")
    rgba = np.array(colours).reshape(60, 84, 4)
    signed = drawn_signed(answer[0].ask(gamma=1.0)).numpy()
    strong = np.abs(signed) > 0.3
    assert (rgba[strong & (signed > 0)][:, 0] > rgba[strong & (signed > 0)][:, 2]).all()
    assert (rgba[strong & (signed < 0)][:, 2] > rgba[strong & (signed < 0)][:, 0]).all()
    assert np.abs(rgba[..., 3] / 255 - 0.72 * np.abs(signed) ** 0.8).max() < 0.02
    page.keyboard.press("0")
    page.locator("#modes input[value=contour]").check()
    frame(page)
    lines = page.locator(
        "#map"
    ).evaluate("""(canvas) =>
        Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).filter((v) => v).length""")
    assert lines > 500


def test_a_blank_map_stays_blank_and_says_so(opened, model, tmp_path):
    # identical classes: at gamma 1 nothing sets one apart from the other
    twins = torch.nn.Sequential(*list(model.children())[:-1], torch.nn.Linear(16, 3))
    with torch.no_grad():
        twins[-1].weight.copy_(model[-1].weight[:1].expand(3, -1).abs())
    explain = FinerCAM(twins.eval(), layer="1", class_names=["a <i>", "b", "c"], gamma=1.0)
    made = explain(torch.rand(1, 3, 60, 84), target=0, against=[1])
    assert not made.maps.any()
    page = opened(write_report(made, tmp_path / "blank.html"))
    assert (
        page.locator("#blank").inner_text()
        == "Nothing speaks for \u2068a <i>\u2069 against \u2068b\u2069 at γ = 1.00."
    )
    assert not drawn(page).any()
    painted = page.locator("#map").evaluate("""(canvas) =>
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v)""")
    assert not painted
    slide(page, 0.5)
    frame(page)
    assert page.locator("#blank").is_hidden() and drawn(page).max() == pytest.approx(1)


def test_address_holds_the_state(opened, file, answer):
    page = opened(file, "#/3?c=7&d=4,10&g=1.15&m=xgradcam&w=probability&v=contour&o=0.4")
    same(page, answer[2].ask(against=[4, 10], gamma=1.15, method="xgradcam", weights="probability"))
    found = state(page)
    assert (found["mode"], found["opacity"]) == ("contour", 0.4)
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => location.hash.includes('g=1.1&')")
    again = opened(file, page.evaluate("() => location.hash"))
    assert state(again) == state(page)
    for nonsense in ("#/3?c=999&d=x,7,7&g=-4&m=nothing&w=&v=%00", "#/99", "#/1?%", "#<script>", "#/0"):
        again.evaluate("(hash) => { location.hash = hash }", nonsense)
        frame(again)
    assert again.locator("#all").is_visible()


def test_leaving_wins_over_the_address_being_written(opened, file):
    page = opened(file, "#/1")
    # the timer that writes the state fires between the change of the hash and the event of it
    page.evaluate("""async () => {
        const [later, frame] = [window.setTimeout, () => new Promise((done) => requestAnimationFrame(done))]
        let write = null
        window.setTimeout = (act, wait) => (write = act, 0)
        window.finercam.set({ gamma: 1 })
        await frame()
        await frame()
        window.setTimeout = later
        location.hash = "#/"
        write()
    }""")
    page.wait_for_function("() => window.finercam.state().picture === null")
    frame(page)
    assert page.evaluate("() => location.hash") == "#/"


def test_table_filters_sorts_and_opens(opened, file, answer):
    page = opened(file)
    rows = page.locator("#rows tr")
    assert rows.count() == 3 and page.locator("#count").inner_text() == "3 pictures"
    page.locator("#search").fill("FIRST")
    assert rows.count() == 1 and page.locator("#count").inner_text() == "1 of 3 pictures"
    page.locator("#search").fill("no such thing")
    assert rows.count() == 0 and page.locator("#none-fit").is_visible()
    page.locator("#search").fill("")
    page.locator("#only-wrong").check()
    assert rows.count() == 1 and HOSTILE[1] in rows.first.inner_text()
    rows.first.locator("a").click()
    page.wait_for_function("() => window.finercam.state().picture === 1")
    same(page, answer[1])
    assert page.locator("#next").is_disabled()  # the others do not fit the filter
    page.go_back()
    page.locator("#only-wrong").uncheck()
    page.locator("#only-low").check()
    assert rows.count() == int((answer.probabilities.amax(1) < 0.5).sum())
    page.locator("#only-low").uncheck()
    page.locator("[data-by=probability]").click()
    order = answer.probabilities.gather(1, answer.target[:, None]).flatten().argsort().tolist()
    found = [
        int(href.split("/")[1]) - 1 for href in page.eval_on_selector_all("#rows a", "(a) => a.map((x) => x.hash)")
    ]
    assert found == order


def test_hostile_names_are_text(opened, file):
    page = opened(file, "#/2")
    names = page.locator("#rivals .name").all_inner_texts()
    assert [name for name in HOSTILE[:4] if name not in names] == []
    assert page.title() == f"{HOSTILE[1]} · {HOSTILE[0]}"
    assert page.locator("#file").inner_text() == HOSTILE[1]
    assert page.locator("#title").inner_text() == HOSTILE[0]
    assert page.locator("#one script, #one b.x, #rivals b").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_score_methods_layers_and_aggregates_in_the_browser(opened, model, images, tmp_path):
    names = [f"bird {k}" for k in range(14)]
    explain = FinerCAM(model, layer="1", method="scorecam", class_names=names, keep=14)
    made = explain(images[:1], target=5, against=[8, 9])
    page = opened(write_report(made, tmp_path / "s.html"))
    same(page, made)
    page.keyboard.press("r")
    same(page, made.ask(target=8, against=[5]))
    for fusion in FUSIONS:
        explain = FinerCAM(model, layer=["1", "3"], class_names=names, fusion=fusion, keep=14)
        made = explain(images[:1], target=5, against=[8, 9])
        page = opened(write_report(made, tmp_path / "l.html"))
        same(page, made)
        slide(page, 1.3)
        same(page, made.ask(gamma=1.3))
        page.keyboard.press("r")
        same(page, made.ask(target=8, against=[5], gamma=1.3))
    explain = FinerCAM(model, layer="1", references="all", weights="probability", class_names=names)
    made = explain(images[:1], target=5)
    page = opened(write_report(made, tmp_path / "a.html", rivals=4))
    same(page, made)
    assert page.locator("[data-rival=asked]").get_attribute("aria-pressed") == "true"
    slide(page, 0.25)
    same(page, made.ask(gamma=0.25))
    page.keyboard.press("1")
    first = state(page)["classes"][1]
    same(page, made.ask(gamma=0.25, against=[first], weights="probability"))


def test_a_certificate_stays_with_the_question_as_asked(opened, answer, tmp_path):
    checked = answer[:2].verify()
    page = opened(write_report([checked, answer[2]], tmp_path / "c.html"), "#/1")
    assert page.locator("#checked").inner_text() == f"Checked as asked: {checked.lines[0]}."
    slide(page, 1.3)
    assert page.locator("#checked").inner_text() == f"Checked as asked: {checked.lines[0]}."
    page.locator("#next").click()
    frame(page)
    assert page.locator("#checked").inner_text() == f"Checked as asked: {checked.lines[1]}."
    page.locator("#next").click()
    frame(page)
    assert not page.locator("#checked").is_visible()


def test_light_dark_and_labels(opened, file):
    page = opened(file, "#/1", color_scheme="dark")
    back = "() => getComputedStyle(document.body.parentElement).backgroundColor"
    before = page.evaluate(back)
    page.locator("#theme").click()
    assert page.evaluate(back) != before
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, a")].filter((e) =>
        !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length || e.title)).length""")
    assert unnamed == 0
    assert "Strongest" in page.locator("#map").get_attribute("aria-label")
