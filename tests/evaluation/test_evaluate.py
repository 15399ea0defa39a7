"""evaluate, on a made dataset of coloured squares whose deciding pixels are known."""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from finercam.core.contrast import WEIGHTS
from finercam.data.fieldguide import Fieldguide
from finercam.data.sample import Annotation, Sample
from finercam.errors import FinerCAMError
from finercam.evaluation import evaluate
from finercam.evaluation.sources import control_maps
from finercam.evaluation.summary import CHANCE, CONTROL, LAST, summarise
from finercam.images import Preprocess
from finercam.models import LoadedModel, load_model

SIZE = 16


def _picture(index: int) -> np.ndarray:
    pixels = np.random.default_rng(index).integers(90, 140, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[4:12, 4:12] += 40  # the object, alike in all classes
    pixels[5:8, 5:8, index % 3] = 250  # what tells the classes apart
    return pixels


def _load(index: int, broken: frozenset[int]) -> Image.Image:
    if index in broken:
        raise FinerCAMError(f"picture {index} is broken")
    return Image.fromarray(_picture(index))


def _annotate() -> Annotation:
    whole = np.zeros((SIZE, SIZE), bool)
    whole[4:12, 4:12] = True
    return Annotation(box=(4, 4, 12, 12), masks={"object": whole})


class Squares:
    """12 pictures, 3 classes; class 2 is no sibling of the others."""

    name = "squares"

    def __init__(self, count: int = 12, broken: tuple[int, ...] = ()) -> None:
        self.classes = ["red", "green", "blue"]
        self.count, self.broken = count, frozenset(broken)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"{index}.png", index % 3, partial(_load, index, self.broken), _annotate)

    def siblings(self, c: int) -> list[int]:
        return {0: [1], 1: [0], 2: []}[c]

    def contrast_mask(self, index: int, rival: int) -> np.ndarray:
        mask = np.zeros((SIZE, SIZE), bool)
        mask[5:8, 5:8] = rival != index % 3
        return mask


class NoAnnotation(Squares):
    contrast_mask = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        del type(self).contrast_mask

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"{index}.png", index % 3, partial(_load, index, self.broken))


