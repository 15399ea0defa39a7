"""evaluate from a finished run: the same numbers as with the model, without calling it for maps."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from finercam import FinerCAMError, open_run
from finercam.cli import app
from finercam.data import open_dataset
from finercam.evaluation import evaluate
from finercam.images import Preprocess
from finercam.models import load_model
from finercam.run import explain_dataset

DATA = "fieldguide:12?seed=5"
MAPS = ["localisation", "contrastive"]


@pytest.fixture(scope="module")
def model():
    return load_model("fieldguide/cnn")


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Runs of the same pictures: one keeps every class, one no more than it needs."""
    place = tmp_path_factory.mktemp("runs")
    explain_dataset(DATA, model, place / "all", keep=len(model.class_names), batch=4, shard=8)
    explain_dataset(DATA, model, place / "few", target="label", batch=4, shard=8)
    return place


@pytest.fixture
def calls(model):
    """How many pictures went through the model."""
    seen: list[int] = []
    handle = model.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    yield seen
    handle.remove()


def _rows(out):
    found = {}
    for part in sorted((out / "parts").glob("*.parquet")):
        for row in pq.read_table(part).to_pylist():
            found[row["index"], row.get("method"), row.get("contrast")] = row
    return found


def _same(got, want, tolerance):
    assert got.keys() == want.keys()
    for key, row in want.items():
        assert row.keys() == got[key].keys()
        for name, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                assert math.isnan(got[key][name])
            else:
                near = pytest.approx(value, abs=tolerance, rel=tolerance) if isinstance(value, float) else value
                assert got[key][name] == near, (key, name)


@pytest.mark.slow
def test_maps_of_a_run_measure_as_those_of_the_model_and_call_it_never(tmp_path, model, made, calls):
    birds, asks = open_dataset(DATA), ["pair", "all:1:1:probability", "random"]
    lines = evaluate(birds, model, tmp_path / "run", None, asks, MAPS, run=made / "all", batch_size=5)
    assert calls == []
    evaluate(birds, model, tmp_path / "model", ["gradcam"], asks, MAPS, batch_size=5)
    assert sum(calls) >= 12
    _same(_rows(tmp_path / "run"), _rows(tmp_path / "model"), 5e-3)
    assert {line.contrast for line in lines if line.method == "gradcam"} == {"plain", *asks}
    assert "maps as a run kept them" in (tmp_path / "run" / "summary.md").read_text()
    assert "layer features" in (tmp_path / "run" / "summary.md").read_text()
    with pytest.raises(FinerCAMError, match=r"other settings \(layer, run\)"):
        evaluate(birds, model, tmp_path / "run", ["gradcam"], asks, MAPS, layer="features.0")


def test_removal_and_missing_logits_run_the_model_but_no_gradients(tmp_path, model, made, calls):
    birds = open_dataset(DATA)
    first = evaluate(birds, model, tmp_path / "few", None, None, ["shape"], run=open_run(made / "few"))
    assert calls == [12]  # the logits of the classes that the run did not keep, in one batch
    assert {line.contrast for line in first if line.method == "gradcam"} == {"plain", "predicted:1:0.6:mean"}
    evaluate(birds, model, tmp_path / "run", None, ["pair"], ["kept"], run=made / "all", limit=4)
    evaluate(birds, model, tmp_path / "model", None, ["pair"], ["kept"], limit=4)
    _same(_rows(tmp_path / "run"), _rows(tmp_path / "model"), 5e-3)


