"""Small trees in the exact layout in which the datasets are published, and what the reader tests share."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finercam.errors import FinerCAMError


def picture(path, size=(60, 40), seed=0, mode="RGB", **options):
    """A picture of noise, `size` as (width, height), whose red channel begins with `seed`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(path, **options)
    return image


def grey(path, values):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def text(path, *lines):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def refused():
    """`with refused("word", ...):` the block raises one line that contains every word."""
    from contextlib import contextmanager

    @contextmanager
    def check(*words):
        with pytest.raises(FinerCAMError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert str(word) in message, message

    return check


@pytest.fixture
def labels_of():
    """Function: dataset -> its labels."""
    return lambda data: [sample.label for sample in data]


@pytest.fixture
def cub_tree(tmp_path):
    """Two species, four pictures; the box of image 3 overruns; only image 1 and 3 have all their parts."""
    root = tmp_path / "CUB_200_2011"
    files = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
    ]
    text(root / "images.txt", *(f"{i} {file}" for i, file in enumerate(files, 1)))
    text(root / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    text(root / "train_test_split.txt", "1 0", "2 1", "3 0", "4 1")
    text(root / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")
    text(
        root / "bounding_boxes.txt",
        "1 10.0 5.0 30.0 20.0",
        "2 0.0 0.0 60.0 40.0",
        "3 50.0 30.0 30.0 30.0",
        "4 1.0 1.0 2.0 2.0",
    )
    parts = ["back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing"]
    parts += ["nape", "right eye", "right leg", "right wing", "tail", "throat"]
    text(root / "parts" / "parts.txt", *(f"{i} {name}" for i, name in enumerate(parts, 1)))
    text(
        root / "parts" / "part_locs.txt",
        *(f"1 {i} {10.0 + i} {6.0 + i} {int(i != 7)}" for i in range(1, 16)),
        *(f"3 {i} 0.0 0.0 0" for i in range(1, 15)),
        "3 15 75.0 5.0 1",
    )
    for i, file in enumerate(files):
        picture(root / "images" / file, seed=i)
        levels = np.zeros((40, 60))
        levels[5:25, 10:40] = 255
        levels[5, 10:40] = 102  # two of five annotators
        levels[24, 10:40] = 153
        grey((tmp_path / "segmentations" / file).with_suffix(".png"), levels)
    return root


@pytest.fixture
def cars_tree(tmp_path):
    from scipy.io import savemat

    root = tmp_path / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012"]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)[None]})
    kinds = [(f"bbox_{end}", "O") for end in ("x1", "y1", "x2", "y2")] + [("class", "O"), ("fname", "O")]
    for split, where in (("train", root / "devkit" / "cars_train_annos.mat"), ("test", None)):
        rows = [(1, 1, 60, 40, 1, "00001.jpg"), (11, 6, 30, 20, 3, "00002.jpg"), (40, 30, 90, 99, 2, "00003.jpg")]
        where = where or root / "cars_test_annos_withlabels.mat"
        savemat(where, {"annotations": np.array(rows, dtype=kinds)[None]})
        for i in range(1, 4):
            picture(root / f"cars_{split}" / f"{i:05d}.jpg", seed=i)
    return root


@pytest.fixture
def aircraft_tree(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    text(data / "variants.txt", "707-320", "A318", "F/A-18")
    text(data / "families.txt", "A320", "Boeing 707", "F/A-18")
    text(data / "manufacturers.txt", "Airbus", "Boeing", "McDonnell Douglas")
    rows = [("1025794", 0), ("1340192", 1), ("0056978", 2)]
    variants = ["707-320", "A318", "F/A-18"]
    families = ["Boeing 707", "A320", "F/A-18"]
    makers = ["Boeing", "Airbus", "McDonnell Douglas"]
    for split in ("train", "val", "trainval", "test"):
        for level, names in (("variant", variants), ("family", families), ("manufacturer", makers)):
            text(data / f"images_{level}_{split}.txt", *(f"{number} {names[i]}" for number, i in rows))
    text(data / "images_box.txt", "1025794 3 4 50 55", "1340192 1 1 60 60", "0056978 5 41 60 60")
    for number, i in rows:
        picture(data / "images" / f"{number}.jpg", (60, 60), seed=i)
    return data.parent


@pytest.fixture
def birds525_tree(tmp_path):
    root = tmp_path / "birds"
    for split, second in (("train", "PARAKETT  AUKLET"), ("valid", "PARAKETT AUKLET"), ("test", "PARAKETT AUKLET")):
        for i, name in enumerate(["ABBOTTS BABBLER", second, "ZEBRA DOVE"]):
            for j in range(2 if split == "train" else 1):
                picture(root / split / name / f"{j + 1}.jpg", (32, 32), seed=i)
    return root


FISH = ["filename", "source_filename", "original_format", "arkid", "family", "source", "owner"]
FISH += ["standardized_species", "original_url", "file_name", "license"]
FISH += ["adipose_fin", "pelvic_fin", "barbel", "multiple_dorsal_fin"]


def fish_csv(path, *rows):
    """Rows of (filename, species, traits), in the published columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(FISH)
        for name, species, traits in rows:
            front = [name, "source, with comma.jpg", "jpg", "ark:/1", "Family", "GLIN", "INHS", species]
            writer.writerow([*front, "http://x", f"Images/chunk_1/{name}", "CC BY-NC", *traits])


@pytest.fixture
def fishvista_tree(tmp_path):
    root = tmp_path / "fish-vista"
    unknown = ["", "", "", ""]
    for split in ("train", "val", "test"):
        fish_csv(
            root / f"classification_{split}.csv",
            ("a1#0.jpg", "Esox lucius", unknown),
            ("b2#1.jpg", "Ameiurus melas", unknown),
            ("nd3#0.jpg", "Zungaro zungaro", unknown),  # CC BY-ND, so not in the repository
        )
        fish_csv(
            root / f"segmentation_{split}.csv",
            ("a1#0.jpg", "Esox lucius", [0, 1, 0, -1]),
            ("b2#1.jpg", "Ameiurus melas", [1, 1, 1, 0]),
        )
    for split in ("train", "val", "test_insp", "test_lvsp"):
        fish_csv(
            root / f"identification_{split}.csv",
            ("a1#0.jpg", "Esox lucius", [0, 1, 0, -1]),
            ("b2#1.jpg", "Ameiurus melas", ["1.0", "1.0", "1.0", "0.0"]),
        )
    picture(root / "Images" / "chunk_1" / "a1#0.jpg", seed=1)
    picture(root / "Images" / "chunk_6" / "b2#1.jpg", seed=2)
    names = ["Background", "Head", "Eye", "Dorsal fin", "Pectoral fin", "Pelvic fin", "Anal fin", "Caudal fin"]
    names += ["Adipose fin", "Barbel"]
    masks = root / "segmentation_masks"
    text(masks / "seg_id_trait_map.json", json.dumps({str(i): name for i, name in enumerate(names)}))
    levels = np.zeros((40, 60))
    levels[10:20, 5:15] = 1
    levels[12:14, 8:10] = 2
    levels[2:8, 20:40] = 3
    grey(masks / "images" / "a1#0.png", levels)
    return root


@pytest.fixture
def pets_tree(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    stems = ["Abyssinian_100", "american_bulldog_12", "Abyssinian_101"]
    for split in ("trainval", "test"):
        text(
            root / "annotations" / f"{split}.txt",
            *(f"{stem} {n} {s} {b}" for stem, n, s, b in zip(stems, (1, 2, 1), (1, 2, 1), (1, 1, 1), strict=True)),
        )
    for i, stem in enumerate(stems):
        picture(root / "images" / f"{stem}.jpg", seed=i)
        trimap = np.full((40, 60), 2)
        trimap[8:32, 10:50] = 3
        trimap[10:30, 12:48] = 1
        grey(root / "annotations" / "trimaps" / f"{stem}.png", trimap)
    return root


@pytest.fixture
def funnybirds_tree(tmp_path):
    """Three classes: 0 and 1 differ in the beak, 0 and 2 in wing and tail. Picture 1 shows no beak."""
    root = tmp_path / "FunnyBirds"
    parts = [{"beak": b, "eye": 0, "foot": 1, "tail": t, "wing": w} for b, t, w in [(0, 0, 0), (3, 0, 0), (0, 5, 2)]]
    text(root / "classes.json", json.dumps([{"class_idx": i, "parts": part} for i, part in enumerate(parts)]))
    text(root / "parts.json", json.dumps({"beak": [{"model": "beak01.glb", "color": "yellow"}]}))
    colours = {"eye": [(255, 255, 253), (255, 255, 254)], "beak": [(255, 255, 0)], "tail": [(0, 0, 255)]}
    colours |= {"foot": [(255, 0, 1), (255, 0, 2)], "wing": [(0, 255, 1), (0, 255, 2)]}
    for split in ("train", "test"):
        labels = [0, 1, 2]
        text(
            root / f"dataset_{split}.json", json.dumps([{"class_idx": label, "beak_model": "x"} for label in labels])
        )
        for index, label in enumerate(labels):
            file = f"{label}/{index:06d}.png"
            picture(root / split / file, (64, 64), seed=index, mode="RGBA")
            parts_map = np.zeros((64, 64, 4), np.uint8)
            parts_map[..., 3] = 255
            parts_map[50:60, :, :3] = (204, 204, 207)  # a background object
            parts_map[10:40, 10:50, :3] = (170, 170, 170)
            for row, (part, shades) in enumerate(colours.items()):
                for column, shade in enumerate(shades):
                    if not (part == "beak" and index == 1):
                        parts_map[12 + 5 * row : 15 + 5 * row, 15 + 8 * column : 20 + 8 * column, :3] = shade
            path = root / f"{split}_part_map" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(parts_map).save(path)
    return root
