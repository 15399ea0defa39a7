"""Every reader through `finercam evaluate`, on its fixture tree, to its rows of the paper's table.

Each tree's annotated regions are painted white on black, and the model's evidence is brightness: the maps lie on the
regions if, and only if, boxes and masks undergo what the pictures undergo. Their shares of the pictures are by hand.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from finercam.cli import app
from finercam.data import open_dataset
from finercam.images import Preprocess
from finercam.models import save_directory
from finercam.models.architectures import build_architecture

METHODS = ["gradcam", "layercam", "scorecam"]


def paint(path, size, *regions):
    """Write a picture, `size` (width, height), black but for its regions (x0, y0, x1, y1)."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x0, y0, x1, y1 in regions:
        pixels[y0:y1, x0:x1] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")  # whatever the name: the content decides


@pytest.fixture
def folder_tree(tmp_path):
    """Two classes; a box for one picture, a mask for another, part masks beside it."""
    root = tmp_path / "mine"
    for name in ("wren/a", "wren/b", "robin/c"):
        paint(root / f"{name}.png", (60, 40), (20, 10, 50, 30))
    (root / "boxes.csv").write_text("path,x0,y0,x1,y1\nwren/a.png,20,10,50,30\n")
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 1
    for place in ("masks/robin/c.png", "masks/robin/c/tail.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / place)
    return root


@pytest.fixture
def list_tree(folder_tree):
    rows = ["wren/a.png,wren,20,10,50,30", "robin/c.png,robin,20,10,50,30", "wren/b.png,,0,0,60,40"]
    (folder_tree / "list.csv").write_text("\n".join(["path,label,x0,y0,x1,y1", *rows]) + "\n")
    return folder_tree / "list.csv"


@pytest.fixture
def cars_by_class_tree(tmp_path):
    for split in ("train", "test"):
        for name in ("Ram C V 2012", "smart fortwo 2012"):
            paint(tmp_path / "cars" / split / name / "000001.jpg", (60, 40), (0, 0, 60, 40))
    return tmp_path / "cars"


def brightness(folder, classes):
    """A model folder whose first channel is brightness, which speaks for every class, a little more for some."""
    architecture = {
        "library": "builtin",
        "name": "cnn",
        "kwargs": {"num_classes": len(classes), "widths": [4, 4, 4, 4]},
    }
    model = build_architecture(architecture)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for conv in model.features[::2]:
            middle = conv.kernel_size[0] // 2
            conv.weight[0, :, middle, middle] = 1 / 3 if conv.in_channels == 3 else torch.eye(4)[0]
            conv.weight[1:, :, middle, middle] = 0.02 * torch.rand(3, conv.in_channels, generator=random)
        model.head.weight[:, 0] = 4 + torch.rand(len(classes), generator=random)
        model.head.weight[:, 1:] = torch.rand(len(classes), 3, generator=random)
    prepare = Preprocess(mode="native", max_side=64, multiple=4, mean=(0, 0, 0), std=(1, 1, 1))
    return save_directory(folder, model, architecture=architecture, class_names=classes, preprocess=prepare)


def evaluated(data, tmp_path, *options):
    """`finercam evaluate DATA` with the paper's methods and metrics: paper.csv's rows and summary.json."""
    model, out = brightness(tmp_path / "model", open_dataset(data).classes), tmp_path / "out"
    command = ["evaluate", data, "--model", model, "--out", out, "--methods", ",".join(METHODS), "--metrics", "paper"]
    command += ["--contrasts", "paper", "--steps", 4, *options]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    with (out / "paper.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return rows, json.loads((out / "summary.json").read_text(encoding="utf-8")), (out / "paper.md").read_text("utf-8")


# Regions to paint by file under the tree; what Loc is measured in; the regions' mean share of the pictures.
CUB = {
    "images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg": [(10, 5, 40, 25)],
    "images/002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg": [(50, 30, 60, 40)],
}
CARS = {"00001": [(0, 0, 60, 40)], "00002": [(10, 5, 30, 20)], "00003": [(39, 29, 60, 40)]}
# the banner is cut off: 60 x 60 become 60 x 40, and the third box lay in it
PLANES = {"1025794": [(2, 3, 50, 55)], "1340192": [(0, 0, 60, 60)], "0056978": [(4, 40, 60, 60)]}
TRAITS = [(5, 10, 15, 20), (20, 2, 40, 8)]
CASES = {
    "cub": ("cub_tree", CUB, "energy in box", (600 + 100) / 4800),
    "cars": ("cars_tree", {f"cars_test/{n}.jpg": r for n, r in CARS.items()}, "energy in box", 2931 / 7200),
    "aircraft": (
        "aircraft_tree",
        {f"data/images/{number}.jpg": region for number, region in PLANES.items()},
        "energy in box",
        (48 * 37 + 2400) / 4800,
    ),
    "fishvista?task=segmentation": (
        "fishvista_tree",
        {"Images/chunk_1/a1#0.jpg": TRAITS, "Images/chunk_6/b2#1.jpg": TRAITS},
        "energy",
        220 / 2400,
    ),
    "fishvista": ("fishvista_tree", {"Images/chunk_1/a1#0.jpg": TRAITS}, "energy", 220 / 2400),
    "pets": (
        "pets_tree",
        {f"images/{s}.jpg": [(10, 8, 50, 32)] for s in ("Abyssinian_100", "american_bulldog_12", "Abyssinian_101")},
        "energy in box",
        0.4,
    ),
    "funnybirds": (
        "funnybirds_tree",
        {f"test/{i}/{i:06d}.png": [(10, 10, 50, 40)] for i in range(3)},
        "energy in box",
        1200 / 4096,
    ),
    "folder": ("folder_tree", {}, "energy in box", 0.25),
    "list": ("list_tree", {}, "energy in box", 0.25),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_reader_writes_its_rows_with_maps_on_the_annotated_regions(kind, request, tmp_path):
    tree, regions, measure, share = CASES[kind]
    root = request.getfixturevalue(tree)
    for file, painted in regions.items():
        with Image.open(root / file) as before:
            size = before.size
        paint(root / file, size, *painted)
    word, _, query = kind.partition("?")
    rows, summary, page = evaluated(f"{word}:{root}" + (f"?{query}" if query else ""), tmp_path)
    assert [(row["method"], row["contrast"]) for row in rows] == [(method, "paper") for method in METHODS]
    chance = [line["mean"] for line in summary["lines"] if (line["method"], line["metric"]) == ("chance", measure)]
    assert chance == [pytest.approx(share, abs=1e-6)]
    for row in rows:
        assert row["dataset"] == summary["settings"]["dataset"]
        assert row["Loc measure"] == measure
        for column in ("Del", "RD@5", "RD@10"):
            assert np.isfinite([float(row[f"{column} {side}"]) for side in ("plain", "finer", "difference")]).all()
        # evidence is brightness on a grid of 4 pixels: what is outside is the blur of one cell at the edges
        for side in ("plain", "finer"):
            assert float(row[f"Loc {side}"]) > share + 0.6 * (1 - share)
    assert page.count(f"| {rows[0]['dataset']} |") == 3 and "Score-CAM" in page
    assert summary["setting"] in page


@pytest.mark.parametrize("kind", ["birds525", "cars", "funnybirds without part maps"])
def test_a_dataset_without_regions_says_so_in_its_rows(kind, request, tmp_path):
    """The other metrics are computed; an explicit request for localisation is refused before any work."""
    word = kind.split()[0]
    root = request.getfixturevalue({"cars": "cars_by_class_tree"}.get(word, f"{word}_tree"))
    if word == "funnybirds":
        for split in ("train", "test"):
            (root / f"{split}_part_map").rename(root / f"unused_{split}")
    rows, summary, page = evaluated(f"{word}:{root}", tmp_path)
    assert [row["Loc measure"] for row in rows] == ["no boxes or object masks"] * 3
    assert all(float(row["RD@5 plain"]) <= 2 and row["Loc plain"] == "" for row in rows)
    assert "no boxes or object masks" in page and "Loc:" not in page
    assert summary["settings"]["left out"] == {"localisation": "boxes or object masks"}
    command = ["evaluate", f"{word}:{root}", "--model", tmp_path / "model", "--out", tmp_path / "no"]
    done = CliRunner().invoke(app, [str(word) for word in [*command, "--metrics", "localisation"]])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "no").exists()


def test_faults_of_a_tree_cost_their_own_pictures_only(cub_tree, tmp_path):
    """The first picture is gone and the second's segmentation does not fit: both are on record, the rest is measured."""
    (cub_tree / "images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg").unlink()
    masks = cub_tree.parent / "segmentations" / "001.Black_footed_Albatross"
    Image.new("L", (5, 5)).save(masks / "Black_Footed_Albatross_0009_34.png")
    rows, summary, _ = evaluated(f"cub:{cub_tree}?split=all", tmp_path, "--batch-size", 1)
    assert "2 pictures, 2 unreadable" in summary["setting"]
    assert [row["Loc pictures"] for row in rows] == ["2"] * 3


def test_a_list_line_without_a_label_is_on_record(list_tree, tmp_path):
    _, summary, _ = evaluated(f"list:{list_tree}", tmp_path)
    assert "2 pictures, 1 unreadable" in summary["setting"]


def test_numbers_for_labels_that_the_model_does_not_have(folder_tree, tmp_path):
    (folder_tree / "numbers.txt").write_text("wren/a.png,0\nrobin/c.png,7\n")
    model = brightness(tmp_path / "model", ["wren", "robin"])
    command = ["evaluate", f"list:{folder_tree / 'numbers.txt'}", "--model", model, "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 2 and "robin/c.png has label 7, and the model has classes 0 to 1" in done.stderr
