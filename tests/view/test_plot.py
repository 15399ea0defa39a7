"""Pictures: what is drawn is what the map says, and names are only ever text."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import nn

from finercam import FinerCAM, FinerCAMError, plot
from finercam.images import Preprocess
from finercam.text import literal
from finercam.view import sheet as sheets
from finercam.view.colours import evidence_colours, signed_colours
from finercam.view.drawn import MUTE
from finercam.view.shown import shown
from finercam.view.text import _length, font, wrapped

HOSTILE = [
    "<script>alert('1')</script>",
    r"$\frac{a}{0}$ and $unclosed",
    "snow 🐦 owl 👩‍🔬",
    "זרון תכול (حسون)",
    "Very long " * 30,
    "x" * 300,
    "two\nlines\tand \x1b[31mred\x07",
    "\u202egnp.exe \u2066hidden",
    "",
    "{curly} %s \\n & ^ _ # ~",
    "蒼鷺",
    "\ud800 lone",
]


class Bars(nn.Module):
    """Class k looks at channel k alone, so that every class's map is known: mean logits of 1x1 features."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, classes, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(classes, classes, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(classes, 3)[:, :, None, None])
            self.head.weight.copy_(torch.eye(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(self.pool(self.features(x))))


def stripes() -> torch.Tensor:
    """Red on the left, green in the middle, nothing on the right: `(1, 3, 8, 12)`."""
    x = torch.zeros(1, 3, 8, 12)
    x[:, 0, :, :4] = 1
    x[:, 1, :, 4:8] = 0.5
    return x


def answer(names: list[str] | None = None, classes: int = 3, **more):
    explain = FinerCAM(Bars(classes), layer="features", class_names=names, **more)
    return explain(stripes(), target=0, against=list(range(1, classes)))


def texts(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def rendered(figure) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning of matplotlib's
        return np.asarray(Image.open(io.BytesIO(sheets.png(figure))).convert("RGB"))


class TestOverlay:
    photo = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)

    @pytest.mark.parametrize("draw", [plot.overlay, plot.signed, plot.contour])
    def test_a_blank_map_leaves_the_photo_untouched(self, draw):
        assert np.array_equal(np.asarray(draw(self.photo, np.zeros((4, 6)))), self.photo)

    def test_the_photo_changes_only_where_there_is_evidence(self):
        evidence = np.zeros((16, 24))
        evidence[2:5, 3:9] = 0.7
        changed = (np.asarray(plot.overlay(self.photo, evidence)) != self.photo).any(-1)
        assert changed[2:5, 3:9].all()
        assert not changed[evidence == 0].any()

    def test_opacity_and_colour_are_the_stated_blend(self):
        evidence = np.full((16, 24), 1.0)
        expected = 0.2 * self.photo + 0.8 * 255 * evidence_colours(np.ones(1))[0]
        assert np.abs(np.asarray(plot.overlay(self.photo, evidence)) - expected).max() <= 0.5 + 1e-6

    @given(st.floats(0.01, 1.0))
    @settings(max_examples=10, deadline=None)
    def test_no_rescaling_half_the_evidence_is_never_drawn_as_the_whole(self, height):
        full = np.asarray(plot.heat(np.full((2, 2), 1.0))).astype(int)
        part = np.asarray(plot.heat(np.full((2, 2), height * 0.9))).astype(int)
        assert part.sum() < full.sum()

    def test_signed_is_symmetric_around_zero(self):
        grey = np.full((4, 4, 3), 128, np.uint8)
        ramp = np.linspace(-1, 1, 9)
        colours = signed_colours(ramp)
        luminance = colours @ [0.2126, 0.7152, 0.0722]
        hue = colours[:, 0] - colours[:, 2]  # red less blue
        assert (hue[ramp > 0.2] > 0).all() and (hue[ramp < -0.2] < 0).all()
        # the two sides darken alike, so that neither looks the stronger
        assert np.abs(luminance - luminance[::-1]).max() < 0.25
        up, down = (np.asarray(plot.signed(grey, np.full((4, 4), s))).astype(int) for s in (0.5, -0.5))
        assert up[0, 0, 0] > up[0, 0, 2] and down[0, 0, 0] < down[0, 0, 2]

    def test_colour_blind_readers_see_two_sides(self):
        # deuteranopia after Viénot et al. 1999, in linear RGB: for and against must stay far apart
        deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
        linear = np.array([signed_colours(np.array([s]))[0] ** 2.2 for s in (0.6, -0.6)])
        one, other = (linear @ deutan.T).clip(0, 1) ** (1 / 2.2)
        assert np.linalg.norm(one - other) > 0.4

    def test_evidence_colours_get_lighter_step_by_step(self):
        luminance = evidence_colours(np.linspace(0, 1, 64)) ** 2.2 @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(luminance) > 0).all()

    def test_contour_runs_where_the_map_passes_its_level(self):
        photo = np.full((60, 60, 3), 255, np.uint8)
        evidence = np.tile(np.linspace(0, 1, 60), (60, 1))
        drawn = (np.asarray(plot.contour(photo, evidence, levels=[0.5], width=1)) != 255).any(-1)
        columns = np.flatnonzero(drawn[20:40].all(0))
        assert columns.tolist() == [29, 30, 59]  # and along the edge, where the area above the level ends
        assert not drawn[:, :20].any()

    def test_a_map_of_lower_resolution_is_put_where_it_belongs(self):
        evidence = np.zeros((2, 2))
        evidence[0, 1] = 1
        drawn = np.asarray(plot.heat(evidence, size=(40, 40))).astype(int).sum(-1)
        assert np.unravel_index(drawn.argmax(), drawn.shape) <= (10, 39)
        assert drawn[30:, :10].max() == 0

    def test_pictures_in_every_form_are_the_same_picture(self):
        evidence = np.random.default_rng(1).random((16, 24))
        drawn = np.asarray(plot.overlay(self.photo, evidence))
        for form in (Image.fromarray(self.photo), self.photo / 255, torch.from_numpy(self.photo)):
            assert np.array_equal(np.asarray(plot.overlay(form, torch.from_numpy(evidence))), drawn)

    @pytest.mark.parametrize(
        ("photo", "evidence", "said"),
        [
            (torch.zeros(3, 8, 8), np.zeros((8, 8)), "inverse"),
            (np.full((8, 8, 3), 2.0), np.zeros((8, 8)), "floats in"),
            (np.full((8, 8, 3), np.nan), np.zeros((8, 8)), "floats in"),
            (np.zeros((8, 8, 3)), np.zeros((1, 8, 8)), "answer.maps"),
            (np.zeros((8, 8, 3)), np.full((8, 8), np.nan), "NaN"),
        ],
    )
    def test_what_is_no_picture_or_map_is_refused_in_one_line(self, photo, evidence, said):
        with pytest.raises(FinerCAMError, match=said) as raised:
            plot.overlay(photo, evidence)
        assert "\n" not in str(raised.value)


