"""The code of docs/datasets.md runs, on small data sets in the place of the published ones."""

from __future__ import annotations


def test_datasets(run_page, cub_tree, funnybirds_tree, tmp_path, capsys):
    names = run_page("datasets.md", {"/data": str(tmp_path)})
    assert "CUB-200-2011 test: 2 pictures, 2 classes" in capsys.readouterr().out
    assert names["sample"].annotation.box == (10, 5, 40, 25)
    assert names["birds"].discriminative_parts(0, 1) == ("beak",)
    assert names["birds"].contrast_mask(0, 1).any()
