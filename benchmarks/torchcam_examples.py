"""torch-cam's published examples with one import line changed: `python benchmarks/torchcam_examples.py CHECKOUT`.

CHECKOUT is a clone of torch-cam's repository. The examples of its README and its guide, and its example script, run with
`finercam.compat.torchcam` in the place of `torchcam`. Networks have random weights, because nothing is downloaded, and
the picture is noise. Prints one line for each example, with the shapes of the maps it made.
"""

from __future__ import annotations

import re
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torchvision.models
from PIL import Image

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = {  # a text that only this block of the file has
    "README: a map of one class": ("README.md", "input_tensor = preprocess(img)"),
    "README: an overlay": ("README.md", "result = overlay_mask("),
    "guide: several layers, fused": (
        "docs/docs/getting-started/advanced-usage.md",
        "fused = cam_extractor.fuse_cams",
    ),
    "guide: RefineCAM": ("docs/docs/getting-started/advanced-usage.md", "import LayerCAM, RefineCAM"),
    "guide: Finer-CAM": ("docs/docs/getting-started/advanced-usage.md", "comparison_idx=[12, 37, 84]"),
    "guide: a batch": ("docs/docs/getting-started/advanced-usage.md", "input_batch = torch.stack([img1"),
}


def changed(text: str) -> str:
    """The example with our module in the place of theirs."""
    return re.sub(r"\bfrom torchcam\b", "from finercam.compat.torchcam", text)


def shapes(names: dict[str, Any]) -> str:
    found = {
        key: value for key, value in names.items() if key in ("activation_map", "cams", "fused", "refined", "result")
    }
    return ", ".join(f"{key} {_shape(value)}" for key, value in found.items())


def _shape(value: Any) -> Any:
    if isinstance(value, list):
        return [tuple(one.shape) for one in value]
    return value.size if isinstance(value, Image.Image) else tuple(value.shape)


def main(checkout: str) -> None:
    matplotlib.use("Agg")
    root, untrained = Path(checkout), torchvision.models.get_model
    torchvision.models.get_model = lambda name, weights=None: untrained(name, weights=None)  # type: ignore[assignment]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.jpg"
        noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(noise).save(picture)
        names: dict[str, Any] = {f"img{n}": torch.rand(3, 224, 224) for n in (1, 2, 3)}
        for title, (file, mark) in EXAMPLES.items():
            blocks = BLOCK.findall((root / file).read_text(encoding="utf-8"))
            block = changed(next(block for block in blocks if mark in block)).replace(
                "path/to/your/image.jpg", str(picture)
            )
            exec(compile(block, title, "exec"), names)
            if names["input_tensor"].ndim == 3:  # the guide's examples begin with a batch of one
                names["input_tensor"] = names["input_tensor"][None]
            print(f"{title}: {shapes(names)}", flush=True)
        script = changed((root / "scripts/cam_example.py").read_text(encoding="utf-8"))
        module: dict[str, Any] = {"__name__": "cam_example"}
        exec(compile(script, "cam_example.py", "exec"), module)
        asked = {"method": "CAM,GradCAM,GradCAMpp,XGradCAM,LayerCAM,SmoothGradCAMpp", "savefig": f"{folder}/out.png"}
        more = {"class_idx": None, "device": "cpu", "target": None, "alpha": 0.5, "rows": 1, "noblock": True}
        module["main"](Namespace(arch="resnet18", img=str(picture), **asked, **more))
        print(f"scripts/cam_example.py: a figure of {Image.open(f'{folder}/out.png').size}")


if __name__ == "__main__":
    main(sys.argv[1])
