"""Every door to a hub with the network refused, or without names being resolved: one clear line, and soon."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from finercam.cli import app
from finercam.concept import load_image_text
from finercam.errors import FinerCAMError
from finercam.models import load_model
from finercam.models.backbone import load_backbone

pytestmark = pytest.mark.slow  # imports the libraries of models

SAYS = "are not on this machine and the hub that has them cannot be reached; connect, or give a local folder"


@pytest.fixture(params=["refused", "no names"])
def away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """No network and empty caches; lists what was tried. Waiting would be a retry."""
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    def resolve(host: Any, port: Any, *_args: Any, **_options: Any) -> list[Any]:
        if request.param == "no names":
            tried.append(host)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port or 443))]

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))  # open_clip keeps OpenAI's weights under it
    return tried


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (load_model, "timm/vit_tiny_patch16_224"),
        (load_model, "hf/facebook/dinov2-small-imagenet1k-1-layer"),
        (load_model, "torchvision/squeezenet1_1"),
        (load_model, "open_clip/RN50/openai"),
        (load_backbone, "timm/vit_small_patch14_dinov2.lvd142m"),
        (load_backbone, "timm/vit_small_patch16_dinov3.lvd1689m"),
        (load_backbone, "timm/hf-hub:nobody/nothing"),
        (load_backbone, "hf/facebook/dinov2-small"),
        (load_backbone, "hf/openai/clip-vit-base-patch16"),
        (load_backbone, "torchvision/squeezenet1_1"),
        (load_backbone, "open_clip/RN50/cc12m"),
        (load_image_text, "open_clip/RN50/openai"),
        (load_image_text, "hf/openai/clip-vit-base-patch16"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_hub_out_of_reach_is_one_line(load: Callable[[str], Any], text: str, away: list[Any]) -> None:
    with pytest.raises(FinerCAMError, match=SAYS) as told:
        load(text)
    assert text in str(told.value) and "\n" not in str(told.value)
    assert 1 <= len(away) <= 6  # the hub is asked once; a download that is none of its own once more


@pytest.mark.parametrize(
    "command",
    [
        "explain {picture} --model timm/test_resnet.r160_in1k --out {out}",
        "evaluate fieldguide:2 --model hf/microsoft/resnet-18 --out {out}",
        "evaluate fieldguide:2 --model torchvision/squeezenet1_1 --out {out}",
        "probe fieldguide:4 --backbone timm/vit_tiny_patch16_224 --out {out} --cache {out}",
        "probe --import-head {head} --classes {names} --backbone hf/facebook/dinov2-small --out {out}",
        "concept {picture} --text beak --against bird --model open_clip/RN50/openai --out {out}",
        "concept {picture} --text beak --against bird --model hf/openai/clip-vit-base-patch16 --out {out}",
    ],
)
def test_the_command_line_tells_it_in_one_line(command: str, away: list[Any], tmp_path: Path) -> None:
    picture, head, names = tmp_path / "a.png", tmp_path / "head.pth", tmp_path / "names.txt"
    Image.new("RGB", (32, 32)).save(picture)
    torch.save({"weight": torch.zeros(2, 4)}, head)
    names.write_text("wren\nrobin\n")
    typed = command.format(picture=picture, out=tmp_path / "out", head=head, names=names).split()
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 2, done.output
    assert SAYS in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("explain {no}/a.png --model fieldguide/cnn --out {out}", "a.png"),
        ("explain {picture} --model {no} --out {out}", "no folder"),
        ("explain {picture} --model {no}/model.safetensors --out {out}", "no folder"),
        ("evaluate cub:{no} --model fieldguide/cnn --out {out}", "is not a folder"),
        ("evaluate list:{no} --model fieldguide/cnn --out {out}", "does not exist"),
        ("evaluate {no} --model fieldguide/cnn --out {out}", "does not exist"),
        ("probe --import-head {no} --classes {picture} --backbone fieldguide/cnn --out {out}", "does not exist"),
        ("probe {no} --backbone fieldguide/cnn --out {out}", "does not exist"),
        ("probe --compare {no}", "no config.json"),
        ("concept {picture} --text beak --against bird --model {no} --out {out}", "expected twotower"),
    ],
)
def test_a_file_that_is_not_there_is_one_line(command: str, says: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(picture)
    done = CliRunner().invoke(app, command.format(picture=picture, no=tmp_path / "no", out=tmp_path / "out").split())
    assert done.exit_code in (1, 2), done.output  # 1 where some of several pictures failed
    assert says in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.output
