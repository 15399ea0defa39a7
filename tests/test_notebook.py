"""The quick tour runs from top to bottom, offline, and what it shows is what its words say."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quicktour.ipynb"
LIMIT = 1_500_000


def test_what_is_committed_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < LIMIT
    sources = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    told = "\n".join(sources) + json.dumps([cell.get("outputs", []) for cell in json.loads(text)["cells"]])
    assert not re.search(r"pypi|pythonhosted|npmjs|/(tmp|work|root|home)/", told)
    assert "find_spec" in sources[0]


@pytest.mark.slow
@pytest.mark.system
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="no nbformat: the notebook is not run")
    nbclient = pytest.importorskip("nbclient", reason="no nbclient: the notebook is not run")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    book = nbformat.read(NOTEBOOK, 4)
    before = [cell.source for cell in book.cells]
    nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert [cell.source for cell in book.cells] == before
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code[0].outputs == []  # installs nothing where finercam is
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) >= 6
    told = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "Royal Pippin (100%) rather than Barred Pippin" in told
    accuracy = re.search(r"accuracy on 30 new pictures: (\d+)%", told)
    assert accuracy and int(accuracy[1]) >= 90
    table = re.sub(r"\x1b\[\d*m", "", told)
    energy = {ask: float(re.search(rf"gradcam +{ask} +(\d\.\d+)", table)[1]) for ask in ("plain", "pair")}
    assert energy["pair"] > 1.3 * energy["plain"]
    assert re.search(r"report\.html \d+ kB; \['bird-2\.npz', 'bird-2\.png'", told)
