import sys
import types

import pytest
from PIL import Image

from finercam.data import ImageDataset, loader, open_dataset
from finercam.data.open import open_source
from finercam.images import Preprocess

TREES = {
    "cub": "CUB-200-2011 test",
    "cars": "Stanford Cars test",
    "aircraft": "FGVC-Aircraft variant test",
    "birds525": "Birds-525 test",
    "fishvista": "Fish-Vista classification test",
    "pets": "Oxford-IIIT Pet test",
    "funnybirds": "FunnyBirds test",
}


@pytest.mark.parametrize("kind", TREES)
def test_by_word_and_by_files(kind, request):
    root = request.getfixturevalue(f"{kind}_tree")
    data = open_dataset(f"{kind}:{root}")
    assert isinstance(data, ImageDataset) and data.name == TREES[kind] and str(root) in str(data)
    for given in (root, str(root), root.parent):
        found = open_dataset(given)
        if kind == "birds525":  # class folders like any other's
            continue
        assert found.name == data.name and len(found) == len(data)
    for sample in data:
        assert sample.open().mode == "RGB"
        _ = sample.annotation


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize(
    "prepare",
    [Preprocess((24, 24), crop_ratio=0.875), Preprocess((20, 28), "squash"), Preprocess(mode="native", multiple=8)],
    ids=lambda prepare: prepare.mode,
)
def test_annotations_fit_the_tensors_of_the_loader(kind, prepare, request):
    data = open_dataset(f"{kind}:{request.getfixturevalue(f'{kind}_tree')}")
    seen = 0
    for batch in loader(data, prepare, 2):
        assert not batch.errors
        for index, size in zip(batch.indices, batch.sizes, strict=True):
            found = prepare.annotation(data[index].annotation, size)
            height, width = batch.images.shape[2:]
            assert all(mask.shape == (height, width) for mask in found.masks.values())
            if found.box is not None:
                assert 0 <= found.box[0] < found.box[2] <= width and 0 <= found.box[1] < found.box[3] <= height
            seen += 1
    assert seen == len(data)


def test_birds525_is_read_as_a_folder_with_splits(birds525_tree, labels_of):
    found = open_dataset(birds525_tree)
    assert found.name == "birds test" and labels_of(found) == [0, 1, 2]


def test_options(aircraft_tree, fishvista_tree, pets_tree):
    assert open_dataset(f"aircraft:{aircraft_tree}?level=family&split=val").name == "FGVC-Aircraft family val"
    assert open_dataset(f"{aircraft_tree}?level=family").name == "FGVC-Aircraft family test"
    assert open_dataset(f"aircraft:{aircraft_tree}?split=val", split="train").name.endswith("variant train")
    assert open_dataset(f"aircraft:{aircraft_tree}?banner=yes")[0].open().size == (60, 60)
    fish = open_dataset(f"fishvista:{fishvista_tree}?task=identification&trait=adipose_fin", split="train")
    assert fish.classes == ["no adipose fin", "adipose fin"]
    assert open_dataset(pets_tree, border=False)[0].annotation.box == (12, 10, 48, 30)


def test_unknown_words_options_and_paths(aircraft_tree, tmp_path, refused):
    with refused("'airplane'", "cub, cars"):
        open_dataset("airplane:/data")
    with refused("'cubs'", "Did you mean 'cub'"):
        open_dataset("cubs:/data")
    with refused("'levle'", "Did you mean 'level'"):
        open_dataset(f"aircraft:{aircraft_tree}?levle=family")
    with refused("'root'"):
        open_dataset(f"aircraft:{aircraft_tree}?root=/")
    with refused("banner='maybe'"):
        open_dataset(f"aircraft:{aircraft_tree}?banner=maybe")
    with refused("option=value"):
        open_dataset(f"aircraft:{aircraft_tree}?level")
    with refused("names no path", "cub:PATH"):
        open_dataset("cub:")
    with refused("nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.bin").touch()
    with refused("no dataset known here", "images.txt", "class folders"):
        open_dataset(tmp_path / "other")
    with refused("a.png is one picture"):
        Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
        open_dataset(tmp_path / "a.png")


def test_folders_and_lists(tmp_path, labels_of):
    (tmp_path / "x" / "wren").mkdir(parents=True)
    for path in ("x/wren/a.png", "x/b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / path)
    assert open_dataset(tmp_path / "x").classes == ["wren"]
    assert open_dataset(f"pictures:{tmp_path / 'x'}")[0].id == "b.png"
    assert labels_of(open_dataset(tmp_path / "x" / "wren")) == [None]
    (tmp_path / "list.csv").write_text("x/b.png,robin\n")
    assert open_dataset(tmp_path / "list.csv").classes == ["robin"]
    (tmp_path / "a?b:c").mkdir()  # a name that looks like options
    Image.new("RGB", (4, 4)).save(tmp_path / "a?b:c" / "a.png")
    assert len(open_dataset(tmp_path / "a?b:c")) == 1


def test_fieldguide():
    birds = open_dataset("fieldguide:3?seed=5&size=32")
    assert isinstance(birds, ImageDataset) and len(birds) == 3 and birds[0].open().size == (32, 32)


def test_fieldguide_is_imported_when_asked_for(monkeypatch, refused):
    asked = []

    class Fieldguide:
        def __init__(self, count: int, seed: int = 0, size: int = 64):
            asked.append((count, seed, size))

    module = types.ModuleType("finercam.data.fieldguide")
    module.Fieldguide = Fieldguide
    monkeypatch.setitem(sys.modules, "finercam.data.fieldguide", module)
    open_dataset("fieldguide")
    open_dataset("fieldguide:40?seed=7")
    open_dataset("fieldguide?size=96", seed=3)
    assert asked == [(500, 0, 64), (40, 7, 64), (500, 3, 96)]
    with refused("count='many'", "whole number"):
        open_dataset("fieldguide:many")


def test_nothing_prints_as_an_address(cub_tree, tmp_path):
    data = open_dataset(cub_tree)
    batch = next(iter(loader(data, Preprocess((8, 8)), 2)))
    sources = [open_source(cub_tree / "images"), open_source(cub_tree)]
    painted = open_dataset("fieldguide:3?seed=7")
    shown = [repr(one) for one in (data, data[0], data[0].annotation, batch, *sources, painted, painted[0])]
    assert not any("0x" in text or len(text) > 400 for text in shown), shown
    assert (
        shown[0].startswith("<CUB CUB-200-2011 test: 2 pictures")
        and shown[3] == "Batch(2 pictures of 3×8×8, 0 errors)"
    )
    assert shown[1] == f"Sample(id={data[0].id!r}, label=0)" and "keypoints: back, beak" in shown[2]