def test_what_cannot_be_taken_from_the_run_is_one_line(tmp_path, model, made):
    def refused(data=DATA, of="few", **options):
        with pytest.raises(FinerCAMError) as caught:
            evaluate(open_dataset(data), model, tmp_path, groups=["shape"], run=made / of, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has no row of fieldguide-6-128/000000" in refused("fieldguide:12?seed=6")
    assert "has no row of fieldguide-5-128/000012" in refused("fieldguide:13?seed=5")
    assert "methods layercam: the maps in" in refused(methods=["layercam"])
    told = refused(contrasts=["similar:3:1"])
    assert told.startswith("contrast 'similar:3:1' needs")
    keep = int(told.split("--keep ")[1].split()[0])
    assert 2 < keep <= len(model.class_names) and f"({len(model.class_names)} keeps every class)" in told
    assert "weights='orthogonal' needs the channels" in refused(of="all", contrasts=["predicted:1:1:orthogonal"])


def test_another_model_or_target_than_the_runs_is_one_line(tmp_path, model, made):
    birds, other = open_dataset(DATA), copy.deepcopy(model.model)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    for changed, why in (
        (replace(model, model=other), "is of fieldguide/cnn and its weights"),
        (replace(model, preprocess=Preprocess((64, 64))), "preprocessed otherwise"),
    ):
        with pytest.raises(FinerCAMError, match=why):
            evaluate(birds, changed, tmp_path, groups=["shape"], run=made / "few")
    explain_dataset(DATA, model, tmp_path / "run", method="layercam", target=0, limit=2)
    with pytest.raises(FinerCAMError, match="own targets alone: give both the same --target"):
        evaluate(birds, model, tmp_path, groups=["shape"], run=tmp_path / "run", limit=2)


@pytest.mark.slow
def test_what_it_says_to_keep_is_enough(tmp_path, model, made):
    birds = open_dataset(DATA)
    with pytest.raises(FinerCAMError) as caught:
        evaluate(birds, model, tmp_path / "a", None, ["similar:1:1"], ["shape"], run=made / "few")
    keep = int(str(caught.value).split("--keep ")[1].split()[0])
    explain_dataset(DATA, model, tmp_path / "less", target="label", keep=keep - 1)
    with pytest.raises(FinerCAMError, match=f"--keep {keep} or more"):
        evaluate(birds, model, tmp_path / "a", None, ["similar:1:1"], ["shape"], run=tmp_path / "less")
    explain_dataset(DATA, model, tmp_path / "more", target="label", keep=keep)
    # a refused evaluation leaves nothing that another run of it would trip over
    assert evaluate(birds, model, tmp_path / "a", None, ["similar:1:1"], ["shape"], run=tmp_path / "more")


def test_another_picture_under_the_same_name_is_refused(tmp_path, model, made):
    class Repainted(type(open_dataset(DATA))):
        def image(self, index):
            return super().image(index if index != 3 else 4)

    with pytest.raises(FinerCAMError, match="fieldguide-5-128/000003 of fieldguide is not the picture"):
        evaluate(Repainted(12, 5), model, tmp_path, groups=["shape"], run=made / "all")


def test_pictures_in_files_are_matched_by_path_and_the_unexplained_counted(tmp_path, model):
    for index in range(5):
        (tmp_path / "data" / "Wren").mkdir(parents=True, exist_ok=True)
        open_dataset(DATA).image(index).save(tmp_path / "data" / "Wren" / f"{index}.png")
    explain_dataset(tmp_path / "data", model, tmp_path / "run", method="layercam")
    (tmp_path / "data" / "Wren" / "3.png").unlink()  # the places of those after it change
    command = ["evaluate", tmp_path / "data", "--model", "fieldguide/cnn", "--run", tmp_path / "run", "--out",
               tmp_path / "out", "--metrics", "shape", "--target", "prediction"]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    lines = evaluate(
        open_dataset(tmp_path / "data"), model, tmp_path / "model", ["layercam"], ["predicted:1:0.6:mean"], ["shape"],
        target="prediction",
    )  # fmt: skip
    assert {line.pictures for line in lines} == {4}
    _same(_rows(tmp_path / "out"), _rows(tmp_path / "model"), 5e-3)
    (tmp_path / "data" / "Wren" / "0.png").write_bytes((tmp_path / "data" / "Wren" / "1.png").read_bytes())
    done = CliRunner().invoke(app, [*map(str, command), "--redo"])
    assert done.exit_code == 2 and "Wren/0.png of data is not the picture" in done.stderr