class TestText:
    @given(st.text(max_size=60))
    @settings(max_examples=50, deadline=None)
    def test_no_control_or_reordering_letter_survives(self, text):
        assert literal(text).isprintable() or set(literal(text)) & set("\u200c\u200d\u00a0\u3000")
        assert not set(literal(text)) & set("\n\r\x1b\u202a\u202b\u202d\u202e\u2066\u2067\u2068")

    def test_an_explanation_prints_no_escape_of_a_class_name(self):
        said = repr(answer(["\x1b[31mwren\x07", "\u202erobin", "finch"]))
        assert "<U+001B>[31mwren<U+0007>" in said and "<U+202E>robin" in said
        assert said.isprintable()

    @pytest.mark.parametrize("name", HOSTILE)
    @pytest.mark.parametrize("lines", [1, 3])
    def test_wrapped_text_fits_and_keeps_its_tail(self, name, lines):
        out = wrapped(name, 150, 9, lines, tail=", 88 %").split("\n")
        assert len(out) <= lines
        assert "\n".join(out).endswith("88 %")
        assert all(_length(line, 9) <= 151 for line in out)

    def test_the_ruler_measures_what_matplotlib_draws(self):
        from matplotlib.textpath import TextPath

        for text in ("Poecile atricapillus (Black-capped Chickadee)", "WWWiii $x^2$"):
            drawn = TextPath((0, 0), text, prop=font(20), usetex=False) if "$" not in text else None
            if drawn is not None:
                assert _length(text, 20) == pytest.approx(drawn.get_extents().x1, rel=0.03)

    def test_names_that_differ_in_a_letter_no_font_has_stay_different(self):
        assert wrapped("owl \U000e0100\U0001f989", 400, 9) != wrapped("owl \U0001f985", 400, 9)


