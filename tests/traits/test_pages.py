"""Trait pages end to end on a tiny model: safe, offline, complete, and continued after any stop."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

from finercam.errors import FinerCAMError
from finercam.traits import make_pages
from finercam.traits.album import open_album

OPTIONS = {"photos": 4, "removed": 2}


class Page(HTMLParser):
    """The tags, the addresses and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.fixture(scope="module")
def made(tmp_path_factory, hostile, photo_list):
    folder = tmp_path_factory.mktemp("pages")
    data = photo_list(folder / "photos")
    (folder / "photos" / "0-1 <i>.png").write_bytes(b"no picture")
    outcome = make_pages(data, hostile, folder / "out", nearest=1, **OPTIONS)
    return folder, data, outcome


def test_hostile_names_are_text_in_pages_and_never_a_path(made):
    folder, _, outcome = made
    assert outcome.pages == outcome.written > 2
    files = [file.relative_to(folder / "out").as_posix() for file in (folder / "out").rglob("*") if file.is_file()]
    assert all(re.fullmatch(r"\.lock|[a-z]+\.(html|json|csv)|sights/(\.made|\d{6}\.safetensors)|pairs/\d{6}-\d{6}\.(html|json)", f) for f in files), files  # fmt: skip
    for page in [outcome.index, *(folder / "out" / "pairs").glob("*.html")]:
        html = page.read_text(encoding="utf-8")
        read = Page(html)
        assert "<script>alert" not in html and "\x1b" not in html and "\u202e" not in html
        assert read.tags.count("script") == html.count("</script>") <= 2 and "i" not in read.tags
        remote = [link for link in read.links if not re.match(r"data:image/jpeg;base64,|[./\w-]+$", link)]
        assert remote == []


def test_page_json_and_table_have_the_same_numbers(made):
    folder, _, _ = made
    with (folder / "out" / "traits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pages = [json.loads(file.read_text()) for file in sorted((folder / "out" / "pairs").glob("*.json"))]
    assert len(rows) == sum(len(page["traits"]) for page in pages) > 0
    for row in rows:
        page = json.loads((folder / "out" / row["page"]).with_suffix(".json").read_text())
        trait = page["traits"][int(row["trait"]) - 1]
        assert float(row["share"]) == trait["share"] and float(row["drop"]) == trait["drop"]
        html = (folder / "out" / row["page"]).read_text(encoding="utf-8")
        assert f"{trait['class']['photos']} of {trait['class']['of']}" in html
        assert f"{100 * trait['share']:.0f} % of all evidence" in html
    assert not [row for row in rows if row["class"][:1] == "="]


def test_a_broken_photo_is_listed_and_the_others_are_used(made):
    folder, _, outcome = made
    assert list(outcome.problems) == ["0-1 <i>.png"]
    assert "no known picture format" in outcome.problems["0-1 <i>.png"]
    assert "0-1 &lt;i&gt;.png" in outcome.index.read_text(encoding="utf-8")
    of_first = [json.loads(file.read_text()) for file in (folder / "out" / "pairs").glob("*000000*.json")]
    assert {page["class" if page["class"]["id"] == 0 else "rival"]["photos"] for page in of_first} == {3}


def test_the_same_call_makes_nothing_again_and_a_changed_photo_only_its_own_pages(tmp_path, hostile, photo_list):
    data, out = photo_list(tmp_path / "photos", 3, classes=4), tmp_path / "out"
    first = make_pages(data, hostile, out, nearest=1, **OPTIONS)
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("0*.*")}
    again = make_pages(data, hostile, out, nearest=1, **OPTIONS)
    assert again.written == 0 and again.pages == first.pages
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    picture = tmp_path / "photos" / "3-0 <i>.png"
    picture.write_bytes((tmp_path / "photos" / "0-0 <i>.png").read_bytes())
    changed = make_pages(data, hostile, out, nearest=1, **OPTIONS)
    assert changed.written == len(list((out / "pairs").glob("*000003*.html"))) < first.pages


