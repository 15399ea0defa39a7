"""Panels reach the trackers' own files."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finercam import FinerCAM, FinerCAMError
from finercam.tracking import log_contrasts

NAMES = ["wren", "<i>robin</i>", "finch/siskin", "owl"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()


@pytest.fixture(scope="module")
def answer(model):
    return FinerCAM(model, class_names=NAMES, preset="measured")(torch.rand(2, 3, 24, 24))


@pytest.mark.slow
def test_tensorboard(answer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log_contrasts(writer, "birds", answer, 7)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["birds/0", "birds/1"]
    (picture,) = events.Images("birds/1")
    assert picture.step == 7 and picture.width > picture.height > 100


@pytest.mark.slow
@pytest.mark.integration
def test_weights_and_biases(answer, tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed; make integrations")
    with wandb.init(mode="offline", dir=str(tmp_path), project="birds") as run:
        log_contrasts(run, "birds", answer, 3)
    assert len([Image.open(file) for file in tmp_path.rglob("media/images/**/*.png")]) == 2


@pytest.mark.slow
@pytest.mark.integration
def test_mlflow(answer, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed; make integrations")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run():
        log_contrasts(mlflow, "birds/finch", answer, 3)
    found = sorted(file.name for file in (tmp_path / "runs").rglob("artifacts/birds/finch/*.png"))
    assert found == ["000003-0.png", "000003-1.png"]


@pytest.mark.slow
@pytest.mark.integration
def test_lightning_logs_the_most_confused_pairs(model, tmp_path):
    pytest.importorskip("lightning", reason="lightning is not installed; make integrations")
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from finercam.tracking import ContrastCallback

    images = torch.rand(8, 3, 24, 24)
    predicted = model(images).argmax(1)
    true = (predicted + 1) % 4
    data = DataLoader(TensorDataset(images, true), batch_size=4)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    board = TensorBoardLogger(str(tmp_path / "board"))
    callback = ContrastCallback(data, NAMES, pairs=1, preset="fast")
    trainer = pl.Trainer(
        max_epochs=2, logger=[board, CSVLogger(str(tmp_path / "csv"))], callbacks=[callback], accelerator="cpu",
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), data, data)
    events = EventAccumulator(board.log_dir)
    events.Reload()
    (tag,) = events.Tags()["images"]
    most = torch.bincount(predicted, minlength=4).argmax().item()
    assert tag == f"contrasts/{NAMES[(most + 1) % 4]} as {NAMES[most]}/0"
    assert len(events.Images(tag)) == 2


def test_what_logs_no_pictures_is_refused(answer):
    with pytest.raises(FinerCAMError, match="cannot log pictures"):
        log_contrasts(object(), "birds", answer)
