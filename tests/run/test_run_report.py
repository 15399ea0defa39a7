"""A run as a live page and as maps for the evaluation, without the model."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from finercam import FinerCAM, FinerCAMError, load_model, open_run
from finercam.commands.report import write_run_report
from finercam.run import explain_dataset
from finercam.run.reader import stored_answers


def test_the_page_of_a_run(tmp_path, pictures_in, toy):
    data, loaded = pictures_in(tmp_path / "data", 7), toy(names=["wren", "<b>robin</b>", "finch", "heron", "swift"])
    explain_dataset(data, loaded, tmp_path / "run", shard=4, batch=2, keep=3)
    (data / "wren" / "000.png").unlink()  # the page goes without its photo
    run = open_run(tmp_path / "run")
    page, count = write_run_report(run, tmp_path / "page.html", limit=6, gamma=0.9)
    text = page.read_text()
    assert count == 6 and text.count('"askedNames"') == 6 and "<b>robin" not in text and '"gamma":0.9' in text
    labelled = run.table(["label_id", "top_ids"]).to_pylist()
    wrong = [row for row in labelled if row["label_id"] is not None and row["top_ids"][0] != row["label_id"]]
    if wrong:
        assert write_run_report(run, tmp_path / "wrong.html", only="wrong")[1] == len(wrong)
    explain_dataset(data, loaded, tmp_path / "other", method="layercam", gammas=[1.0])
    with pytest.raises(FinerCAMError, match="single maps of layercam"):
        write_run_report(open_run(tmp_path / "other"), tmp_path / "no.html")


def test_the_command_of_the_page(tmp_path, pictures_in, toy):
    from finercam.cli import app

    explain_dataset(pictures_in(tmp_path / "data", 3), toy(), tmp_path / "run")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and "3 images" in done.stdout


@pytest.mark.slow
def test_the_default_preset_from_the_run_to_the_page(tmp_path, pictures_in, saved_model):
    from finercam.cli import app

    data, out, page = pictures_in(tmp_path / "data", 3), tmp_path / "run", tmp_path / "page.html"
    line = ["run", str(data), "-m", str(saved_model), "-o", str(out), "--preset", "fine", "--device", "cpu"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    run, loaded = open_run(out), load_model(str(saved_model))
    explain = FinerCAM(loaded.model, class_names=loaded.class_names)
    for position, path in enumerate(run.table(["path"]).column("path").to_pylist()):
        fresh = explain(loaded.preprocess(run.picture(position, path))[None])
        stored = run[position]
        assert stored.layers == fresh.layers and len(fresh.layers) > 1
        assert (stored.method, stored.question.fusion) == ("finecam", "product")
        assert stored.references.tolist() == fresh.references.tolist()
        for gamma in (0.0, 0.7, 1.0):
            torch.testing.assert_close(
                stored.ask(gamma=gamma).signed, fresh.ask(gamma=gamma).signed, rtol=1e-3, atol=1e-4
            )
    done = CliRunner().invoke(app, ["report", str(out), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text().count('"fusion":"product"') == 3


def test_some_images_for_the_evaluation(tmp_path, pictures_in, toy):
    explain_dataset(pictures_in(tmp_path / "data", 7), toy(), tmp_path / "run", shard=4, batch=2)
    run = open_run(tmp_path / "run")
    parts = stored_answers(run, [5, 0, 4])  # of two files, in the order of the files
    assert [(places, rows.column("position").to_pylist()) for places, rows, _ in parts] == [
        ([1], [0]),
        ([2, 0], [4, 5]),
    ]
    for places, _, answer in parts:
        for at, place in enumerate(places):
            assert torch.equal(answer[at].ask(gamma=1.0).signed, run[[5, 0, 4][place]].ask(gamma=1.0).signed)