class TestSheets:
    @pytest.mark.parametrize(
        "first", [0, *(pytest.param(at, marks=pytest.mark.slow) for at in range(3, len(HOSTILE), 3))]
    )
    def test_hostile_names_are_drawn_as_text_without_a_warning(self, first):
        asked = answer(HOSTILE[first : first + 3])
        rendered(plot.panel(asked))
        for figure in (plot.panel(asked), plot.pair(asked), plot.reference_grid(asked), plot.gamma_strip(asked)):
            assert not any(text.get_parse_math() for text in figure.texts)

    def test_the_panel_names_question_prediction_and_probabilities(self):
        said = texts(plot.panel(answer(["wren", "robin", "finch"])))
        for part in (
            "Why wren",
            "not robin (or 1 more)",
            "predicted: wren",
            "Plain Grad-CAM",
            "or finch",
            "γ = 0.6",
            "%",
        ):
            assert part in said

    def test_one_reference_gives_no_doubled_picture(self):
        two, one = (len(plot.panel(answer(classes=k)).axes) for k in (3, 2))
        assert two - one == 2  # a picture and its bar

    def test_a_blank_map_looks_blank_and_says_so(self):
        explain = FinerCAM(Bars(3), layer="features", class_names=["wren", "robin", "finch"])
        blank = explain(stripes(), target="finch", against=["wren"])  # nothing of class 2 in the picture
        assert blank.maps.max() == 0
        figure = plot.panel(blank, image=np.full((8, 12, 3), 0.5))
        assert texts(figure).count("nothing speaks for finch") == 2
        pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images[0].get_array().ndim == 3]
        photo, plain, finer = [np.asarray(picture) for picture in pictures if len(picture) > 1][:3]
        assert np.array_equal(photo, plain) and np.array_equal(photo, finer)

    def test_text_is_as_large_on_a_tiny_as_on_a_large_photo(self):
        sizes = []
        for side in (8, 900):
            figure = plot.panel(answer(["wren", "robin", "finch"]), image=np.zeros((side, side, 3), np.uint8))
            sizes.append((tuple(figure.get_size_inches()), [text.get_fontsize() for text in figure.texts]))
        assert sizes[0] == sizes[1]
        assert min(sizes[0][1]) >= 8

    def test_no_text_lies_on_another_or_outside(self):
        names = ["A rather long name of a class that goes on", "W" * 60, "finch " * 20]
        figure = plot.panel(answer(names))
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.texts]
        width, height = figure.canvas.get_width_height()
        for index, box in enumerate(boxes):
            assert box.x0 >= 0 and box.x1 <= width + 1 and box.y0 >= 0 and box.y1 <= height
            for other in boxes[index + 1 :]:
                inner = box.x0 < other.x1 - 1 and other.x0 < box.x1 - 1
                assert not (inner and box.y0 < other.y1 - 2 and other.y0 < box.y1 - 2)

    def test_titles_of_narrow_letters_end_before_the_next_column(self):
        # bold and hinted, "fittili" is a quarter wider than its regular letters at a large size
        names = ["fittili " * 9 + "0", "till it will fill still lilt tilt " * 3, "c"]
        figure = plot.pair(answer(names))
        renderer = FigureCanvasAgg(figure).get_renderer()
        titles = [text for text in figure.texts if text.get_fontweight() == "bold" and text.get_fontsize() < 12]
        widths = [text.get_window_extent(renderer).width / sheets.DPI for text in titles]
        assert len(widths) > 3 and max(widths) <= sheets.WIDE

    def test_the_signed_column_shows_the_question_that_was_asked(self):
        asked = answer(classes=2, gamma=0.3)
        said = texts(plot.panel(asked))
        assert "Signed difference, γ = 0.3" in said and "γ = 1" not in said
        both = asked.signed.clamp(min=0) - asked.reverse().signed.clamp(min=0)
        tinted = next(
            a.images[0].get_array() for a in plot.panel(asked).axes[::-1] if len(a.images[0].get_array()) > 1
        )
        expected = plot.signed(shown(asked)[0], (both / both.abs().max())[0], mute=MUTE)
        assert np.abs(np.asarray(tinted).astype(int) - np.asarray(expected)).max() <= 1

    def test_rows_for_a_batch_and_a_picture_each(self):
        explain = FinerCAM(Bars(3), layer="features", num_references=2)
        batch = explain(stripes().repeat(3, 1, 1, 1))
        figure = plot.panel(batch)
        assert len([axes for axes in figure.axes if axes.images[0].get_array().shape[0] > 1]) == 15
        with pytest.raises(FinerCAMError, match="2 pictures for an explanation of 3"):
            plot.panel(batch, image=[np.zeros((8, 8, 3))] * 2)

    def test_what_was_not_kept_is_named_and_the_rest_drawn(self):
        figure = plot.panel(answer(keep="contrast", keep_images=False), image=np.zeros((8, 12, 3)))
        assert "was not kept" in texts(figure)

    def test_an_example_of_the_closest_class_is_shown(self):
        example = np.full((5, 5, 3), 77, np.uint8)
        figure = plot.panel(answer(["wren", "robin", "finch"]), example=example)
        assert any(np.array_equal(axes.images[0].get_array(), example) for axes in figure.axes)
        assert "Example" in texts(figure)

    def test_gamma_strip_shows_each_strength(self):
        figure = plot.gamma_strip(answer(), gammas=(0, 0.5, 1))
        assert all(f"γ = {gamma}" in texts(figure) for gamma in ("0", "0.5", "1"))

    def test_no_pyplot_state_is_left(self):
        import matplotlib.pyplot as plt

        before = plt.get_fignums()
        answer().plot()
        assert plt.get_fignums() == before

    def test_the_same_figure_gives_the_same_bytes(self):
        one, other = (sheets.png(plot.panel(answer(classes=2))) for _ in range(2))
        assert one == other

    def test_jupyter_shows_the_panel_of_kept_images_only(self):
        assert answer()._repr_png_()[:4] == b"\x89PNG"
        assert answer(keep_images=False)._repr_png_() is None


