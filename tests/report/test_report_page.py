"""The code of docs/report.md runs."""

from __future__ import annotations

from PIL import Image

from finercam.images import Preprocess


def test_report(run_page, explain, images, class_names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in class_names:
        (tmp_path / "examples").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), "teal").save(tmp_path / "examples" / f"{name}.png")
    files, labels = ["a.jpg", "b.jpg", "c.jpg"], class_names[:3]
    given = {"images": images, "files": files, "labels": labels, "preprocess": Preprocess((60, 84))}
    run_page("report.md", explain=explain(), **given)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(file in page for file in files)
