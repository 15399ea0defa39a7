"""A migrating user's first hour: pytorch-grad-cam's published examples, with one import changed.

`python -m benchmarks.peer_scripts SOURCE` takes a checkout of its repository and runs each example in a process of its
own with `pytorch_grad_cam` replaced by the drop-in, and with `--beside` also as it is. Nothing else of an example is changed. What it would
download is made here: networks with random weights, a drawn photo, class names. Without an accelerator, `.cuda()` does
nothing. Prints a Markdown table: what ran, how many pictures were made, or the error that ended it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXAMPLES: dict[str, list[str]] = {
    "cam.py": ["--method", "gradcam", "--aug-smooth", "--eigen-smooth"],
    "cam.py ": ["--method", "finercam"],
    "usage_examples/vit_example.py": ["--method", "gradcam++"],
    "usage_examples/swinT_example.py": ["--method", "gradcam"],
    "usage_examples/clip_example.py": ["--method", "gradcam"],
    "tutorials/Class Activation Maps for Semantic Segmentation.ipynb": [],
    "tutorials/CAM Metrics And Tuning Tutorial.ipynb": [],
    "tutorials/Deep Feature Factorizations.ipynb": [],
    "tutorials/Class Activation Maps for Object Detection With Faster RCNN.ipynb": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--one", help="run one example here, in this process")
    parser.add_argument("--changed", action="store_true")
    parser.add_argument("--beside", action="store_true", help="also run each example as it is")
    parser.add_argument("-k", dest="only", default="", help="examples whose name has this")
    given = parser.parse_args()
    if given.one:
        run_here(given.source, given.one, given.changed)
        return
    runs = (True, False) if given.beside else (True,)
    print(
        "| example | import changed | as it is |\n|---|---|---|"
        if given.beside
        else "| example | import changed |\n|---|---|"
    )
    for name in (name for name in EXAMPLES if given.only in name):
        cells = [outcome(given.source, name, changed) for changed in runs]
        words = " ".join(EXAMPLES[name])
        print(f"| {Path(name.strip()).name} {words} | {' | '.join(cells)} |", flush=True)


def outcome(source: Path, name: str, changed: bool) -> str:
    """How one example ended."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        words = ["-m", "benchmarks.peer_scripts", str(source.resolve()), "--one", name, *["--changed"] * changed]
        path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"}
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        made = len([*Path(folder).rglob("*.jpg"), *Path(folder).rglob("shown*.png")])
        if done.returncode == 0:
            return f"ran, {made} pictures, {time.perf_counter() - start:.0f} s"
        last = done.stderr.strip().splitlines()[-1]
        return f"{made} pictures, then {last[:160]}".replace("|", "/")


def run_here(source: Path, name: str, changed: bool) -> None:
    """Run an example's text in this process."""
    path = source / name.strip()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join(shown(cell if isinstance(cell, str) else "".join(cell)) for cell in cells)
    if changed:
        text = re.sub(r"\bpytorch_grad_cam\b", "finercam.compat.pytorch_grad_cam", text)
    sys.argv = [path.name, *EXAMPLES[name]]
    stand_in(changed)
    exec(compile(text, str(path), "exec"), {"__name__": "__main__", "display": show})


def shown(cell: str) -> str:
    """A notebook's cell whose last expression is shown, as notebooks do."""
    lines = cell.rstrip().splitlines()
    if lines and lines[-1].startswith("Image."):
        lines[-1] = f"display({lines[-1]})"
    return "\n".join(lines)


def show(picture: Any) -> None:
    picture.save(f"shown-{len(list(Path().glob('shown*')))}.png")


def stand_in(changed: bool) -> None:
    """Put random weights, a drawn photo and made names in the place of downloads."""
    import timm
    import torch
    import torchvision
    from benchmarks.peer_plugin import draw_photo

    draw_photo(Path("examples/both.png"))
    picture = Path("examples/both.png").read_bytes()
    names = str({k: f"class {k}" for k in range(1000)})
    requests: Any = types.ModuleType("requests")
    requests.get = lambda *_, **__: types.SimpleNamespace(raw=io.BytesIO(picture), text=names)
    sys.modules["requests"] = requests
    torch.manual_seed(0)
    untrained(torchvision.models, "resnet50")
    untrained(torchvision.models.segmentation, "deeplabv3_resnet50", weights_backbone=None)
    untrained(
        torchvision.models.detection, "fasterrcnn_resnet50_fpn", weights_backbone=None, box_detections_per_img=3
    )
    create = timm.create_model
    timm.create_model = lambda name, **_: create(name, pretrained=False)  # type: ignore[assignment]
    torch.hub.load = lambda _repo, name, **_: create(name, pretrained=False)  # type: ignore[assignment]
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = torch.Tensor.cuda = lambda self, *_: self  # type: ignore[assignment]
    small_clip()


def untrained(module: Any, name: str, **options: Any) -> None:
    """A builder without trained weights; a detector is sure of what it sees, and a classifier's logits are of usual size."""
    build: Callable[..., Any] = getattr(module, name)

    def built(**_: Any) -> Any:
        model = build(weights=None, **options)
        if hasattr(model, "roi_heads"):
            model.roi_heads.box_predictor.cls_score.bias.data[1] = 10
        if hasattr(model, "fc"):
            model.fc.weight.data *= 20
        return model

    setattr(module, name, built)


def small_clip() -> None:
    """A small CLIP of transformers, and a processor that makes up tokens."""
    import torch
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 99, "eos_token_id": 98}
    config = transformers.CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 224, "patch_size": 14})
    transformers.CLIPModel.from_pretrained = lambda _name: transformers.CLIPModel(config)  # type: ignore[assignment]

    def tokens(text: list[str], **_: Any) -> dict[str, Any]:
        ids = torch.tensor([[1 + at, 5 + len(label), 98] for at, label in enumerate(text)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    transformers.CLIPProcessor.from_pretrained = lambda _name: tokens  # type: ignore[assignment]


if __name__ == "__main__":
    main()