@pytest.fixture
def model() -> LoadedModel:
    """Colour channels, pooled, are the logits: the closed form of everything is known."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[0].bias.zero_()
        net[4].weight.copy_(8 * torch.eye(3) + 4)
        net[4].bias.zero_()
    prepare = Preprocess((SIZE, SIZE), mode="squash", mean=(0.4,) * 3, std=(0.2,) * 3)
    return LoadedModel(net.eval(), prepare, ["red", "green", "blue"], "squares-net")


def _find(lines, method, contrast, metric):
    (line,) = [x for x in lines if (x.method, x.contrast, x.metric) == (method, contrast, metric)]
    return line


def test_contrast_finds_the_deciding_pixels_and_controls_lie_at_chance(tmp_path, model):
    lines = evaluate(
        Squares(), model, tmp_path, ["gradcam", "layercam"], ["plain", "pair"], ["contrastive", "localisation"]
    )
    plain = _find(lines, "gradcam", "plain", "discriminative_energy")
    pair = _find(lines, "gradcam", "pair", "discriminative_energy")
    assert pair.mean > 1.2 * plain.mean
    assert pair.difference == pytest.approx(pair.mean - plain.mean)
    assert pair.difference_low <= pair.difference <= pair.difference_high
    for metric, share in (("discriminative_energy", 9 / 256), ("energy", 64 / 256)):
        assert _find(lines, CHANCE, "", metric).mean == pytest.approx(share)
        assert _find(lines, CONTROL, "uniform", metric).mean == pytest.approx(share)
        assert _find(lines, CONTROL, "shuffled", metric).mean == pytest.approx(share, rel=0.35)
    assert np.isnan(_find(lines, CONTROL, "uniform", "energy").difference)


def test_gamma_zero_is_the_plain_method_to_the_last_digit(tmp_path, model):
    evaluate(
        Squares(), model, tmp_path, ["gradcam", "gradcam++"], ["similar:2:0", "predicted:1:0"], ["contrastive", "rd"]
    )
    rows = pq.read_table(next((tmp_path / "parts").glob("*.parquet"))).to_pylist()
    for method in ("gradcam", "gradcam++"):
        for index in range(12):
            mine = [r for r in rows if r["index"] == index and r["method"] == method]
            first = {k: v for k, v in mine[0].items() if k != "contrast"}
            assert len(mine) == 3
            for other in mine[1:]:
                assert json.dumps(first) == json.dumps({k: v for k, v in other.items() if k != "contrast"})


def test_every_weighting_and_pick_can_be_asked_together(tmp_path, model):
    asks = [
        f"{pick}:2:1:{w}" for pick in ("similar", "predicted", "nearest", "all", "rival", "random") for w in WEIGHTS
    ]
    lines = evaluate(Squares(6), model, tmp_path, ["gradcam"], asks, ["contrastive"])
    assert {line.contrast for line in lines if line.method == "gradcam"} == {"plain", *asks}


def test_one_capture_serves_all_methods_and_contrasts(tmp_path, model):
    runs: list[int] = []
    model.model[4].register_forward_hook(lambda *_: runs.append(1))
    methods = ["gradcam", "layercam", "xgradcam", "hirescam"]
    asks = ["plain", "paper", "pair", "random", "all:3:1:probability"]
    evaluate(Squares(), model, tmp_path, methods, asks, ["contrastive"], batch_size=6)
    # One for each of two batches, and two of a single picture: to find the target layer, and to see which of this
    # model's two modules with three rows gives the logits.
    assert len(runs) == 4


def test_stopped_and_called_again_gives_the_rows_of_an_undisturbed_run(tmp_path, model):
    def stop(at: int, count: int) -> None:
        if at >= 5:
            raise KeyboardInterrupt

    options = {"groups": ["rd", "contrastive"], "contrasts": ["paper", "random"], "batch_size": 5}
    whole = evaluate(Squares(), model, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Squares(), model, tmp_path / "cut", progress=stop, **options)
    assert len(list((tmp_path / "cut" / "parts").glob("*.parquet"))) == 1
    assert json.dumps([vars(x) for x in evaluate(Squares(), model, tmp_path / "cut", **options)]) == json.dumps(
        [vars(x) for x in whole]
    )


def test_a_list_of_layers_is_the_same_setting_when_called_again(tmp_path, model):
    for _ in range(2):
        lines = evaluate(Squares(3), model, tmp_path, groups=["shape"], layer=("0", "1"), fusion="product")
    assert lines


def test_other_settings_are_refused_and_redone_when_asked(tmp_path, model):
    evaluate(Squares(), model, tmp_path, groups=["shape"])
    with pytest.raises(FinerCAMError, match=r"other settings \(seed\)"):
        evaluate(Squares(), model, tmp_path, groups=["shape"], seed=1)
    evaluate(Squares(), model, tmp_path, groups=["shape"], seed=1, redo=True)
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 1


def test_a_picture_that_cannot_be_read_is_counted_and_the_rest_goes_on(tmp_path, model):
    lines = evaluate(Squares(broken=(4,)), model, tmp_path, groups=["shape"], batch_size=4)
    assert _find(lines, "gradcam", "plain", "sparseness").pictures == 11
    assert "1 unreadable" in (tmp_path / "summary.md").read_text()
    seen: list[int] = []
    evaluate(
        Squares(broken=(4,)), model, tmp_path, groups=["shape"], batch_size=4, progress=lambda a, n: seen.append(a)
    )
    assert seen == []  # nothing is left to do, the broken picture included


class BadMask(Squares):
    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return Sample(sample.id, sample.label, sample.load, _broken) if index == 3 else sample


def _broken() -> Annotation:
    raise FinerCAMError("mask 3.png is cut short")


def test_a_broken_annotation_is_counted_and_the_rest_goes_on(tmp_path, model):
    lines = evaluate(BadMask(), model, tmp_path, groups=["localisation"], limit=3)
    assert lines
    lines = evaluate(BadMask(), model, tmp_path / "all", groups=["shape"], batch_size=4)
    assert _find(lines, "gradcam", "plain", "sparseness").pictures == 11
    rows = [row for part in (tmp_path / "all" / "parts").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert [row["error"] for row in rows if row["index"] == 3] == ["mask 3.png is cut short"]


def test_annotation_that_the_data_lack_is_one_clear_line(tmp_path, model):
    with pytest.raises(FinerCAMError, match="'localisation' needs boxes or object masks, and squares has none"):
        evaluate(NoAnnotation(), model, tmp_path, groups=["localisation"])
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrasts": ["similr"]}, "Did you mean 'similar'"),
        ({"contrasts": ["similar:x"]}, "expected numbers"),
        ({"contrasts": ["similar:3:-1"]}, "gamma of at least 0"),
        ({"groups": ["rdd"]}, "metric 'rdd'"),
        ({"methods": ["gradcan"]}, "Did you mean 'gradcam'"),
        ({"target": "truth"}, "'label' or 'prediction'"),
    ],
)
def test_bad_words_are_refused_before_any_work(tmp_path, model, options, message):
    with pytest.raises(FinerCAMError, match=message):
        evaluate(Squares(), model, tmp_path, **options)
    assert not (tmp_path / "parts").exists()


def test_labels_of_another_model_cannot_be_targets(tmp_path, model):
    other = LoadedModel(model.model, model.preprocess, ["a", "b", "c"], "other")
    with pytest.raises(FinerCAMError, match="labels cannot be targets"):
        evaluate(Squares(), other, tmp_path)


@pytest.mark.slow
def test_every_group_gives_its_columns(tmp_path, model):
    groups = ["rd", "deletion", "insertion", "kept", "road", "localisation", "contrastive", "shape"]
    lines = evaluate(Squares(6), model, tmp_path, ["gradcam", "scorecam"], ["pair"], groups, steps=4, fill="black")
    columns = {line.metric for line in lines}
    expected = {
        "rd@5% rival",
        "rd/p@10% similar",
        "deletion",
        "insertion",
        "road",
        "average drop",
        "iou@50%",
        "complexity",
    }
    assert expected <= columns
    head = (tmp_path / "summary.md").read_text().splitlines()[0]
    assert "squares-net" in head and "black" in head and "6 pictures" in head
    assert (tmp_path / "summary.csv").read_text().startswith("method,contrast,metric,mean")
    json.loads((tmp_path / "summary.json").read_text())


def test_plain_and_pair_need_no_linear_head(tmp_path, monkeypatch):
    """Only "similar" compares rows; gamma 0 has no use for references."""
    loaded = load_model("fieldguide/cnn")
    monkeypatch.setattr("finercam.evaluation.questions.linear_head", lambda *_: None)
    options = {"methods": ["gradcam"], "groups": ["contrastive"]}
    lines = evaluate(Fieldguide(4, seed=2), loaded, tmp_path / "a", contrasts=["pair"], **options)
    assert {line.contrast for line in lines if line.method == "gradcam"} == {"plain", "pair"}
    with pytest.raises(FinerCAMError, match="linear head"):
        evaluate(Fieldguide(4, seed=2), loaded, tmp_path / "b", contrasts=["paper"], **options)


def test_costly_metrics_are_saved_every_few_pictures(tmp_path, model):
    """Stopped in the middle of a batch, the pictures measured so far are kept, and the same call continues."""
    seen = [0]

    def stop(_, given):
        seen[0] += len(given[0])
        if seen[0] > 2000:  # of 12 pictures * 6 maps * 51 steps = 3672
            raise KeyboardInterrupt

    handle = model.model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Squares(), model, tmp_path / "cut", groups=["deletion"])
    handle.remove()
    saved = {
        row["index"] for part in (tmp_path / "cut" / "parts").iterdir() for row in pq.read_table(part).to_pylist()
    }
    assert 3 <= len(saved) < 12
    again = evaluate(Squares(), model, tmp_path / "cut", groups=["deletion"])
    whole = evaluate(Squares(), model, tmp_path / "whole", groups=["deletion"])
    assert json.dumps([vars(x) for x in again]) == json.dumps([vars(x) for x in whole])


class Sorted(Squares):
    """All pictures of a class stand together, as in most datasets."""

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index // 4 + 3 * (index % 4))


def _indices(out):
    return {row["index"] for part in (out / "parts").iterdir() for row in pq.read_table(part).to_pylist()}


def test_a_limit_draws_pictures_by_the_seed(tmp_path, model):
    drawn = {}
    for name, seed in (("a", 1), ("b", 2), ("again", 1)):
        evaluate(Sorted(), model, tmp_path / name, groups=["shape"], limit=4, seed=seed)
        drawn[name] = _indices(tmp_path / name)
        assert len(drawn[name]) == 4 and len({index // 4 for index in drawn[name]}) > 1
    assert drawn["a"] == drawn["again"] != drawn["b"]


def _reordered(model: LoadedModel, order: list[int]) -> LoadedModel:
    """The same classifier with its classes in another order."""
    net = copy.deepcopy(model.model)
    with torch.no_grad():
        for parameter in net[4].parameters():
            parameter.copy_(parameter[order])
    return LoadedModel(net, model.preprocess, [model.class_names[c] for c in order], model.name)


def test_the_same_class_names_in_another_order_are_matched(tmp_path, model):
    groups = ["contrastive", "rd"]
    want = evaluate(Squares(), model, tmp_path / "a", contrasts=["pair"], groups=groups)
    got = evaluate(Squares(), _reordered(model, [2, 0, 1]), tmp_path / "b", contrasts=["pair"], groups=groups)
    for one, other in zip(want, got, strict=True):
        assert (one.method, one.contrast, one.metric) == (other.method, other.contrast, other.metric)
        if not one.metric.endswith(("similar", "held-out")):  # all rows of this head are equally similar
            assert other.mean == pytest.approx(one.mean, abs=1e-5)
    setting = [(tmp_path / name / "summary.md").read_text().splitlines()[0] for name in ("a", "b")]
    assert setting[0] == setting[1]  # the accuracy among others


def test_pictures_of_a_class_that_the_model_lacks_are_recorded(tmp_path, model):
    other = LoadedModel(model.model, model.preprocess, ["Red", "green", "violet"], "other")
    lines = evaluate(Squares(), other, tmp_path, groups=["shape"])
    assert _find(lines, "gradcam", "plain", "sparseness").pictures == 8
    assert "8 pictures, 4 of classes that the model lacks" in (tmp_path / "summary.md").read_text()
    rows = [row for part in (tmp_path / "parts").iterdir() for row in pq.read_table(part).to_pylist()]
    assert {row["error"] for row in rows if row["index"] % 3 == 2} == {"the model has no class 'blue'"}


def test_relative_drops_are_ratios_of_means():
    """One picture with a probability near 0 would give a mean ratio of thousands below zero."""
    rows = [
        {
            "index": i,
            "method": "gradcam",
            "contrast": c,
            "rd@5% rival": rd * (1 + (c == "pair")),
            "target probability": p,
        }
        for c in ("plain", "pair")
        for i, (rd, p) in enumerate([(0.3, 0.9), (0.2, 0.8), (-0.01, 1e-6), (0.1, 0.7)])
    ]
    lines = summarise(pa.Table.from_pylist(rows))
    plain, pair = (_find(lines, "gradcam", c, "rd/p@5% rival") for c in ("plain", "pair"))
    assert plain.mean == pytest.approx(0.59 / 2.400001)
    assert pair.difference == pytest.approx(plain.mean) and pair.ratio == pytest.approx(2)
    assert plain.low <= plain.mean <= plain.high < 1


def test_rank_based_metrics_stand_first(tmp_path, model):
    lines = evaluate(Squares(6), model, tmp_path, contrasts=["pair"], groups=["localisation", "contrastive", "rd"])
    names = list(dict.fromkeys(line.metric for line in lines if line.method == "gradcam"))
    assert names[:3] == ["ap", "pointing", "energy@object"] and names.index("rd@5% rival") < names.index("energy")
    assert names.index("discriminative_energy@5%") < names.index("discriminative_energy")


def test_the_plain_map_of_the_last_layer_can_be_the_baseline(tmp_path, model):
    options = {"contrasts": ["pair"], "groups": ["contrastive"], "layer": "0"}
    same = evaluate(Squares(), model, tmp_path / "same", ["hirescam"], **options)
    last = evaluate(Squares(), model, tmp_path / "last", ["hirescam"], baseline="last", **options)
    grad = evaluate(Squares(), model, tmp_path / "grad", ["gradcam"], contrasts=["pair"], groups=["contrastive"])
    name = "discriminative_energy"
    assert _find(last, LAST, "plain", name).mean == _find(grad, "gradcam", "plain", name).mean
    for contrast in ("plain", "pair"):
        line = _find(last, "hirescam", contrast, name)
        assert line.mean == _find(same, "hirescam", contrast, name).mean
        assert line.difference == pytest.approx(line.mean - _find(last, LAST, "plain", name).mean)
    assert "compared with the plain Grad-CAM of the last layer" in (tmp_path / "last" / "summary.md").read_text()
    assert np.isnan(_find(same, "hirescam", "plain", name).difference)


class Parts(Squares):
    """The mark that differs is a part with a keypoint; the rest of the square is another one, alike in all classes."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        points = {"left wing": (6.5, 6.5), "tail": (10.5, 10.5), "back": (10.5, 5.5)}
        note = Annotation(box=(0, 0, 16, 16), keypoints=points)
        return Sample(sample.id, sample.label, sample.load, lambda: note)

    def attribute_difference(self, c: int, d: int) -> dict[str, float]:
        return {"wings": 0.9 if c != d else 0.0, "tail": 0.1, "back": 0.2}


