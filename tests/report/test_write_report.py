"""The written file: whole or not at all, nothing from outside, and hostile names only as text."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from finercam import FinerCAMError
from finercam.images import Preprocess
from finercam.report import write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"quotes\" & 'apostrophes' &amp; {{ braces }} {% raw %}",
    "🐦 chickadee 👩‍🔬",
    "عصفور أزرق",
    "x" * 300,
    "line\nbreak\tand \u2028 \u202e backwards",
    "undecodable \udcff byte",
    "]]> --> <!-- <style>*{display:none}</style>",
]


def blocks(file):
    text = file.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(content) for name, content in found}


def test_a_checked_answer_carries_its_certificate(explain, images, tmp_path):
    checked, bare = explain()(images[:2]).verify(), explain()(images[2:])
    found = blocks(write_report([checked, bare], tmp_path / "r.html"))
    assert [found[f"page-{n}"]["checked"] for n in range(3)] == [*checked.lines, None]
    pages = blocks(write_report(checked, tmp_path / "one.html"))
    assert pages["page-1"]["checked"] == checked.lines[1] and len(pages["index"]["images"]) == 2


def test_pages_and_table_hold_what_was_asked(explain, images, tmp_path):
    explainer = explain(keep=10)
    answers = [explainer(images[:2], target=[4, 5]), explainer(images[2:], target="bird 6", against=[1])]
    file = write_report(answers, tmp_path / "deep" / "r.html", names=["a", "b", "c"], labels=[4, "bird 9", None])
    found = blocks(file)
    assert set(found) == {"page-0", "page-1", "page-2", "index"}
    rows = found["index"]["images"]
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert [row["target"] for row in rows] == ["bird 4", "bird 5", "bird 6"] and rows[2]["rivals"] == ["bird 1"]
    predicted = answers[0].logits.argmax(1).tolist()
    assert [row["wrong"] for row in rows] == [predicted[0] != 4, predicted[1] != 9, None]
    assert rows[1]["probability"] == pytest.approx(float(answers[0].probabilities[1, 5]), abs=1e-6)
    assert found["page-2"]["photo"].startswith("data:image/jpeg;base64,")
    for page in (found[f"page-{i}"] for i in range(3)):
        assert len(json.dumps(page)) - len(page["photo"]) < 150_000


def test_photo_is_the_model_s_view(explain, images, tmp_path):
    prepare = Preprocess((60, 84), mode="squash", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    ramp = np.linspace(0, 255, 60 * 84 * 3).reshape(60, 84, 3).astype(np.uint8)
    answer = explain()(prepare(Image.fromarray(ramp))[None])
    for more in ({}, {"images": [Image.fromarray(ramp)]}):
        found = blocks(write_report(answer, tmp_path / "r.html", preprocess=prepare, **more))
        shown = Image.open(_bytes(found["page-0"]["photo"]))
        assert shown.size == (84, 60)
        assert np.abs(np.asarray(shown).astype(int) - ramp).mean() < 4  # a JPEG


def test_nothing_is_let_in_and_hashes_fit(explain, images, tmp_path):
    text = write_report(explain()(images[:1]), tmp_path / "r.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert not re.search(r"https?://|@import|url\(", text)


def test_hostile_names_cannot_leave_their_place(explain, images, tmp_path):
    names = (HOSTILE * 2)[:14]
    names = [f"{name} {i}" for i, name in enumerate(names)]
    answer = explain(class_names=names, keep=14)(images, target=0)
    file = write_report(
        answer, tmp_path / 'a"<b>.html', names=HOSTILE[:3], title=HOSTILE[1], labels=[names[1], None, None], rivals=13
    )
    text = file.read_text(encoding="utf-8")
    assert text.count("</script>") == 5  # three pages, the index and the program: none is of a name
    assert "<img src=x" not in text and "<!--" not in text.split("<script>")[0]
    found = blocks(file)
    shown = {entry["name"] for entry in found["page-0"]["classes"]}
    expected = {" ".join(name.split()).replace("\u202e", "<U+202E>").replace("\udcff", "<U+DCFF>") for name in names}
    assert shown == expected
    assert "&lt;/script&gt;&lt;img" in text.split("<style>")[0]


def test_examples_from_a_mapping_and_from_a_folder(explain, images, tmp_path):
    red, blue = Image.new("RGB", (300, 200), "red"), Image.new("RGB", (300, 200), "blue")
    folder = tmp_path / "examples"
    (folder / "bird 1").mkdir(parents=True)
    blue.save(folder / "bird 1" / "one.png")
    red.save(folder / "2.png")
    (folder / "bird 1" / "a.txt").write_text("not a picture")
    answer = explain(keep=10)(images[:1], target=0, against=[1, 2])
    given = blocks(write_report(answer, tmp_path / "m.html", examples={"bird 1": blue, 2: red}))["index"]["examples"]
    found = blocks(write_report(answer, tmp_path / "f.html", examples=folder))["index"]["examples"]
    assert set(found) == set(given) == {"bird 1", "bird 2"}
    assert Image.open(_bytes(found["bird 1"])).getpixel((5, 5))[2] > 200


def test_pictures_of_other_kinds(explain, tmp_path):
    answer = explain(keep_images=False)(torch.rand(1, 3, 60, 84))
    assert blocks(write_report(answer, tmp_path / "none.html"))["page-0"]["photo"] is None
    Image.new("L", (20, 30), 77).save(tmp_path / "grey.png")
    for picture in (tmp_path / "grey.png", np.full((9, 9, 3), 77, np.uint8), torch.full((1, 60, 84), 0.3)):
        photo = blocks(write_report(answer, tmp_path / "r.html", images=[picture]))["page-0"]["photo"]
        assert Image.open(_bytes(photo)).size == (84, 60)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"names": ["only one"]}, "1 names for 3"),
        ({"labels": [1, 2, 3, 4]}, "4 labels for 3"),
        ({"labels": ["no such bird", None, None]}, "label 'no such bird'"),
        ({"images": [object()] * 3}, "object given as a picture"),
        ({"rivals": 0}, "rivals=0"),
        ({"methods": ["layercan"]}, "layercam"),
        ({"examples": "no-such-folder"}, "no folder of example"),
    ],
)
def test_errors_say_what_to_do_and_leave_no_file(explain, images, tmp_path, more, said):
    file = tmp_path / "r.html"
    file.write_text("the report of yesterday")
    with pytest.raises(FinerCAMError, match=said):
        write_report(explain()(images), file, **more)
    assert file.read_text() == "the report of yesterday" and list(tmp_path.iterdir()) == [file]


def test_nothing_to_write(explain, images, tmp_path):
    with pytest.raises(FinerCAMError, match="at least one image"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(FinerCAMError, match="expected an Explanation"):
        write_report([explain()(images).maps], tmp_path / "r.html")  # pyright: ignore[reportArgumentType]
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(FinerCAMError, match="cannot be written"):
        write_report(explain()(images), tmp_path / "folder" / "r.html")


def _bytes(uri):
    from io import BytesIO

    return BytesIO(base64.b64decode(uri.split(",", 1)[1]))
