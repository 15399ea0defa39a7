"""How strong a map is, and that a weak one is drawn weak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from finercam import FinerCAM, plot
from finercam.view.drawn import VIEWS, drawn, drawn_signed, picture, smooth, strength_of
from finercam.view.strength import WEAK, Strength


def two_sides(left: float, right: float, gamma: float):
    """Class 0 looks at red and class 1 at green; the picture is red on the left and green on the right."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2, 3)[:, :, None, None])
        model[3].weight.copy_(torch.eye(2))
    image = torch.zeros(1, 3, 8, 8)
    image[:, 0, :, :4], image[:, 1, :, 4:] = left, right
    return FinerCAM(model.eval(), layer="0", class_names=["red", "green"])(image, target=0, against=[1], gamma=gamma)


def test_share_and_relative_are_the_stated_sums():
    held = strength_of(two_sides(1.0, 0.5, gamma=0.8))
    assert held.share == pytest.approx(1.0 / (1.0 + 0.8 * 0.5))
    assert held.relative == pytest.approx(1.0)
    assert held.value == held.share and not held.weak and held.brightness == 1


@pytest.mark.parametrize(
    ("sums", "share", "relative", "brightness"),
    [
        ((1.0, 0.0, 0.0), 1.0, 1.0, 1.0),  # a plain map without evidence for the target
        ((0.0, 0.0, 0.0), 0.0, 0.0, 0.0),
        ((0.0, 2.0, 1.0), 0.0, 0.0, 0.0),
        ((0.05, 0.05, 1.0), 0.5, 0.05, 0.5),
        ((0.5, 9.5, 1.0), 0.05, 0.5, 0.5),
        ((3.0, 1.0, 2.0), 0.75, 1.5, 1.0),
    ],
)
def test_weak_on_either_count_is_dimmed_in_proportion(sums, share, relative, brightness):
    held = Strength(*sums)
    assert (held.share, held.relative) == pytest.approx((share, relative))
    assert held.brightness == pytest.approx(brightness)
    assert held.weak == (held.value < WEAK) == ("no evidence that tells them apart here" in held.words)


def test_of_fused_layers_only_the_two_sides_are_compared():
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    explain = FinerCAM(model.eval(), "hirescam", layer=["0", "1"], fusion="product")
    held = strength_of(explain(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), target=0))
    assert held.fused and held.value == held.share and "plain map" not in held.words
    assert Strength(0.05, 0.05, 1.0, fused=True).brightness == 1 != Strength(0.05, 0.05, 1.0).brightness


def test_a_weak_map_is_drawn_weak_in_every_view_and_says_so():
    clear, weak = (two_sides(1.0, right, gamma=2.0) for right in (0.5, 20.0))
    grey = np.full((8, 8, 3), 128, np.uint8)
    assert drawn(clear).max() == 1 and weak.maps.max() == 1
    expected = strength_of(weak).brightness
    assert 0 < expected < 0.3 and float(drawn(weak).max()) == pytest.approx(expected)
    for view in set(VIEWS) - {"photo", "signed"}:
        changed = [np.abs(np.asarray(picture(grey, a, view)).astype(int) - grey)[:, :3].sum() for a in (clear, weak)]
        assert changed[1] < 0.5 * changed[0]
    # the signed picture has a strong other side, which is shown as strong as it is
    assert float(drawn_signed(weak).min()) == -1 and float(drawn_signed(weak).max()) < 0.05
    said = " ".join(text.get_text() for text in plot.panel(weak, image=grey).figure.texts)
    assert "no evidence that tells them" in said.replace("\n", " ")


def test_nearly_equal_classes_leave_the_signed_picture_dim():
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2, 3)[:, :, None, None])
        model[3].weight.copy_(torch.tensor([[1.0, 0.02], [1.0, 0.0]]))
    answer = FinerCAM(model.eval(), layer="0")(torch.rand(1, 3, 8, 8), target=0, against=[1], gamma=1.0)
    assert answer.signed_maps.abs().max() == 1
    assert float(drawn_signed(answer).abs().max()) < 0.4


class TestSmooth:
    maps = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))

    def test_no_value_is_made_up(self):
        large = smooth(self.maps, (70, 64))
        assert large.shape == (2, 70, 64)
        assert large.max() <= self.maps.max() and large.min() >= self.maps.min()
        assert torch.allclose(smooth(torch.ones(1, 3, 3), (20, 31)), torch.ones(1, 20, 31))
        assert smooth(self.maps.abs(), (70, 64)).min() >= 0
        assert torch.allclose(smooth(-self.maps, (9, 9)), -smooth(self.maps, (9, 9)))

    def test_the_peak_stays_in_its_place_and_has_no_crease(self):
        one = torch.zeros(1, 7, 7)
        one[0, 2, 4] = 1
        large = smooth(one, (210, 210))[0]
        y, x = divmod(int(large.argmax()), 210)
        assert abs(y - 74.5) <= 1 and abs(x - 134.5) <= 1
        # a bilinear map's slope jumps at the peak by twice its steepest slope; a spline's never jumps
        slopes = torch.diff(large[:, 134])
        assert torch.diff(slopes).abs().max() < 0.1 * slopes.abs().max()
        round_ = [float(large[75 + dy, 135 + dx]) for dy, dx in ((0, 28), (20, 20), (28, 0))]
        assert max(round_) - min(round_) < 0.06  # bilinear differs by .11: a star

    def test_mass_stays_where_it_was(self):
        padded = torch.nn.functional.pad(self.maps.abs(), (1, 1, 1, 1))
        assert smooth(padded, (90, 70)).mean() == pytest.approx(float(padded.mean()), rel=1e-4)


def test_scores_that_are_no_probabilities_are_shown_as_numbers(tmp_path):
    import json

    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    answer = FinerCAM(model, layer="0", link="none")(torch.rand(1, 3, 8, 8), target=0, against=[1])
    expected = f"{float(answer.logits[0, 0]):.2f}"
    said = " ".join(text.get_text() for text in plot.panel(answer).figure.texts)
    assert f"Why class 0 ({expected})" in said
    page = answer.save(tmp_path / "r.html").read_text(encoding="utf-8")
    first = json.loads(page.split('id="page-0">')[1].split("</script>")[0])
    assert first["link"] == "none" and first["probabilities"][0] == pytest.approx(
        float(answer.logits[0, 0]), abs=1e-6
    )
