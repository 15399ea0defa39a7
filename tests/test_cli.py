"""The command line: what it writes and prints, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from finercam import FinerCAM, methods
from finercam.cli import app, main
from finercam.commands.pictures import find_pictures
from finercam.images import Preprocess, read_image
from finercam.models import load_model, save_directory
from finercam.models.architectures import build_architecture

NAMES = ["wren", "<b>[red]robin[/]</b>", "finch\x1b[31m"]
ARCHITECTURE = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 3}}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "three"
    prepare = Preprocess((32, 32))
    return str(
        save_directory(
            folder, build_architecture(ARCHITECTURE), architecture=ARCHITECTURE, class_names=NAMES, preprocess=prepare
        )
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, size in (("a.png", (40, 32)), ("sub/a.PNG", (32, 32)), ("b.jpg", (64, 40))):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "c.png").write_bytes(b"")
    return folder


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def index(out: Path) -> list[dict]:
    return json.loads((out / "explanations.json").read_text())["explanations"]


class TestExplain:
    @pytest.mark.slow
    def test_html_writes_one_page_that_offers_other_rivals(self, model, photos, tmp_path):
        page = tmp_path / "page.html"
        result = run("explain", photos, "--model", model, "--out", tmp_path / "out", "--html", page)
        assert str(page) in result.stdout.replace("\n", "")
        text = page.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in text and text.count("data:image/") >= 2

    @pytest.mark.slow
    def test_a_folder_of_examples_shows_the_rival_in_panel_and_page(self, model, photos, tmp_path):
        options = ["explain", photos / "b.jpg", "--model", model]
        assert run(*options, "--out", tmp_path / "without").exit_code == 0
        rival = index(tmp_path / "without")[0]["references"][0]
        (tmp_path / "examples").mkdir()
        Image.new("RGB", (30, 30), (9, 200, 9)).save(tmp_path / "examples" / f"{rival['name']}.png")
        page = tmp_path / "page.html"
        asked = [*options, "--out", tmp_path / "with", "--examples", tmp_path / "examples", "--html", page]
        result = run(*asked)
        assert result.exit_code == 0, (result.output, result.exception)
        panels = [Image.open(tmp_path / name / "b.png") for name in ("without", "with")]
        assert panels[1].width > panels[0].width and page.read_text().count("data:image/") == 5
        entry = index(tmp_path / "with")[0]
        assert (tmp_path / "with" / entry["files"]["beside"]).exists() and entry["beside"]["rival"] == rival["name"]
        assert (9, 200, 9) in {color for _, color in panels[1].convert("RGB").getcolors(1 << 24)}
        refused = run(*asked[:-4], "--examples", tmp_path / "nowhere")
        assert refused.exit_code == 2 and "nowhere" in refused.stderr

    def test_a_group_of_classes_counts_as_one(self, model, photos, tmp_path):
        table = tmp_path / "families.csv"
        table.write_text("class,family\n0,grey\n1,grey\n2,black\n")
        options = ["explain", photos / "b.jpg", "--model", model, "--against", "2"]
        assert run(*options, "--target", "0|1", "--out", tmp_path / "set").exit_code == 0
        named = run(*options, "--target", "Grey", "--groups", table, "--out", tmp_path / "named")
        assert named.exit_code == 0, named.output
        first, second = (index(tmp_path / name)[0] for name in ("set", "named"))
        assert first["target"]["classes"] == [0, 1] and second["target"]["name"] == "grey"
        assert first["target"]["probability"] == second["target"]["probability"]
        refused = run(*options, "--target", "0|1", "--out", tmp_path / "x", "--html", tmp_path / "x.html")
        assert refused.exit_code == 2 and "single classes" in refused.stderr

    @pytest.mark.slow
    def test_a_folder_with_a_broken_picture_reports_it_and_explains_the_rest(self, model, photos, tmp_path):
        done = run("explain", photos, "--model", model, "--out", tmp_path)
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1 and "broken.jpg" in done.stderr and "Traceback" not in done.output
        entries = index(tmp_path)
        assert [Path(entry["source"]).name for entry in entries] == ["a.png", "b.jpg", "a.PNG"]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["explanations.json", *(f"{stem}.{kind}" for stem in ("a", "b", "a-2") for kind in ("npz", "png"))]
        )
        assert "3 explained" in done.stdout

    def test_the_files_hold_what_the_library_answers(self, model, photos, tmp_path):
        options = ["--gamma", 0.9, "--method", "layercam", "--num-references", 1, "--references", "predicted"]
        assert run("explain", photos / "b.jpg", "--model", model, "--out", tmp_path, *options).exit_code == 0
        loaded = load_model(model)
        explain = FinerCAM(
            loaded.model,
            "layercam",
            gamma=0.9,
            references="predicted",
            num_references=1,
            class_names=loaded.class_names,
        )
        expected = explain(loaded.preprocess(read_image(photos / "b.jpg"))[None])
        entry = index(tmp_path)[0]
        with np.load(tmp_path / entry["files"]["maps"], allow_pickle=False) as maps:
            assert np.allclose(maps["signed"], expected.signed[0].numpy(), atol=1e-6)
        assert entry["target"]["id"] == int(expected.target[0])
        assert [d["id"] for d in entry["references"]] == expected.references[0].tolist()
        assert (entry["method"], entry["gamma"], entry["strategy"]) == ("layercam", 0.9, "predicted")

    def test_against_names_is_the_pairwise_question(self, model, photos, tmp_path):
        asked = ["--target", "WREN", "--against", NAMES[1], "--against", "2"]
        assert run("explain", photos / "a.png", "-m", model, "-o", tmp_path, *asked).exit_code == 0
        entry = index(tmp_path)[0]
        assert (entry["target"]["id"], [d["id"] for d in entry["references"]]) == (0, [1, 2])
        assert entry["strategy"] == "explicit"

    def test_verify_prints_what_the_margin_becomes(self, model, photos, tmp_path):
        page = tmp_path / "page.html"
        done = run("explain", photos / "a.png", "-m", model, "-o", tmp_path, "--verify", "--html", page)
        assert done.exit_code == 0
        assert '"checked": "without the lit 5% the margin falls from' in page.read_text().replace('":"', '": "')
        assert "a.png: without the lit 5% the margin falls from" in " ".join(done.stdout.split())

    def test_as_many_rivals_as_photos_are_rivals_of_each_photo(self, model, photos, tmp_path):
        """The rivals of a command are for every photo, also where a batch has as many photos as rivals."""
        files = [photos / "a.png", photos / "b.jpg"]
        done = run("explain", *files, "-m", model, "-o", tmp_path, "--target", "WREN", "--against", 1, "--against", 2)
        assert done.exit_code == 0, done.output
        assert [[d["id"] for d in entry["references"]] for entry in index(tmp_path)] == [[1, 2], [1, 2]]
        predicted = run(
            "explain", *files, "-m", model, "-o", tmp_path / "p", "--against", NAMES[1], "--against", NAMES[2]
        )
        assert "can mean two things" not in predicted.output

    def test_size_gives_finer_maps(self, model, photos, tmp_path):
        for size in (32, 64):
            assert (
                run(
                    "explain", photos / "a.png", "-m", model, "-o", tmp_path, "--size", size, "--preset", "fast"
                ).exit_code
                == 0
            )
            assert index(tmp_path)[0]["map_size"] == [size // 4, size // 4]

    def test_layers_fusion_and_smoothing_reach_the_explainer(self, model, photos, tmp_path):
        options = ["--layer", "features.4", "--layer", "features", "--fusion", "product", "--smooth", "flip"]
        done = run("explain", photos / "a.png", "-m", model, "-o", tmp_path, *options)
        assert done.exit_code == 0, done.output
        assert (index(tmp_path)[0]["layers"], index(tmp_path)[0]["fusion"]) == (["features.4", "features"], "product")

    def test_hostile_names_are_printed_as_text(self, model, photos, tmp_path):
        done = run("explain", photos / "a.png", "-m", model, "-o", tmp_path, "--top", 3)
        assert "\x1b" not in done.output
        assert NAMES[1] in done.stdout and "finch<U+001B>[31m" in done.stdout
        assert done.stdout.count("%") == 3

    def test_a_batch_whose_one_image_is_refused_keeps_the_others(self, model, photos, tmp_path):
        loaded = load_model(model)
        predicted = {
            name: int(loaded.model(loaded.preprocess(read_image(photos / name))[None]).argmax())
            for name in ("a.png", "b.jpg")
        }
        # a target that one image has for its own reference, per prediction, is refused for that image alone
        against = predicted["a.png"]
        done = run("explain", photos / "a.png", photos / "b.jpg", "-m", model, "-o", tmp_path, "--against", against)
        refused = [name for name, best in predicted.items() if best == against]
        assert done.exit_code == (2 if len(refused) == 2 else 1)
        assert "its own references" in done.stderr and "Traceback" not in done.output

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--model", "three/nothing"], "three/nothing"),
            (["--target", "wran"], "wren"),
            (["--against", "7"], "expected a class id in 0…2"),
            (["--method", "gradcan"], "gradcam"),
            (["--layer", "featurs"], "featurs"),
            (["--gamma", "-1"], "gamma"),
            (["--gamma", "much"], "--gamma"),
            (["--references", "similiar"], "similar"),
            (["--weights", "meen"], "mean"),
            (["--smooth", "rotate"], "flip"),
            (["--device", "toaster"], "toaster"),
            (["--bogus"], "--bogus"),
            (["--target", "wren", "--against", "wren"], "its own references"),
        ],
    )
    def test_misuse_is_one_line_and_status_2(self, model, photos, tmp_path, arguments, said):
        done = run("explain", photos / "a.png", "--model", model, "--out", tmp_path / "out", *arguments)
        assert done.exit_code == 2
        assert said in done.stderr and done.stderr.startswith("finercam: ")
        assert done.stderr.count("\n") == 1 and done.stdout == ""
        assert not (tmp_path / "out").exists()

    def test_no_picture_at_all(self, model, tmp_path):
        done = run("explain", tmp_path / "none*.png", "-m", model, "-o", tmp_path / "out")
        assert done.exit_code == 2 and "matches no file" in done.stderr
        done = run("explain", tmp_path / "gone.png", "-m", model, "-o", tmp_path / "out")
        assert done.exit_code == 1 and "does not exist" in done.stderr


class TestLists:
    def test_methods_are_all_there_with_what_they_do(self):
        out = run("methods").stdout
        for name in methods.names():
            assert name in out and methods.get(name).summary[:30] in out

    def test_models_tells_every_form(self):
        out = run("models").stdout
        assert all(form in out for form in ("timm/", "torchvision/", "hf/", "open_clip/", "FOLDER"))


class TestMain:
    def test_it_ends_with_the_status_and_one_line(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["explian"])
        assert ended.value.code == 2
        assert "explain" in capsys.readouterr().err

    def test_no_arguments_give_the_help(self):
        done = run()
        assert done.exit_code == 0 and "explain" in done.stdout and done.stderr == ""

    @pytest.mark.slow
    def test_help_needs_no_torch(self):
        code = (
            "import sys\nfrom finercam.cli import main\n"
            "try: main(['explain', '--help'])\n"
            "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules or 'matplotlib' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "--num-references" in done.stdout

    def test_version(self):
        from finercam import __version__

        assert run("--version").stdout.strip() == f"finercam {__version__}"


class TestPictures:
    def test_folders_patterns_and_files_each_once(self, photos):
        found, complaints = find_pictures([str(photos), str(photos / "*.jpg"), str(photos / "notes.txt")])
        names = [str(path.relative_to(photos)) for path in found]
        assert names == ["a.png", "b.jpg", "broken.jpg", "sub/a.PNG", "notes.txt"]
        assert complaints == []

    def test_a_file_named_like_a_pattern_is_itself(self, tmp_path):
        (tmp_path / "bird[1].png").write_bytes(b"x")
        assert find_pictures([str(tmp_path / "bird[1].png")])[0] == [tmp_path / "bird[1].png"]

    def test_an_empty_folder_is_told(self, tmp_path):
        assert find_pictures([str(tmp_path)])[1] == [f"{tmp_path} is a folder without pictures"]


@pytest.mark.slow
def test_explain_by_a_gallery_says_similarities(photos, tmp_path):
    for name, colour in (("Ada", (200, 30, 30)), ("Ben", (30, 30, 200))):
        (tmp_path / "gallery" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "gallery" / name / "a.png")
    options = ["explain", photos / "b.jpg", "--model", "fieldguide/cnn", "--gallery", tmp_path / "gallery"]
    done = run(*options, "--target", "Ada", "--against", "Ben", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    entry = index(tmp_path / "out")[0]
    assert entry["link"] == "none" and entry["target"]["name"] == "Ada" and -1 <= entry["target"]["probability"] <= 1
    assert "similarity" in done.stdout and "%" not in done.stdout
