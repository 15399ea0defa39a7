"""A photo beside one of its rival class: which photo is chosen, what is asked of it, and what is matched."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from finercam import FinerCAM
from finercam.beside import Beside, Examples, likeness, pictures_of_class
from finercam.errors import FinerCAMError

NAMES = ["wren", "robin", "Fringilla coelebs (Chaffinch)"]


class Colours(nn.Module):
    """The logit of class k is the mean of channel k after a ReLU: red is a wren, green a robin, blue a chaffinch."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 4, stride=4, bias=False), nn.ReLU())
        with torch.no_grad():
            self.features[0].weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16)
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3))

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))


def spot(channel, row, column, size=32, base=0.1):
    """A grey picture with a spot of one colour at a cell of the 8x8 grid, and a bright mark to the left of it."""
    x = torch.full((3, size, size), base)
    x[:, 4 * row : 4 * row + 4, : 4 * column] = torch.tensor([0.12, 0.12, 0.1])[:, None, None]
    x[channel, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1.0
    return x


@pytest.fixture(scope="module")
def explain():
    return FinerCAM(Colours(), "hirescam", layer="features", class_names=NAMES, gamma=1.0)


@pytest.fixture(scope="module")
def answer(explain):
    return explain(spot(0, 2, 3)[None], target="wren", against=["robin"])


def test_the_reversed_question_is_put_to_the_most_alike_photo_of_the_rival(answer):
    photos = torch.stack([spot(1, 7, 0), spot(1, 2, 3), spot(1, 6, 6)])
    (one,) = answer.beside(photos)
    assert isinstance(one, Beside) and one.chosen == 1
    assert one.rival.target_names == ["robin"] and one.rival.reference_names == [["wren"]]
    own = answer.backend(photos[1:2], target="robin", against=["wren"], gamma=1.0)
    assert torch.equal(one.rival.signed, own.signed)
    assert one.likeness == pytest.approx(max(likeness(*_features(answer, photos)).tolist()))


def _features(answer, photos):
    layers, _ = answer.backend.features(answer.images)
    return layers[-1][0], answer.backend.features(photos)[0][-1]


def test_places_with_opposite_evidence_are_matched_and_the_rest_is_what_this_one_lacks(answer):
    second = spot(1, 2, 3)
    second[1, 24:28, 24:28] = 0.8
    (one,) = answer.beside(second[None])
    (match,) = one.matches
    assert (match.here, match.there) == ((2, 3), (2, 3)) and match.evidence == 1.0
    assert match.place == (3.5 / 8, 2.5 / 8) == match.place_there
    (lacking,) = one.lacks
    assert lacking.peak == (6, 6)
    assert "1: 100% of the evidence for wren here" in str(one) and "what this one lacks" in one.lines[1]


def test_a_photo_that_the_model_takes_for_the_target_is_no_example_while_there_is_another(answer):
    wrong, right = spot(0, 2, 4), spot(1, 7, 7)
    assert answer.beside(torch.stack([wrong, right]))[0].chosen == 1
    assert answer.beside(wrong[None])[0].chosen == 0


def test_the_image_itself_is_never_its_own_example(explain):
    image = spot(1, 2, 3)
    asked = explain(image[None], target="wren", against=["robin"])
    assert asked.beside(torch.stack([image, spot(1, 5, 5)]))[0].chosen == 1
    with pytest.raises(FinerCAMError, match="no photo of the rival 'robin'"):
        asked.beside(image[None])


def test_photos_come_by_class_as_tensors_pictures_or_folders(explain, tmp_path):
    images = torch.stack([spot(0, 2, 3), spot(0, 5, 5)])
    asked = explain(images, target="wren", against=[["robin"], ["chaffinch"]])
    by_class = {"robin": spot(1, 2, 2), 2: torch.stack([spot(2, 1, 1), spot(2, 5, 5)])}
    first, second = asked.beside(by_class)
    assert (first.rival.target_names, second.rival.target_names, second.chosen) == (["robin"], [NAMES[2]], 1)
    with pytest.raises(FinerCAMError, match="photos of one class for several rivals"):
        asked.beside(spot(1, 2, 2)[None])

    def to_tensor(image):
        return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) / 255

    for name, channel in (("robin", 1), ("Chaffinch", 2)):
        (tmp_path / name).mkdir()
        values = (spot(channel, 2, 2).movedim(0, -1) * 255).to(torch.uint8).numpy()
        Image.fromarray(values).save(tmp_path / name / "a.png")
    shown = asked.beside(tmp_path, to_tensor)
    assert [str(one.picture) for one in shown] == [str(tmp_path / name / "a.png") for name in ("robin", "Chaffinch")]
    with pytest.raises(FinerCAMError, match="need preprocess="):
        asked.beside(tmp_path)
    assert pictures_of_class(tmp_path, "wren", 0) == []


def test_each_class_is_read_once(answer, tmp_path):
    examples = Examples({1: spot(1, 2, 2)})
    assert examples.of(1, NAMES, 3)[0][0] is examples.of(1, NAMES, 3)[0][0]
    assert answer.beside(examples)[0].chosen == 0


def test_what_cannot_be_shown_is_refused(explain, answer):
    with pytest.raises(FinerCAMError, match="kept no images"):
        FinerCAM(Colours(), "hirescam", layer="features", keep_images=False)(spot(0, 1, 1)[None]).beside(
            spot(1, 1, 1)
        )
    with pytest.raises(FinerCAMError, match="no folder of example pictures"):
        answer.beside("not/there")
    with pytest.raises(FinerCAMError, match="no photo of the rival"):
        answer.beside({"wren": spot(0, 1, 1)})


def test_likeness_falls_with_another_pose():
    torch.manual_seed(0)
    own = torch.rand(6, 5, 5)
    alike = likeness(own, torch.stack([own, own.flip(2), torch.rand(6, 5, 5)]))
    assert alike[0] == pytest.approx(1.0, abs=1e-5) and alike[0] > alike[1]


@pytest.mark.slow
def test_the_figure_shows_both_photos_with_their_numbers(answer):
    (one,) = answer.beside(spot(1, 2, 3)[None])
    written = " ".join(text.get_text() for text in one.plot().texts)
    for expected in ("Why wren", "For wren", "For robin", "A photo of robin", "1: 100%"):
        assert expected in written


def test_the_page_shows_both_photos_and_what_the_numbers_mean(answer, tmp_path):
    from finercam.report import write_report

    page = write_report(answer.beside(spot(1, 2, 3)[None]), tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="page-0">(.*?)</script>', text, re.DOTALL)
    beside = json.loads(data)["beside"]
    assert beside["rival"] == "robin" and beside["lines"][0].startswith("1: 100% of the evidence for wren here")
    assert all(beside[side].startswith("data:image/jpeg") for side in ("here", "there"))
    assert (
        '"beside"'
        not in write_report(answer, tmp_path / "b.html").read_text().split('id="page-0"')[1].split("</script>")[0]
    )