def test_parts_measures_the_evidence_on_the_parts_that_differ(tmp_path, model):
    lines = evaluate(Parts(), model, tmp_path, contrasts=["pair", "random"], groups=["parts"])
    plain, pair = (_find(lines, "gradcam", c, "part_share") for c in ("plain", "pair"))
    assert pair.mean > 0.7 > plain.mean and pair.difference_low > 0
    assert _find(lines, "gradcam", "pair", "part_pointing").mean == 1
    assert _find(lines, CHANCE, "", "part_share").mean == pytest.approx(1 / 3, abs=0.02)
    assert _find(lines, CONTROL, "uniform", "part_share").mean == _find(lines, CHANCE, "", "part_share").mean
    assert _find(lines, CONTROL, "gaussian", "part_energy").mean > 0
    with pytest.raises(FinerCAMError, match="'parts' needs keypoints, and attributes of the classes"):
        evaluate(Squares(), model, tmp_path / "none", groups=["parts"])


def test_a_control_has_a_name(model):
    with pytest.raises(FinerCAMError, match="expected one of uniform, gaussian, shuffled"):
        control_maps("noise", torch.ones(1, 2, 2), [0])


def test_names_stay_as_they_are_in_the_summary(tmp_path, model):
    data = Squares(3)
    data.name = "NaN birds"
    evaluate(data, model, tmp_path, groups=["shape"])
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["settings"]["dataset"] == "NaN birds"
    assert next(line["difference"] for line in found["lines"] if line["method"] == CONTROL) is None