class TestDifference:
    def test_for_linear_methods_it_is_the_difference_of_the_plain_maps(self):
        asked = answer(classes=2, gamma=0.3)
        c, d = asked.plain.signed, asked.ask(target=1, against=[0]).plain.signed
        expected = torch.nn.functional.interpolate((c - d)[:, None], size=(8, 12), mode="bilinear")[:, 0]
        assert torch.allclose(plot.difference(asked), expected / expected.abs().max(), atol=1e-6)

    def test_methods_without_negative_values_show_both_sides_too(self):
        asked = answer(classes=2, method="layercam")
        assert (asked.signed >= 0).all()
        both = plot.difference(asked)[0]
        assert (both[:, 1:3] > 0).all() and (both[:, 5:7] < 0).all()

    def test_the_reverse_question_has_the_reverse_picture(self):
        asked = answer(classes=2)
        assert torch.allclose(plot.difference(asked), -plot.difference(asked.reverse()), atol=1e-6)

    def test_closest_takes_the_first_that_was_picked_or_the_likeliest_given(self):
        from dataclasses import replace

        asked = answer()
        (first, second), logits = asked.references[0].tolist(), asked.logits.clone()
        for likely in (first, second):
            logits[0, [first, second]] = 0.0
            logits[0, likely] = 1.0
            for strategy, expected in (
                ("similar", first),
                ("predicted", first),
                ("explicit", likely),
                ("all", likely),
            ):
                assert plot.closest(replace(asked, logits=logits, strategy=strategy)).tolist() == [expected]


