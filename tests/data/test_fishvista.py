import json

import numpy as np
import pytest
from PIL import Image

from finercam.data.fishvista import FishVista


def test_classification(fishvista_tree):
    data = FishVista(fishvista_tree)
    assert data.classes == ["Ameiurus melas", "Esox lucius", "Zungaro zungaro"]
    assert [(s.id, s.label) for s in data] == [("Images/chunk_1/a1#0.jpg", 1), ("Images/chunk_6/b2#1.jpg", 0)]
    assert data.skipped == [("nd3#0.jpg", "not on disk")]
    assert data[0].open().size == (60, 40)


def test_pictures_in_one_folder(fishvista_tree):
    """The dataset's card tells to move all chunks together."""
    for chunk in list((fishvista_tree / "Images").iterdir()):
        for file in chunk.iterdir():
            file.rename(fishvista_tree / "Images" / file.name)
        chunk.rmdir()
    assert [s.id for s in FishVista(fishvista_tree)] == ["Images/a1#0.jpg", "Images/b2#1.jpg"]


def test_trait_masks_are_named(fishvista_tree):
    data = FishVista(fishvista_tree, task="segmentation")
    found = data[0].annotation
    assert sorted(found.masks) == ["dorsal fin", "eye", "head", "object"] and found.box is None
    np.testing.assert_array_equal(
        found.masks["object"], found.masks["dorsal fin"] | found.masks["eye"] | found.masks["head"]
    )
    assert found.masks["eye"].sum() == 4 and found.masks["head"].sum() == 96
    assert np.nonzero(found.masks["dorsal fin"])[0].tolist()[0] == 2
    assert data[1].annotation.masks == {}  # this picture has no mask file
    assert data.traits[data[0].id] == {
        "adipose_fin": False, "pelvic_fin": True, "barbel": False, "multiple_dorsal_fin": None,
    }  # fmt: skip


def test_identification(fishvista_tree, labels_of):
    species = FishVista(fishvista_tree, task="identification")
    assert labels_of(species) == [1, 0] and species.name == "Fish-Vista identification test_insp"
    fin = FishVista(fishvista_tree, "test_lvsp", "identification", "adipose_fin")
    assert fin.classes == ["no adipose fin", "adipose fin"] and labels_of(fin) == [0, 1]
    dorsal = FishVista(fishvista_tree, "train", "identification", trait="multiple_dorsal_fin")
    assert labels_of(dorsal) == [0]  # −1 is not "present"
    assert dorsal.skipped == [("a1#0.jpg", "multiple_dorsal_fin unknown")]


def test_faults(fishvista_tree, refused):
    with refused("'test_ins'", "test_insp"):
        FishVista(fishvista_tree, "test_ins", "identification")
    with refused("'segment'", "segmentation"):
        FishVista(fishvista_tree, task="segment")
    with refused("trait 'adipose'", "adipose_fin"):
        FishVista(fishvista_tree, task="identification", trait="adipose")
    with refused("segmentation_data.csv"):
        FishVista(fishvista_tree, "all", "segmentation")
    data = FishVista(fishvista_tree, task="segmentation")
    levels = np.zeros((40, 60), np.uint8)
    levels[0, 0] = 14
    Image.fromarray(levels).save(fishvista_tree / "segmentation_masks" / "images" / "a1#0.png")
    with refused("trait 14", "a1#0.png"):
        _ = data[0].annotation
    (fishvista_tree / "segmentation_masks" / "seg_id_trait_map.json").write_text("[1")
    with refused("seg_id_trait_map.json"):
        FishVista(fishvista_tree)
    (fishvista_tree / "classification_val.csv").write_text("filename,other\n1,2\n")
    with refused("classification_val.csv", "standardized_species", "filename, other"):
        FishVista(fishvista_tree, "val")


def test_a_name_in_the_csv_cannot_lead_elsewhere(fishvista_tree):
    path = fishvista_tree / "classification_test.csv"
    path.write_text(path.read_text().replace("b2#1.jpg", "../../secret.jpg"))
    data = FishVista(fishvista_tree)
    assert len(data) == 1 and ("../../secret.jpg", "not on disk") in data.skipped


@pytest.mark.parametrize("mode", ["P", "L"])
def test_mask_files_in_palette_or_grey(fishvista_tree, mode):
    """A palette mask holds indices; read as colours it would be nonsense."""
    levels = np.zeros((40, 60), np.uint8)
    levels[:5] = 7
    image = Image.fromarray(levels)
    if mode == "P":
        image = image.convert("P")
        image.putdata(levels.ravel().tolist())
        image.putpalette([9, 8, 7] * 256)
    image.save(fishvista_tree / "segmentation_masks" / "images" / "b2#1.png")
    masks = FishVista(fishvista_tree)[1].annotation.masks
    assert list(masks) == ["caudal fin", "object"] and masks["caudal fin"].sum() == 300
    assert json.loads((fishvista_tree / "segmentation_masks" / "seg_id_trait_map.json").read_text())["7"]
