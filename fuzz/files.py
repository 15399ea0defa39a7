"""Random bytes as files that describe models and datasets: they are read, or refused with a one-line error.

python -m fuzz.files --seconds 60

The first byte of the data selects a reader in `DOORS`; the rest is the content of its file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.rules import one_line

__all__ = ["DOORS", "check", "named"]


def _model(folder: Path, content: bytes) -> Any:
    from finercam.images import Preprocess
    from finercam.models.architectures import build_architecture, check_architecture
    from finercam.models.directory import _read_config

    (folder / "config.json").write_bytes(content)
    config = _read_config(folder)
    check_architecture(config.get("architecture"), "here")
    if config["architecture"]["library"] == "builtin":
        build_architecture(config["architecture"], "here", 10_000)
    if isinstance(config.get("preprocess"), dict):
        Preprocess.from_json(config["preprocess"])


def _probe(folder: Path, content: bytes) -> Any:
    from finercam.probe.compare import grid, read_probe, to_csv

    (folder / "config.json").write_bytes(content)
    rows = [read_probe(folder)]
    grid(rows)
    to_csv(rows)


def _preprocess(folder: Path, content: bytes) -> Any:
    from PIL import Image

    from finercam.data.files import read_json
    from finercam.errors import FinerCAMError
    from finercam.images import Preprocess

    (folder / "x.json").write_bytes(content)
    found = read_json(folder / "x.json")
    if not isinstance(found, dict):
        raise FinerCAMError("not a table")
    prepare = Preprocess.from_json(found)
    if max(prepare._resized((5, 4))) < 1000 and max(prepare.size or (0,)) < 1000:  # larger ones only take time
        prepare(Image.new("RGB", (5, 4)))


def _processor(folder: Path, content: bytes) -> Any:
    from finercam.data.files import read_json
    from finercam.models.preprocessing import processor_settings

    (folder / "x.json").write_bytes(content)
    found = read_json(folder / "x.json")
    if isinstance(found, dict):
        processor_settings(found)


def _settings(folder: Path, content: bytes) -> Any:
    from finercam.evaluation.shards import Shards

    (folder / "settings.json").write_bytes(content)
    Shards(folder, {"seed": 0})


def _list(folder: Path, content: bytes, ending: str = "csv") -> Any:
    (folder / f"list.{ending}").write_bytes(content)
    return f"list:{folder / f'list.{ending}'}"


def _folder(folder: Path, content: bytes) -> Any:
    _picture(folder / "wren" / "a.png")
    (folder / "boxes.csv").write_bytes(content)
    return f"folder:{folder}"


def _cub(folder: Path, content: bytes, which: str = "images.txt") -> Any:
    _picture(folder / "images" / "001.Wren" / "a.png")
    texts = {"images.txt": "1 001.Wren/a.png", "image_class_labels.txt": "1 1", "classes.txt": "1 001.Wren"}
    texts |= {"train_test_split.txt": "1 0", "bounding_boxes.txt": "1 1 1 4 4", "parts/parts.txt": "1 beak"}
    texts |= {"parts/part_locs.txt": "1 1 3 3 1"}
    return f"cub:{_written(folder, texts, which, content)}"


def _funnybirds(folder: Path, content: bytes, which: str = "classes.json") -> Any:
    for label in range(2):
        _picture(folder / "test" / str(label) / f"{label:06d}.png")
    texts = {
        "classes.json": '[{"class_idx": 0, "parts": {"beak": 1}}, {"class_idx": 1, "parts": {"beak": 2}}]',
        "dataset_test.json": '[{"class_idx": 0}, {"class_idx": 1}]',
    }
    data = _opened(f"funnybirds:{_written(folder, texts, which, content)}")
    for d in range(len(data.classes)):
        data.discriminative_parts(0, d)


def _fishvista(folder: Path, content: bytes, which: str = "classification_test.csv") -> Any:
    _picture(folder / "Images" / "a.png")
    _picture(folder / "segmentation_masks" / "images" / "a.png", 1)
    texts = {
        "classification_test.csv": "filename,standardized_species,barbel\na.png,Esox lucius,1\n",
        "segmentation_masks/seg_id_trait_map.json": '{"0": "Background", "1": "Head"}',
    }
    return f"fishvista:{_written(folder, texts, which, content)}"


def _pets(folder: Path, content: bytes) -> Any:
    _picture(folder / "images" / "wren_1.jpg")
    return f"pets:{_written(folder, {}, 'annotations/test.txt', content)}"


def _aircraft(folder: Path, content: bytes, which: str = "images_variant_test.txt") -> Any:
    _picture(folder / "images" / "0056978.jpg")
    texts = {"images_variant_test.txt": "0056978 F/A-18", "images_box.txt": "0056978 1 1 4 4"}
    return f"aircraft:{_written(folder, texts, which, content)}"


def _options(folder: Path, content: bytes) -> Any:
    from finercam.models.loaded import parse_options

    parse_options(content.decode("utf-8", "surrogateescape"))


def _dataset(folder: Path, content: bytes) -> Any:
    from finercam.data.open import parse_dataset

    parse_dataset(content.decode("utf-8", "replace"))


def _contrast(folder: Path, content: bytes) -> Any:
    from finercam.evaluation.ask import parse_ask

    parse_ask(content.decode("utf-8", "replace"))


def _weights(folder: Path, content: bytes, ending: str = "safetensors") -> Any:
    from finercam.probe.released import read_head

    (folder / f"head.{ending}").write_bytes(content)
    weight, bias = read_head(folder / f"head.{ending}")
    assert weight.ndim == 2 and bool(weight.isfinite().all()) and (bias is None or bias.shape == weight.shape[:1])


def _matlab(folder: Path, content: bytes) -> Any:
    (folder / "cars_test").mkdir()
    (folder / "devkit").mkdir()
    (folder / "devkit" / "cars_meta.mat").write_bytes(content)
    return f"cars:{folder}"


DOORS: dict[str, Callable[[Path, bytes], Any]] = {
    "config": _model,
    "probe": _probe,
    "preprocess": _preprocess,
    "processor": _processor,
    "settings": _settings,
    "list": _list,
    "tsv": lambda folder, content: _list(folder, content, "tsv"),
    "boxes": _folder,
    "cub": _cub,
    "cub-boxes": lambda folder, content: _cub(folder, content, "bounding_boxes.txt"),
    "cub-parts": lambda folder, content: _cub(folder, content, "parts/part_locs.txt"),
    "funnybirds": _funnybirds,
    "funnybirds-list": lambda folder, content: _funnybirds(folder, content, "dataset_test.json"),
    "fishvista": _fishvista,
    "fishvista-traits": lambda folder, content: _fishvista(
        folder, content, "segmentation_masks/seg_id_trait_map.json"
    ),
    "pets": _pets,
    "aircraft": _aircraft,
    "aircraft-boxes": lambda folder, content: _aircraft(folder, content, "images_box.txt"),
    "options": _options,
    "dataset": _dataset,
    "contrast": _contrast,
    "safetensors": _weights,
    "torch": lambda folder, content: _weights(folder, content, "pth"),
    "mat": _matlab,
}
"""Functions that read the content, or return the string of the dataset that the content belongs to."""

_NAMES = list(DOORS)


def named(door: str, content: bytes) -> bytes:
    """The data that gives a content to the reader `door`."""
    return bytes([_NAMES.index(door)]) + content


def check(data: bytes) -> None:
    """Read the data. Raises an error if the promise is broken."""
    from finercam.errors import FinerCAMError

    if not data:
        return
    with tempfile.TemporaryDirectory(prefix="finercam-fuzz-") as place:
        try:
            opened = DOORS[_NAMES[data[0] % len(_NAMES)]](Path(place), data[1:])
            if isinstance(opened, str):
                _opened(opened)
        except FinerCAMError as error:
            one_line(error)


def _opened(text: str) -> Any:
    """Open a dataset and read its first pictures and annotations, which may be refused one by one."""
    from finercam.data import open_dataset
    from finercam.errors import FinerCAMError

    dataset = open_dataset(text)
    str(dataset)
    for index in range(min(len(dataset), 4)):
        sample = dataset[index]
        for read in (sample.open, sample.annotate):
            try:
                read()
            except FinerCAMError as error:
                one_line(error)
    return dataset


def _written(folder: Path, texts: dict[str, str], which: str, content: bytes) -> Path:
    for name, text in (texts | {which: ""}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / which).write_bytes(content)
    return folder


def _picture(path: Path, value: int = 0) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 5), value).save(path, "PNG")


if __name__ == "__main__":
    from fuzz import seeds
    from fuzz.runner import main

    main(
        "files",
        check,
        lambda: {door: named(door, data) for door, data in seeds.files().items()},
        ["finercam", "json"],
    )
