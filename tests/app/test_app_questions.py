"""What the app asks is what Python asks, and what it shows are names as text and maps as they are."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from finercam import FinerCAM, FinerCAMError, load_model
from finercam.app import files, opened, questions, views
from finercam.app.questions import Picture
from finercam.app.serve import OwnAddress, is_local
from finercam.data.fieldguide import Fieldguide
from finercam.images import Preprocess
from finercam.models import twotower
from finercam.models.builtin import PatchCNN
from finercam.models.directory import save_directory
from finercam.view.drawn import VIEWS, picture, strength_of

HOSTILE = [
    '<script>document.title="got in"</script>',
    "${document.title='got in'}",
    "עברית",
    '"🐦" & {{q}}',
    "x" * 300,
]


@pytest.fixture(scope="module")
def cnn():
    return opened.open_model("fieldguide/cnn")


@pytest.fixture(scope="module")
def result(cnn):
    return questions.look(cnn, questions.gallery()[5], "gradcam")


@pytest.fixture(scope="module")
def pixels():
    return load_model("fieldguide/cnn").preprocess(Fieldguide(12, seed=4242).image(5))[None]


@pytest.fixture
def runs(cnn):
    """How often the model ran."""
    seen = []
    hook = cnn.model.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


@pytest.fixture
def hostile(tmp_path):
    torch.manual_seed(1)
    folder = tmp_path / "birds"
    architecture = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 5}}
    save_directory(
        folder, PatchCNN(5), architecture=architecture, class_names=HOSTILE, preprocess=Preprocess((64, 64))
    )
    return opened.open_model(str(folder))


def test_questions_equal_python_s_and_do_not_run_the_model(cnn, result, pixels, runs):
    explain = FinerCAM(load_model("fieldguide/cnn").model, "gradcam", class_names=cnn.class_names)
    offered = questions.rivals(result)
    assert len(offered) == 9 and result.target not in offered and result.against[0] in offered
    logits = result.answer.logits[0]
    assert [float(logits[d]) for d in offered] == sorted((float(logits[d]) for d in offered), reverse=True)
    for question in ({"gamma": 1.3}, {"against": offered[2:5]}, {"against": offered[3:4], "gamma": 0.0}):
        found = questions.ask(result, **question)
        assert not found.ran
        wanted = {"against": result.against, **question}
        expected = explain(pixels, target=result.target, **wanted)
        torch.testing.assert_close(found.answer.signed, expected.signed, rtol=1e-4, atol=1e-8)
        assert found.against == list(wanted["against"])
    back = questions.reverse(result)
    assert (back.target, back.against) == (result.against[0], [result.target])
    torch.testing.assert_close(
        back.answer.signed, explain(pixels, target=back.target, against=back.against).signed, rtol=1e-4, atol=1e-8
    )
    for method in ("layercam", "hirescam"):
        switched = questions.switch(result, method)
        torch.testing.assert_close(
            switched.answer.signed, result.answer.ask(method=method).signed, rtol=1e-4, atol=1e-8
        )
    assert runs == []
    unlikely = int(logits.argmin())
    assert questions.ask(result, against=[unlikely]).ran and runs == [1]


def test_the_usual_question_is_that_of_the_library(cnn, pixels, runs):
    explain = FinerCAM(load_model("fieldguide/cnn").model, class_names=cnn.class_names)
    expected = explain(pixels)
    fine = questions.look(cnn, questions.gallery()[5], cnn.usual_method, gamma=cnn.usual_gamma)
    assert fine.method == "fine" and fine.answer.layers == expected.layers and len(expected.layers) > 1
    torch.testing.assert_close(fine.answer.signed, expected.signed, rtol=1e-4, atol=1e-8)
    runs.clear()
    weaker, back = questions.ask(fine, gamma=0.5), questions.reverse(fine)
    assert not weaker.ran and not back.ran and views.plain(fine) and runs == []
    torch.testing.assert_close(weaker.answer.signed, expected.ask(gamma=0.5).signed, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(back.answer.signed, expected.reverse().signed, rtol=1e-4, atol=1e-8)
    other = questions.rivals(fine)[3]
    moved = questions.ask(fine, against=[other])
    assert moved.ran and len(runs) == 1 and "the model ran once" in views.details(moved)
    torch.testing.assert_close(moved.answer.signed, explain(pixels, against=[[other]]).signed, rtol=1e-4, atol=1e-8)


def test_the_preset_and_a_method_answer_the_same_question(cnn, pixels):
    fine = questions.look(cnn, questions.gallery()[5], "fine", "nearest", 2, gamma=0.8)
    plainer = questions.switch(fine, "gradcam")
    assert (plainer.method, plainer.ran, plainer.against) == ("gradcam", True, fine.against)
    expected = FinerCAM(cnn.model, "gradcam")(pixels, against=[fine.against], gamma=0.8)
    assert plainer.answer.layers == expected.layers
    torch.testing.assert_close(plainer.answer.signed, expected.signed, rtol=1e-4, atol=1e-8)
    back = questions.switch(plainer, "fine")
    assert back.method == "fine" and torch.equal(back.answer.signed, fine.answer.signed)
    retargeted = questions.ask(back, target=fine.against[0])  # the strategy is still the one that was chosen
    assert retargeted.against == questions.ask(fine, target=fine.against[0]).against and len(retargeted.against) == 2
    alone = questions.switch(questions.ask(fine, against=[]), "gradcam")
    assert alone.alone and alone.against == []


def test_a_vision_transformer_keeps_two_directions():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=12).eval()
    vit = opened.Opened("vit", model, Preprocess((64, 64)), None)
    fine = questions.look(vit, questions.gallery()[5], "fine", gamma=1.0)
    assert fine.answer.method == "relevance" and fine.answer.seen[0][1].directions.shape[1] == 2


@pytest.mark.parametrize(("strategy", "count"), [("similar", 3), ("nearest", 2), ("all", 1)])
def test_strategies_pick_as_python_s(cnn, result, pixels, strategy, count):
    found = questions.pick(result, strategy, count)
    explain = FinerCAM(cnn.model, "gradcam", references=strategy, num_references=count)
    assert found.against == explain(pixels).references[0].tolist()
    assert found.answer.strategy == strategy
    again = questions.ask(found, target=result.against[0])  # a new target has its rivals picked the same way
    assert again.against == explain(pixels, target=result.against[0]).references[0].tolist()
    with pytest.raises(FinerCAMError, match="expected one of"):
        questions.pick(result, "loudest", 1)


def test_without_a_rival_the_plain_map_is_shown_and_saved(result, tmp_path):
    alone = questions.ask(result, against=[])
    assert alone.against == [] and not alone.ran
    assert torch.equal(alone.shown.signed, result.answer.plain.signed)
    with np.load(files.write_maps(alone, tmp_path), allow_pickle=False) as saved:
        assert saved["gamma"] == 0 and (saved["map"] == saved["plain_map"]).all()
    assert "choose a rival" in views.finer(alone) and "What speaks for" in views.headline(alone)
    with pytest.raises(FinerCAMError, match="no rival"):
        questions.reverse(alone)
    assert questions.ask(alone, against=result.against).answer.signed.equal(result.answer.signed)
    assert questions.ask(alone, gamma=0.9).against == []  # the slider ticks nobody


def test_the_deciding_pixels_of_a_built_in_bird(result):
    birds = Fieldguide(12, seed=4242)
    plain, finer, parts = questions.truth(result)
    mask = torch.from_numpy(birds.contrast_mask(5, result.against[0])).double()
    for share, answer in ((plain, result.answer.plain), (finer, result.answer)):
        maps = answer.maps[0].double()
        assert share == pytest.approx(float((maps * mask).sum() / maps.sum()), abs=1e-5)
    assert parts == ("crest",) and finer > 2 * plain
    assert questions.truth(questions.ask(result, against=questions.rivals(result)[:2])) is None
    assert "crest" in views.details(result)


def test_words_are_classes_of_an_image_text_model(tmp_path, monkeypatch, pixels):
    words = ["red", "crest", "white", "bar", "bird"]
    torch.manual_seed(2)
    model = twotower.TwoTower(words, width=8).eval()
    meta = twotower.TwoTowerMeta(words, 8, Preprocess((128, 128)))
    folder = twotower.save_twotower(model, meta, tmp_path / "words")
    two = opened.open_model(str(folder))
    assert two.by_words and two.usual_method == "value-attention"
    texts = opened.read_texts("red crest, white bar,\n bird, bird ,")
    assert texts == ("red crest", "white bar", "bird")
    result = questions.look(two, questions.gallery()[5], two.usual_method, texts=texts, gamma=1.0)
    assert (result.name(result.target), [result.name(d) for d in result.against]) == ("red crest", ["bird"])
    image = two.preprocess(questions.gallery()[5].image)[None]
    with torch.no_grad():
        expected = two.model(image, two.model.tokenize(texts)).softmax(1)
    torch.testing.assert_close(result.answer.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert not questions.ask(result, target=1, against=[0, 2]).ran
    with pytest.raises(FinerCAMError, match="'purple' is not among the 5"):
        questions.look(two, questions.gallery()[0], "gradcam", texts=("purple crest", "bird"))
    with pytest.raises(FinerCAMError, match="1 different texts"):
        opened.read_texts("bird, bird")
    # it is offered as soon as its weights are there, and only then
    monkeypatch.setattr(twotower, "load_twotower", lambda folder=None: (model, meta))
    assert "twotower" in opened.model_choices()
    monkeypatch.setattr(twotower, "load_twotower", _missing)
    assert "twotower" not in opened.model_choices()


def _missing(folder=None):
    raise FinerCAMError("no weights")


class Read(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_hostile_names_are_text(hostile):
    photo = Picture(Image.new("RGB", (70, 50), "teal"), '<img src=x onerror="alert(1)">.png')
    result = questions.look(hostile, photo, "gradcam", "all", 5)
    page = views.headline(result) + views.plain(result) + views.finer(result) + views.details(result)
    found = Read(page + views.notice("no <b>such</b> file"))
    assert found.tags <= {"p", "span", "h2", "b", "i", "figure", "div", "img", "figcaption"}
    assert found.attributes <= {"class", "id", "alt", "src", "role"}
    assert photo.name in found.text and "no <b>such</b> file" in found.text
    assert views.short(hostile.class_names[result.target]) in found.text
    assert all(len(text) <= 110 for text, _ in views.choices(result))


def test_pictures_are_the_maps_on_the_photo(result):
    for view in VIEWS:
        drawn = np.asarray(picture(result.photo, result.answer, view)).astype(int)
        page = views.finer(result, view)
        sent = views.pixels(page.split('src="')[1].split('"')[0]).astype(int)
        assert sent.shape == drawn.shape and np.abs(sent - drawn).mean() < 2
        changed = np.abs(drawn - result.photo).max(2) > 0
        assert changed.any() == (view != "photo")
    tinted = np.abs(np.asarray(picture(result.photo, result.answer)).astype(int) - result.photo).sum(2)
    rows, columns = np.nonzero(result.answer.maps[0].numpy() > 0.5)
    assert tinted[(rows * 3.5).astype(int), (columns * 3.5).astype(int)].mean() > 2 * tinted.mean() + 50


def test_files_to_take_along(result, tmp_path):
    moved = questions.ask(result, gamma=1.1)
    panel, maps, report = (write(moved, tmp_path) for write in files.KINDS.values())
    with Image.open(panel) as image:
        assert image.format == "PNG" and image.width > 1000
    with np.load(maps, allow_pickle=False) as saved:
        assert np.array_equal(saved["signed"], moved.answer.signed[0].numpy())
        assert float(saved["gamma"]) == 1.1
    assert panel.name == "finercam-Royal_Pippin.png" and report.read_text().count("<script") >= 2


def test_models_that_do_not_exist_are_one_line():
    for name in ("", "fieldguide/no_such_model", "nothing/here"):
        with pytest.raises(FinerCAMError) as error:
            opened.open_model(name)
        assert "\n" not in str(error.value)


def test_local_addresses():
    assert [is_local(h) for h in ("127.0.0.1", "127.3.2.1", "::1", "localhost")] == [True] * 4
    assert [is_local(h) for h in ("0.0.0.0", "::", "192.168.1.4", "localhost.evil.org", "")] == [False] * 5


def test_other_names_and_other_sites_are_refused():
    own, open_ = OwnAddress(None, "127.0.0.1"), OwnAddress(None, "0.0.0.0")
    for host in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"):
        assert own.allows(host, None) and own.allows(host, f"http://{host}")
    for host in (
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "",
        "localhost.evil.org",
        "192.168.1.4",
    ):
        assert not own.allows(host, None)
    for origin in (
        "http://localhost:9000",
        "http://127.0.0.1:7861",
        "null",
        "https://evil.example",
        "http://localhost",
    ):
        assert not own.allows("127.0.0.1:7860", origin)
    assert open_.allows("192.168.1.4:7860", "http://192.168.1.4:7860") and open_.allows("localhost:7860", None)
    assert not open_.allows("evil.example:7860", None) and not open_.allows("192.168.1.4:7860", "http://evil.example")


def test_methods_that_run_the_model_for_each_channel_say_so(result):
    assert "the model ran once ·" not in views.details(result) and "the model ran once" in views.details(result)
    scored = questions.switch(result, "scorecam")
    assert scored.ran and "once for each channel" in views.details(scored)
    assert "Score-CAM at" in views.details(scored)
    assert questions.switch(scored, "scorecam") is scored  # what is shown already is not computed again


def test_the_certificate_belongs_to_one_question(result, tmp_path):
    checked = questions.verify(result)
    line = str(result.answer.verify())
    assert f"Checked: {line}." in views.details(checked) and "Checked" not in views.details(result)
    for other in (
        questions.ask(checked, gamma=0.9),
        questions.switch(checked, "layercam"),
        questions.reverse(checked),
    ):
        assert other.certificate is None and "Checked" not in views.details(other)
    alone = questions.ask(checked, against=[])
    assert "Checked" not in views.details(alone)
    with pytest.raises(FinerCAMError, match="no margin to check"):
        questions.verify(alone)
    assert line in files.write_report(checked, tmp_path).read_text()


def test_a_weak_map_says_so_in_the_app(result):
    unlikely = [
        questions.ask(result, target=d, against=[result.target], gamma=1.0) for d in range(0, result.classes, 5)
    ]
    weak = next(one for one in unlikely if strength_of(one.answer).weak and strength_of(one.answer).positive > 0)
    page = views.finer(weak)
    assert "no evidence that tells them apart here" in page and "peak of a clear map" in page
    assert "evidence: " in views.finer(result) and "no evidence that tells" not in views.finer(result)


def test_the_first_picture_is_one_that_the_model_knows(cnn, hostile):
    painted = questions.gallery()
    first, known = questions.first_picture(cnn, painted)
    assert known and first.name in cnn.class_names
    first, known = questions.first_picture(hostile, painted)
    assert not known and first in painted
    own = Picture(Image.new("RGB", (60, 60)), "mine.jpg")
    assert questions.first_picture(hostile, [own, *painted]) == (own, True)


def test_names_are_those_of_the_panel(tmp_path):
    torch.manual_seed(1)
    names = ["Passerina caerulea (Blue Grosbeak)", "Passerina cyanea (Indigo Bunting)", "Sitta pusilla"]
    architecture = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 3}}
    save_directory(
        tmp_path / "m", PatchCNN(3), architecture=architecture, class_names=names, preprocess=Preprocess((64, 64))
    )
    result = questions.look(opened.open_model(str(tmp_path / "m")), questions.gallery()[0], "gradcam")
    assert [result.name(k) for k in range(3)] == ["Blue Grosbeak", "Indigo Bunting", "Sitta pusilla"]
