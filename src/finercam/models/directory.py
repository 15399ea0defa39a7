"""A model as a folder: `model.safetensors` and `config.json`. Nothing in it can run code."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.layers import unwrap
from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.io import PARTIAL, one_line, scratch_folder
from finercam.models.architectures import build_architecture, check_architecture
from finercam.models.huggingface import config_names
from finercam.models.loaded import LoadedModel

__all__ = ["is_directory", "load_directory", "no_directory", "read_weights", "save_directory"]

FORMAT, VERSION = "finercam-model", 1
WEIGHTS = ("model.safetensors", "model.pt", "model.pth")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
MAX_CONFIG = 1 << 24
"""Bytes of a config.json: 16 MiB hold the names of a quarter of a million classes."""


def save_directory(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    architecture: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as a folder that `load_model` reads: whole or not at all, replacing an older model there.

    architecture: `{"library": "timm", "name": "resnet18", "kwargs": {"num_classes": 7}}`; libraries are timm,
    torchvision, transformers (name: the model type), open_clip, builtin, and probed (a backbone with a linear head).
    The fields of config.json are described in docs/your-model.md. Raises FinerCAMError for an architecture that could
    not be read again, and for a folder that holds something else.
    """
    target = Path(path)
    check_architecture(architecture, str(target))
    config = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": dict(architecture),
        "classes": None if class_names is None else list(class_names),
        "preprocess": (preprocess or Preprocess((224, 224))).to_json(),
        "provenance": dict(provenance or {}),
    }
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FinerCAMError(f"{target}: config.json takes plain values only: {error}") from error
    if target.exists() and (
        not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").is_file())
    ):
        raise FinerCAMError(f"{target} exists and is not a model folder; give another place")
    from safetensors.torch import save_model

    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(f"{PARTIAL}{target.name}-", target.parent) as scratch:
        fresh = scratch / "new"
        fresh.mkdir()
        (fresh / "config.json").write_text(text, encoding="utf-8")
        save_model(unwrap(model), str(fresh / WEIGHTS[0]))
        # safetensors makes a file that only the owner can read; this one is as the umask says.
        (fresh / WEIGHTS[0]).chmod((fresh / "config.json").stat().st_mode & 0o777)
        _replace(fresh, target, scratch / "old")
    return target


def _replace(fresh: Path, target: Path, old: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise


def is_directory(name: str) -> bool:
    """Whether a model string is the path of a folder with a config.json."""
    try:
        return (Path(name) / "config.json").is_file()
    except (OSError, ValueError):  # too long for a file name
        return False


def load_directory(path: str | os.PathLike[str]) -> LoadedModel:
    """Read a model folder. Raises FinerCAMError, one line, for anything that is not a whole model."""
    folder = Path(path)
    config = _read_config(folder)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        check_architecture(config.get("architecture"), str(folder))
        raise FinerCAMError(f"{folder} has no {WEIGHTS[0]}")
    # A number takes at least one byte; initialisation may need copies of a tensor for a while.
    model = build_architecture(config.get("architecture"), str(folder), 4 * weights.stat().st_size)
    _fill(model, read_weights(weights), weights)
    classes = config.get("classes")
    if classes is not None and (not isinstance(classes, list) or not all(isinstance(c, str) and c for c in classes)):
        raise FinerCAMError(f"{folder}/config.json: classes must be a list of names in the order of the logits")
    preprocess = config.get("preprocess")
    if not isinstance(preprocess, dict):
        raise FinerCAMError(f"{folder}/config.json: preprocess is missing")
    source = {"path": str(folder), "architecture": config["architecture"], "provenance": config.get("provenance")}
    if classes is None:
        classes = config_names(model)
    return LoadedModel(model.eval(), Preprocess.from_json(preprocess), classes, folder.resolve().name, source)


def no_directory(folder: Path) -> FinerCAMError:
    """What to say of a folder without a config.json, or of a file: how its weights become a model folder."""
    files = [folder] if folder.is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
    weights = next((file.name for file in files if file.suffix in _SUFFIXES), None)
    if weights is None:
        return FinerCAMError(f"{folder} is not a model folder: it has no config.json")
    return FinerCAMError(
        f"{folder} is not a model folder: it has no config.json. To make one of {weights}, build the model, load them "
        'with read_weights, and call save_directory("FOLDER", model, architecture={"library": "timm", "name": '
        '"resnet18", "kwargs": {"num_classes": 7}}, class_names=[…])'
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        if (size := (folder / "config.json").stat().st_size) > MAX_CONFIG:
            raise FinerCAMError(f"{folder}/config.json has {size:,} bytes; a model's has at most {MAX_CONFIG:,}")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise no_directory(folder) from None
    except FinerCAMError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FinerCAMError(f"{folder}/config.json cannot be read: {one_line(error)}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        other = isinstance(config, dict) and "model_type" in config
        hint = f"; load it as 'hf/{folder}'" if other else ""
        raise FinerCAMError(f"{folder}/config.json is not a finercam model's (format: {FORMAT!r}){hint}")
    if config.get("version") != VERSION:
        raise FinerCAMError(
            f"{folder}/config.json has version {config.get('version')!r:.80}; this finercam reads {VERSION}: update it"
        )
    return config


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Named tensors from safetensors, or from a `torch.save`d file that holds nothing but tensors.

    A dict under "state_dict" or "model" is unwrapped, and a common prefix "module." is taken off. Raises FinerCAMError
    for a pickle with anything else in it: it is not executed; and for what would be larger in memory than in the file.
    """
    path = Path(path)
    try:
        _check_archive(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FinerCAMError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        raise FinerCAMError(
            f"{path} is no file of plain tensors and was not opened further (a pickle can run code); "
            "save a state dict, or safetensors"
        ) from error
    except FinerCAMError:
        raise
    except Exception as error:
        raise FinerCAMError(f"{path} cannot be read as weights: {one_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FinerCAMError(f"{path} holds {type(found).__name__}, not a state dict of tensors")
    for name, value in found.items():
        if not _lies_in_memory(value):
            raise FinerCAMError(
                f"{path}: {str(name)!r:.80} is no plain tensor that lies in the file number by number"
            )
    wrapped = bool(found) and all(str(key).startswith("module.") for key in found)
    return {str(key).removeprefix("module.") if wrapped else str(key): value for key, value in found.items()}


def _check_archive(path: Path) -> None:
    """PyTorch stores tensors as they are; an archive that unfolds into more is a bomb."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unfolded = sum(entry.file_size for entry in archive.infolist())
    if unfolded > 2 * path.stat().st_size + (1 << 20):
        raise FinerCAMError(f"{path} is an archive that would unfold to {unfolded:,} bytes; PyTorch writes none such")


def _lies_in_memory(value: Tensor) -> bool:
    """Whether a tensor is as large as it looks: no expanded view, nothing sparse or without data."""
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    wrong = [k for k, v in weights.items() if k in own and own[k].shape != v.shape]
    unexpected = [k for k in weights if k not in own]
    # Tensors that a model holds under two names are written once.
    written = {own[key].data_ptr() for key in weights if key in own}
    missing = [k for k, v in own.items() if k not in weights and not (v.numel() and v.data_ptr() in written)]
    problems = [
        f"{what} {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise FinerCAMError(f"{path} does not fit the architecture: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)