def test_other_settings_are_refused_and_a_further_pair_joins_the_index(tmp_path, hostile, photo_list):
    data, out = photo_list(tmp_path / "photos", 3, classes=3), tmp_path / "out"
    make_pages(data, hostile, out, classes=(0, 1), **OPTIONS)
    both = make_pages(data, hostile, out, classes=(1, 2), **OPTIONS)
    assert both.written >= 1 and len(json.loads((out / "index.json").read_text())["pairs"]) == 2
    with pytest.raises(FinerCAMError, match="other photos; choose another --out, or pass --redo"):
        make_pages(data, hostile, out, classes=(0, 1), photos=2, removed=2)
    replaced = make_pages(data, hostile, out, classes=(0, 1), photos=2, removed=2, redo=True)
    assert replaced.written == 1


def test_a_pair_without_enough_photos_has_a_reason_and_the_others_have_pages(tmp_path, hostile, photo_list):
    data = photo_list(tmp_path / "photos", 2, classes=3)
    (tmp_path / "photos" / "2-0 <i>.png").write_bytes(b"")
    outcome = make_pages(data, hostile, tmp_path / "out", nearest=2, **OPTIONS)
    assert outcome.pages == 1 and len(outcome.failed) == 2
    assert all("has 1 usable photos" in why for why in outcome.failed.values())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"classes": (0, 0)}, "named twice"),
        ({"classes": (0, 5)}, "no photo there is labelled"),
        ({"by": "rows"}, "expected one of head, confusion"),
        ({"photo": 3}, "no such option. Did you mean 'photos'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(tmp_path, hostile, photo_list, given, why):
    data = photo_list(tmp_path / "photos", 1, classes=2)
    with pytest.raises(FinerCAMError, match=re.escape(why)):
        make_pages(data, hostile, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_photos_without_a_known_label_are_refused(tmp_path, hostile, photo_list):
    data = photo_list(tmp_path / "photos", 1, classes=2)
    data.write_text(data.read_text().replace(",0", ",wren").replace(",1", ",robin"))
    with pytest.raises(FinerCAMError, match="class 'robin' is not among the 6 classes of the model"):
        open_album(data, hostile.class_names, 6, 4)


def test_a_run_gives_its_maps_and_the_same_traits(tmp_path, hostile, photo_list):
    from finercam.run import explain_dataset

    data = photo_list(tmp_path / "photos", 4, classes=2)
    explain_dataset(data, hostile, tmp_path / "run", preset="fine", target="label", keep=2, batch=4)
    made_now = make_pages(data, hostile, tmp_path / "now", classes=(0, 1), **OPTIONS)
    of_run = make_pages(tmp_path / "run", hostile, tmp_path / "of_run", classes=(0, 1), **OPTIONS)
    for one, other in zip(*(_traits(outcome.index) for outcome in (made_now, of_run)), strict=True):
        assert one["share"] == pytest.approx(other["share"], abs=0.02)
        assert one["class"]["photos"] == other["class"]["photos"]


def _traits(index):
    return json.loads(next((index.parent / "pairs").glob("*.json")).read_text())["traits"]


@pytest.mark.slow
@pytest.mark.system
def test_a_killed_guide_continues_and_repeats_nothing(tmp_path, saved_tiny, photo_list):
    data, out = photo_list(tmp_path / "photos", 12), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "finercam.cli",
        "guide",
        str(data),
        "--model",
        str(saved_tiny),
        "--out",
        str(out),
    ]
    command += ["--photos", "12", "--removed", "4"]
    first = subprocess.Popen(command)
    while first.poll() is None and not list((out / "sights").glob("*.safetensors")):
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = {file: file.stat().st_mtime_ns for file in (out / "sights").glob("*.safetensors")}
    assert finished and not (out / "index.html").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pages" in done.stdout and (out / "index.html").exists()
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert not list(out.rglob(".writing-*"))


@pytest.mark.slow
@pytest.mark.system
def test_ray_workers_collect_the_same_evidence(tmp_path, saved_tiny, photo_list):
    from finercam.models import load_model
    from finercam.run import Cluster

    data, model = photo_list(tmp_path / "photos", 3, classes=3), load_model(str(saved_tiny))
    for out, cluster in (("here", None), ("ray", Cluster(workers=1))):
        options = {"model_string": str(saved_tiny), "cluster": cluster, **OPTIONS}
        make_pages(data, model, tmp_path / out, nearest=1, **options)
    pages = sorted(file.name for file in (tmp_path / "here" / "pairs").glob("*.json"))
    assert pages
    for name in pages:
        one, other = (json.loads((tmp_path / out / "pairs" / name).read_text()) for out in ("here", "ray"))
        assert one == other
