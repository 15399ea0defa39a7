"""The engine's benchmark at tiny size: what is timed is the same question, answered by the same map."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import clock, engine, subjects

from finercam import Explanation, FinerCAM
from finercam.core.maps import upsample

pytestmark = [
    pytest.mark.peers,
    *(pytest.mark.skipif(find_spec(name) is None, reason=f"no {name}") for name in ("torchcam", "pytorch_grad_cam")),
]


class Small(nn.Module):
    """Features that a linear head reads after mean pooling; a large head, so that classes differ."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Tanh(), nn.Conv2d(6, 12, 3, stride=2))
        self.head = nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).relu().mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Patches and a class token through one block of attention; the class token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.norm1 = nn.LayerNorm(16)
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], dim=1)
        y = self.norm1(tokens)
        return self.head((tokens + self.mix(y, y, y, need_weights=False)[0])[:, 0])


@pytest.fixture(params=["maps", "tokens"])
def subject(request) -> subjects.Subject:
    torch.manual_seed(0)
    if request.param == "tokens":
        model, layer, prefix = Tokens().eval(), "norm1", 1
    else:
        model, layer, prefix = Small().eval(), "features", None
    model.head.weight.data *= 5
    return subjects.Subject(request.param, model, layer, side=32, prefix=prefix)


def test_torch_cam_answers_the_same_question(subject):
    images = subject.images(3)
    mine = subjects.ours(subject, images, references="nearest")()
    assert bool((mine.maps.amax(dim=(1, 2)) > 0).all())
    _assert_same(mine, subjects.torch_cam(subject, images)())


def test_grad_cam_answers_the_same_question(subject):
    images = subject.images(3)
    mine = subjects.ours(subject, images, references="nearest", weights="released", gamma=1.0)()
    _assert_same(mine, torch.from_numpy(subjects.grad_cam(subject, images)()), tolerance=2e-3)


def test_sweeps_answer_all_33_questions(subject):
    images = subject.images(2)
    swept = [maps for mode in subjects.our_sweep(subject, images, references="nearest")() for maps in mode]
    answer = subjects.ours(subject, images, references="nearest", keep="closest")()
    pair = answer.ask(against=[[row[0]] for row in answer.references.tolist()])
    asked = [(answer, 0.0)] * 11 + [(each, gamma) for each in (answer, pair) for gamma in subjects.GAMMAS]
    mine = [question.ask(gamma=gamma) for question, gamma in asked]
    again, kept = (subjects.torch_cam_sweep(subject, images, retain=retain)() for retain in (False, True))
    assert len(swept) == len(again) == len(kept) == len(subjects.grad_cam_sweep(subject, images)()) == 33
    for maps, one, other, third in zip(swept, mine, again, kept, strict=True):
        torch.testing.assert_close(maps, one.maps, rtol=1e-3, atol=1e-4)
        _assert_same(one, other)
        torch.testing.assert_close(other, third)


def test_our_sweep_runs_the_model_once(subject):
    sweep, runs = subjects.our_sweep(subject, subject.images(2)), []
    with subject.model.register_forward_hook(lambda *_: runs.append(1)):
        sweep()
    assert len(runs) == 1


def test_all_variants_of_one_contrast_are_timed(subject):
    works = engine.one_contrast(subject, subject.images(1))
    assert tuple(works) == engine.ONE_CONTRAST
    measured = clock.summary(clock.interleaved(works, rounds=1))
    assert all(entry["rounds"] == 1 and entry["wall"]["seconds"] > 0 for entry in measured.values())


def test_score_cam_gives_the_peers_map():
    torch.manual_seed(0)
    model = Small().eval()
    model.head.weight.data *= 20  # or the softmax over channels weighs all alike
    subject = subjects.Subject("maps", model, "features", side=32)
    images = subject.images(2)
    mine = FinerCAM(model, "scorecam-softmax", gamma=0.0, layer="features")(images)
    assert torch.equal(mine.maps, subjects.our_score_cam(subject, images)())
    _assert_same(mine, subjects.peer_score_cam(subject, images, centred=True)())


def test_ratios_are_paired_by_round():
    times = {
        "forward": {"wall": [1.0, 2.0, 4.0], "cpu": [1.0, 1.0, 1.0]},
        "twice": {"wall": [2.0, 4.0, 8.0], "cpu": [2.0, 2.0, 3.0]},
    }
    found = clock.summary(times)["twice"]
    assert found["wall"]["ratio"] == 2.0
    assert found["wall"]["quartiles"] == [2.0, 2.0]
    assert found["wall"]["seconds"] == 4.0
    assert found["cpu"]["quartiles"] == [2.0, 2.5]


def test_slow_works_run_in_fewer_rounds():
    runs = {"forward": 0, "slow": 0}

    def work(name):
        def run():
            runs[name] += 1

        return run

    clock.interleaved({name: work(name) for name in runs}, rounds=4, slow={"slow": 1})
    assert runs == {"forward": 5, "slow": 1}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the resident set")
def test_peak_memory_sees_what_one_call_takes_and_frees():
    wanted = 64 * 2**20

    def work():
        return torch.ones(wanted // 4).sum()

    found = clock.peak_bytes(work, lambda: torch.ones(4).sum())
    assert 0.95 * wanted < found < 1.3 * wanted


def test_import_part_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        clock, "import_times", lambda names, rounds: {n: {"wall": [1.0], "cpu": [1.0]} for n in names}
    )
    before = torch.get_num_threads()
    engine.main(["--only", "import", "--out", str(tmp_path / "engine.json")])
    torch.set_num_threads(before)
    written = json.loads((tmp_path / "engine.json").read_text())
    assert written["import"]["finercam"]["wall"]["ratio"] == 1.0
    assert {"versions", "processor", "threads", "load_average", "commit"} <= set(written["surroundings"])
    assert "finercam" in capsys.readouterr().out


def _assert_same(mine: Explanation, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Peers take the ReLU before they upsample, and scale each map to [0, 1]; so is ours here."""
    size = (theirs.shape[1], theirs.shape[2])
    large = upsample(mine.signed.clamp(min=0), size)
    torch.testing.assert_close(
        subjects.on_unit_scale(large), subjects.on_unit_scale(theirs).to(large), rtol=0, atol=tolerance
    )
