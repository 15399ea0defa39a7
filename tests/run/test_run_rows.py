"""What a run writes and what open_run makes of it, against the explainer itself."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from finercam import FinerCAM, FinerCAMError, open_run
from finercam.core.evidence import NotKept
from finercam.images import read_image
from finercam.run import explain_dataset

NAMES = ["wren", "robin", "finch", "heron", "swift"]


def fresh(loaded, folder, paths, **options):
    images = torch.stack([loaded.preprocess(read_image(folder / path)) for path in paths])
    return FinerCAM(loaded.model, class_names=loaded.class_names, **{"preset": "measured", **options})(images)


@pytest.mark.parametrize(
    ("method", "layer", "references"),
    [
        ("gradcam", None, {"preset": "paper"}),
        ("gradcam", ["stage1", "stage2"], {"references": "predicted", "num_references": 2, "weights": "probability"}),
        ("xgradcam", "stage1", {"references": "nearest", "num_references": 2}),
        ("scorecam", None, {"references": "predicted"}),
    ],
)
def test_a_run_answers_as_the_explainer_does(tmp_path, pictures_in, toy, method, layer, references):
    data, loaded = pictures_in(tmp_path / "data", 7), toy()
    explain_dataset(data, loaded, tmp_path / "run", method=method, layer=layer, batch=3, shard=4, **references)
    run = open_run(tmp_path / "run")
    parts = list(run.parts())
    assert [position for part in parts for position in part.positions] == list(range(7))
    for part in parts:
        asked = fresh(loaded, data, part.paths, method=method, layer=layer, **references)
        assert part.answer.target.tolist() == asked.target.tolist()
        assert part.answer.references.tolist() == asked.references.tolist()
        torch.testing.assert_close(part.answer.similarity, asked.similarity, equal_nan=True)
        torch.testing.assert_close(part.answer.probabilities, asked.probabilities, atol=1e-5, rtol=1e-4)
        for question in ({}, {"gamma": 0.0}, {"gamma": 1.3}, {"against": asked.references[:, :1], "gamma": 1.0}):
            want, got = asked.ask(**question), part.answer.ask(**question)
            scale = float(want.signed.abs().max()) or 1.0
            torch.testing.assert_close(got.signed / scale, want.signed / scale, atol=4e-3, rtol=0)
            torch.testing.assert_close(got.maps, want.maps, atol=0.02, rtol=0)
        if method != "scorecam":
            want, got = asked.reverse(), part.answer.reverse()
            scale = float(want.signed.abs().max()) or 1.0
            torch.testing.assert_close(got.signed / scale, want.signed / scale, atol=4e-3, rtol=0)


def test_half_floats_lose_nothing_of_small_evidence(tmp_path, pictures_in, toy, toys):
    model = toys.gap(seed=1)
    with torch.no_grad():  # maps of about 1e-9, far below what float16 holds
        model.head.weight.mul_(1e-8)
    data, loaded = pictures_in(tmp_path / "data", 3), toy(model)
    explain_dataset(data, loaded, tmp_path / "run")
    part = next(open_run(tmp_path / "run").parts())
    want = fresh(loaded, data, part.paths).plain
    assert 0 < want.signed.abs().max() < 1e-6
    torch.testing.assert_close(part.answer.plain.maps, want.maps, atol=1e-3, rtol=0)


def test_other_classes_are_kept_if_asked_for(tmp_path, pictures_in, toy):
    data, loaded = pictures_in(tmp_path / "data", 6), toy()
    explain_dataset(data, loaded, tmp_path / "few", shard=2, batch=2)
    explain_dataset(data, loaded, tmp_path / "all", shard=2, batch=2, keep=5)
    few, every = open_run(tmp_path / "few"), open_run(tmp_path / "all")
    for rival in NAMES:
        answered = {path: part for part in every.ask(against=rival, gamma=1.0) for path in part.paths}
        table = every.table(["path", "target"]).to_pylist()
        assert set(answered) == {row["path"] for row in table if row["target"] != rival}
        for part in {id(part): part for part in answered.values()}.values():
            want = fresh(loaded, data, part.paths, gamma=1.0).ask(against=rival)
            torch.testing.assert_close(part.answer.maps, want.maps, atol=0.02, rtol=0)
    with pytest.raises(NotKept):
        one = few[0]
        one.ask(against=[name for name in NAMES if name not in one.target_names + one.reference_names[0]][:1])


def test_a_method_that_is_not_linear_keeps_what_it_says(tmp_path, pictures_in, toy):
    data, loaded = pictures_in(tmp_path / "data", 5), toy()
    explain_dataset(data, loaded, tmp_path / "run", method="layercam", layer="stage1", gammas=[0.9], batch=2)
    run = open_run(tmp_path / "run")
    part = next(run.parts())
    want = fresh(loaded, data, part.paths, method="layercam", layer="stage1")
    for gamma in (0.0, 0.6, 0.9):
        torch.testing.assert_close(part.answer.ask(gamma=gamma).maps, want.ask(gamma=gamma).maps, atol=5e-3, rtol=0)
    torch.testing.assert_close(part.answer[2].plain.maps, want[2].plain.maps, atol=5e-3, rtol=0)
    for question in ({"gamma": 0.5}, {"against": part.answer.target_names[:1], "target": 4}, {"method": "gradcam"}):
        with pytest.raises(NotKept):
            part.answer[0].ask(**question)
    with pytest.raises(FinerCAMError):
        part.answer.sweep([0.0, 0.3])


def test_plain_readers_need_nothing_of_ours(tmp_path, pictures_in, toy):
    data, loaded = pictures_in(tmp_path / "data", 5), toy()
    explain_dataset(data, loaded, tmp_path / "run", preset="paper", batch=2, shard=2)
    table = pq.read_table(tmp_path / "run" / "rows")  # a folder of files, as DuckDB and Polars take them too
    row = table.slice(0, 1).to_pylist()[0]
    height, width = row["grid"]
    maps = np.float32(row["evidence"]).reshape(len(row["kept_ids"]), height, width) * row["scale"][0]
    ours = maps[0] - row["gamma"] * maps[1:].mean(0)
    assert row["kept_ids"] == [row["target_id"], *row["reference_ids"]]
    signed = open_run(tmp_path / "run")[0].signed[0].numpy()
    np.testing.assert_allclose(ours, signed, atol=1e-6 * np.abs(signed).max())
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "run" / "rows")
    assert frame.path.tolist() == sorted(frame.path) == frame.path.unique().tolist()
    assert frame.label.tolist() == [path.split("/")[0] for path in frame.path]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["settings"]["layers"] == ["stage2"] and len(manifest["settings"]["weights_sha256"]) == 64
    assert not list((tmp_path / "run").rglob("*.pkl")) and "evidence" in frame


def test_logits_out_of_the_likeliest_are_right_where_they_are_known(tmp_path, pictures_in, toy, toys):
    data, loaded = pictures_in(tmp_path / "data", 4), toy(toys.gap(classes=40), names=None)
    explain_dataset(data, loaded, tmp_path / "run", top=3)
    part = next(open_run(tmp_path / "run").parts())
    want = fresh(loaded, data, part.paths)
    top = want.logits.topk(3).indices
    torch.testing.assert_close(part.answer.logits.gather(1, top), want.logits.gather(1, top), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(part.answer.probabilities.sum(1), torch.ones(4))
    torch.testing.assert_close(part.answer.probabilities.gather(1, top), want.probabilities.gather(1, top))
    assert part.answer.logits.argmax(1).tolist() == want.logits.argmax(1).tolist()


def test_by_position_by_path_and_one_by_one(tmp_path, pictures_in, toy):
    data = pictures_in(tmp_path / "data", 5)
    (data / "robin" / "001.png").write_bytes(b"")
    explain_dataset(data, toy(), tmp_path / "run", shard=2, batch=2)
    run = open_run(tmp_path / "run")
    assert len(run) == 5 and run.finished and len(list(run)) == 4
    assert torch.equal(run["wren/000.png"].signed, run[2].signed) and torch.equal(run[-4].logits, run[1].logits)
    with pytest.raises(FinerCAMError, match=r"robin/001\.png was not explained: unreadable: is empty"):
        run[0]
    with pytest.raises(FinerCAMError, match="no image 'x'"):
        run["x"]
    with pytest.raises(IndexError):
        run[5]


def test_pictures_of_many_shapes(tmp_path, toy, toys, paint):
    sizes = [(16, 16), (24, 16), (16, 16), (16, 32), (24, 16), (16, 16), (40, 16)]
    for seed, size in enumerate(sizes):
        paint(tmp_path / "data" / f"{seed}.png", seed, size)
    loaded = toy(toys.gap(), mode="native", multiple=8)
    explain_dataset(tmp_path / "data", loaded, tmp_path / "run", shard=4, batch=2)
    run = open_run(tmp_path / "run")
    shapes = run.table(["path", "input_width", "input_height", "grid"]).to_pylist()
    assert [(row["input_width"], row["input_height"]) for row in shapes] == sizes
    for position, size in enumerate(sizes):
        want = fresh(loaded, tmp_path / "data", [f"{position}.png"])
        assert run[position].maps.shape == (1, size[1], size[0])
        torch.testing.assert_close(run[position].maps, want.maps, atol=5e-3, rtol=0)


def test_half_precision_stays_within_its_tolerance(tmp_path, pictures_in, toy):
    data, loaded = pictures_in(tmp_path / "data", 6), toy()
    for precision in ("float32", "bfloat16"):
        explain_dataset(data, loaded, tmp_path / precision, precision=precision, target=0, against=["robin"])
    exact, rough = (next(open_run(tmp_path / name).parts()).answer.signed_maps for name in ("float32", "bfloat16"))
    assert not torch.equal(exact, rough)
    assert torch.nn.functional.cosine_similarity(exact.flatten(1), rough.flatten(1)).min() > 0.99


def test_half_precision_that_changes_the_maps_is_said(tmp_path, pictures_in, toy):
    """Untrained gates near their threshold turn over with the rounding of what comes before them."""

    class Gated(torch.nn.Module):
        def __init__(self, gated: bool) -> None:
            super().__init__()
            self.stage, self.head = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Linear(8, 5)
            self.gated = gated

        def forward(self, x):
            maps = self.stage(x)
            return self.head((torch.sin(3e4 * maps) if self.gated else maps).mean((2, 3)))

    data = pictures_in(tmp_path / "data", 3)
    for gated in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loaded, said = toy(Gated(gated).eval(), size=(16, 16)), list[str]()
        for precision in ("float32", "bfloat16"):
            explain_dataset(
                data,
                loaded,
                tmp_path / f"{gated}{precision}",
                precision=precision,
                layer=("stage",),
                warn=said.append,
            )
        assert len(said) == gated
    assert re.fullmatch(
        r"precision bfloat16: the maps of the first 3 pictures have a cosine of down to -?0\.\d\d with .*", said[0]
    )


def test_half_precision_keeps_the_sign_of_xgradcam_after_a_layer_norm(tmp_path, pictures_in, toy):
    """Before the last block of a ViT channels sum to nearly zero; XGrad-CAM divides by these sums."""
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=64, depth=2, patch_size=4, num_classes=5
        ).eval()  # fmt: skip
    data, loaded = pictures_in(tmp_path / "data", 6), toy(model, size=(64, 64))
    for precision in ("float32", "bfloat16"):
        question = {"precision": precision, "method": "xgradcam", "target": 0, "against": ["robin"]}
        explain_dataset(data, loaded, tmp_path / precision, **question)
    exact, rough = (next(open_run(tmp_path / name).parts()).answer.signed for name in ("float32", "bfloat16"))
    assert torch.nn.functional.cosine_similarity(exact.flatten(1), rough.flatten(1)).min() > 0.99


@pytest.mark.parametrize("strategy", ["predicted", "nearest"])
def test_another_target_gets_its_rivals_by_the_strategy_of_the_run(tmp_path, pictures_in, toy, strategy):
    data, loaded = pictures_in(tmp_path / "data", 8), toy()
    question = {"references": strategy, "num_references": 2}
    explain_dataset(data, loaded, tmp_path / "run", keep=5, batch=8, **question)
    part = next(open_run(tmp_path / "run").parts())
    want = fresh(loaded, data, part.paths, keep=5, **question)
    other = want.logits.topk(3).indices[:, 2]
    got, want = part.answer.ask(target=other), want.ask(target=other)
    assert got.references.tolist() == want.references.tolist() and got.strategy == strategy
    torch.testing.assert_close(got.maps, want.maps, atol=0.02, rtol=0)


def test_rivals_that_a_run_cannot_pick_are_refused(tmp_path, pictures_in, toy):
    data, loaded = pictures_in(tmp_path / "data", 8), toy()
    explain_dataset(data, loaded, tmp_path / "run", keep=5, batch=8, references="similar")
    answer = next(open_run(tmp_path / "run").parts()).answer
    with pytest.raises(NotKept, match="no model to pick similar rival classes"):
        answer.ask(target=answer.references[:, 0])
    assert answer.ask(target=answer.references[:, 0], against=answer.target[:, None]).strategy == "explicit"


@pytest.mark.parametrize(("top", "answered"), [(1, 0), (2, 0), (3, 8), (5, 8)])
@pytest.mark.parametrize("strategy", ["predicted", "nearest"])
def test_rivals_are_picked_by_known_logits_alone(tmp_path, pictures_in, toy, strategy, top, answered):
    """The second likeliest class as target: that the third one is its rival is known from the highest three logits."""
    data, loaded = pictures_in(tmp_path / "data", 8), toy()
    question = {"references": strategy, "num_references": 2}
    explain_dataset(data, loaded, tmp_path / "run", batch=8, keep=3, top=top, **question)
    run, picked = open_run(tmp_path / "run"), 0
    for path in run.table(["path"]).column(0).to_pylist():
        want = fresh(loaded, data, [path], keep=5, **question)
        second = want.logits.topk(2).indices[:, 1]
        try:
            got = run[path].ask(target=second).references.tolist()
        except NotKept:
            continue
        picked += 1
        assert got == want.ask(target=second).references.tolist()
    assert picked == answered if strategy == "predicted" else picked <= answered


def test_a_limit_larger_than_every_number_of_the_machine_is_none(tmp_path, pictures_in, toy):
    outcome = explain_dataset(pictures_in(tmp_path / "data", 2), toy(), tmp_path / "run", limit=10**30)
    assert outcome.counts == {"ok": 2}
    with pytest.raises(FinerCAMError, match=r"shard=1000000.*: expected"):
        explain_dataset(tmp_path / "data", toy(), tmp_path / "other", shard=10**30)
