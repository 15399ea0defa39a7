"""Names of regions from masks, keypoints and words."""

from __future__ import annotations

import numpy as np
import torch

from finercam.annotation import Annotation
from finercam.traits.names import Namer


def region(rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_a_small_part_is_named_before_the_large_one_around_it():
    whole, bar = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    whole[4:18, 4:18], bar[8:11, 8:12] = True, True
    note = Annotation(masks={"object": whole, "wing": whole & ~bar, "wing bar": bar})
    namer = Namer().fresh()
    namer.look(torch.zeros(3, 20, 20), note)
    lit = region(slice(7, 12), slice(7, 13))
    scores = namer.scores(lit.float(), lit, (0.5, 0.5))
    assert namer.names[int(scores.argmax())] == "wing bar" and "object" not in namer.names
    assert namer.source == "the part masks of the dataset"


def test_a_region_far_from_every_keypoint_has_no_name():
    namer = Namer().fresh()
    namer.look(
        torch.zeros(3, 20, 20), Annotation(box=(0, 0, 20, 20), keypoints={"beak": (2.0, 2.0), "tail": (18.0, 9.0)})
    )
    lit = region(slice(0, 2), slice(0, 2))
    assert namer.scores(lit.float(), lit, (0.1, 0.1)).tolist() == [1.0] and namer.names == ["beak"]
    assert not namer.scores(lit.float(), lit, (0.5, 0.9)).any()


def test_a_word_fits_where_its_map_stands_out():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[1, 3, 3] = 1.0, 1.0
    namer = Namer(("crest", "tail"), lambda image: maps, "words of a model").fresh()
    namer.look(torch.zeros(3, 20, 20), Annotation())
    corner = region(slice(15, 20), slice(15, 20))
    assert namer.names[int(namer.scores(corner.float(), corner, (0.9, 0.9)).argmax())] == "tail"
    namer.look(torch.zeros(3, 20, 20), Annotation(), words=False)
    assert not namer.scores(corner.float(), corner, (0.9, 0.9)).any()