class TestShown:
    def test_the_whole_photo_is_cropped_as_the_model_saw_it(self):
        photo = np.zeros((100, 200, 3), np.uint8)
        photo[:, 50:150] = 255  # the square that a centre crop keeps
        prepare = Preprocess((8, 8))
        assert (shown(answer(), Image.fromarray(photo), prepare)[0] > 250).all()

    def test_kept_images_come_back_in_their_colours(self):
        prepare = Preprocess((8, 12), mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        explain = FinerCAM(Bars(3), layer="features")
        asked = explain(stripes() * 2 - 1, target=0)
        seen = shown(asked, None, prepare)[0]
        assert seen[0, 0].tolist() == [255, 0, 0] and seen[0, -1].tolist() == [0, 0, 0]

    def test_a_torchvision_transform_shows_what_it_gives_the_model(self):
        transforms = pytest.importorskip("torchvision.transforms")
        prepare = transforms.Compose(
            [
                transforms.Resize((8, 12)),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
            ]
        )
        photo = Image.new("RGB", (120, 80), (200, 100, 50))
        asked = answer()
        for image in (photo, [prepare(photo)]):
            assert np.abs(shown(asked, image, prepare)[0].astype(int) - (200, 100, 50)).max() <= 1
        assert asked.plot(photo, preprocess=prepare).axes
        with pytest.raises(FinerCAMError, match="preprocess=str: expected a finercam"):
            asked.plot(photo, preprocess="resize")
        with pytest.raises(FinerCAMError, match=r"preprocess gave Image for a photo: expected a tensor"):
            asked.plot(photo, preprocess=transforms.Resize(8))

    def test_without_kept_images_it_asks_for_the_photo(self):
        with pytest.raises(FinerCAMError, match="image="):
            answer(keep_images=False).plot()


class TestCurves:
    def test_areas_are_those_of_the_metrics(self):
        from finercam.metrics.deletion import area

        generator = torch.Generator().manual_seed(0)
        shares = torch.linspace(0, 1, 11)
        one, other = torch.rand(2, 11, generator=generator)
        legend = [t.get_text() for t in plot.curves(shares, one, other).axes[0].get_legend().get_texts()]
        expected = [area(shares, curve).item() for curve in (one, other, one - other)]
        assert [float(text.rsplit(maxsplit=1)[-1]) for text in legend] == pytest.approx(expected, abs=6e-4)

    @pytest.mark.parametrize("name", [HOSTILE[1], HOSTILE[2], HOSTILE[5]])
    def test_hostile_names_are_literal(self, name):
        figure = plot.curves([0, 1], [1, 0], [0, 0.5], names=(name, "$y$"), title=name, score="$p")
        assert rendered(figure).any()

    def test_rows_are_averaged_and_wrong_lengths_refused(self):
        figure = plot.curves([0, 1], [[1.0, 0.0], [0.0, 0.0]])
        assert figure.axes[0].lines[0].get_ydata().tolist() == [0.5, 0.0]
        with pytest.raises(FinerCAMError, match="shares of shape"):
            plot.curves([0, 1], [1, 2, 3])
        with pytest.raises(FinerCAMError, match="finite"):
            plot.curves([0, 1], [1, np.nan])
