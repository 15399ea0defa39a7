"""The code of docs/scale.md runs on the files of a run, and its map is the run's own."""

from __future__ import annotations

import torch

from finercam.run import explain_dataset


def test_scale(run_page, pictures_in, paint, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pictures_in(tmp_path / "photos", 4)
    paint(data / "wren" / "017.jpg", 17)
    names = ["wren", "robin", "House Wren", "heron", "swift"]
    explain_dataset(data, toy(names=names), tmp_path / "out" / "run", keep=5, limit=None)
    made = run_page("scale.md")
    first = made["run"].ask(gamma=0.9)
    signed = next(iter(first)).answer.signed[0]
    torch.testing.assert_close(
        torch.from_numpy(made["finer"]), signed, rtol=2e-3, atol=1e-3 * float(signed.abs().max())
    )
