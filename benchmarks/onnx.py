"""Exported graphs beside FinerCAM: `python -m benchmarks.onnx equal|time`; docs/deploy.md.

`equal` exports models with random weights and compares the maps in onnxruntime and OpenVINO with FinerCAM's. Beside them
it shows how much FinerCAM's own maps differ if noise as small as rounding is added to the images.
`time` times the graph in onnxruntime beside the graph of the logits alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.clock import interleaved, summary
from torch import Tensor, nn

from finercam import FinerCAM
from finercam.export.onnx import export_onnx, moved_by_rounding
from finercam.export.traced import INPUTS

CLASSES = 20


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)

    return make


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(96, 16, num_layers=4, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=CLASSES)
    nn.init.normal_(model.get_submodule("heads.head").weight)  # torchvision begins with zeros, whose maps are blank
    return model


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES)

    return make


def open_clip_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import open_clip

        visual = open_clip.create_model(name, force_image_size=96).visual
        return nn.Sequential(visual, nn.Linear(visual.output_dim, CLASSES))

    return make


SMALL: dict[str, Any] = {"img_size": 96, "depth": 4}
EQUAL: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "timm resnet18": (timm_model("resnet18"), {}),
    "timm resnet18, last layer": (timm_model("resnet18"), {"preset": "fast"}),
    "timm resnet18, LayerCAM": (timm_model("resnet18"), {"method": "layercam", "layer": "layer3"}),
    "timm mobilenetv2_100": (timm_model("mobilenetv2_100"), {}),
    "timm mobilenetv3_small_100": (timm_model("mobilenetv3_small_100"), {}),
    "timm efficientnet_b0": (timm_model("efficientnet_b0"), {}),
    "timm convnext_atto": (timm_model("convnext_atto"), {}),
    "timm densenet121": (timm_model("densenet121"), {}),
    "torchvision densenet121, last layer": (torchvision_model("densenet121"), {"preset": "measured"}),
    "torchvision vgg11_bn": (torchvision_model("vgg11_bn"), {}),
    "timm regnety_002": (timm_model("regnety_002"), {}),
    "timm ViT, CLS": (timm_model("vit_tiny_patch16_224", **SMALL), {}),
    "timm ViT, patch mean": (timm_model("vit_tiny_patch16_224", global_pool="avg", **SMALL), {}),
    "timm DINOv2 with registers": (timm_model("vit_small_patch14_reg4_dinov2", img_size=98, depth=4), {}),
    "timm DeiT III": (timm_model("deit3_small_patch16_224", **SMALL), {}),
    "timm swin_tiny": (timm_model("swin_tiny_patch4_window7_224", img_size=96, window_size=3), {}),
    "torchvision ViT": (torchvision_vit, {}),
    "open_clip ViT-B-16": (open_clip_model("ViT-B-16"), {}),
    "open_clip RN50": (open_clip_model("RN50"), {}),
}
"""Models and what FinerCAM is given besides; nothing stands for the default preset, or for what replaces it."""
SIDES = {"timm DINOv2 with registers": 98}
TIMED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "timm resnet50, fine": (timm_model("resnet50"), {}),
    "timm resnet50, fast": (timm_model("resnet50"), {"preset": "fast"}),
    "timm mobilenetv2_100, fine": (timm_model("mobilenetv2_100"), {}),
    "timm mobilenetv2_100, fast": (timm_model("mobilenetv2_100"), {"preset": "fast"}),
    "timm ViT-B/16, CLS": (timm_model("vit_base_patch16_224"), {}),
    "timm ViT-B/16, patch mean": (timm_model("vit_base_patch16_224", global_pool="avg"), {}),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model with random weights whose norms and head are not what they begin with, so that nothing is trivially 0."""
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


def questions(count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Target, rivals and gamma: the usual question, and one with two rivals that is named."""
    yield torch.full((count,), -1), torch.full((count, 1), -1), torch.ones(count)
    yield torch.arange(count), torch.tensor([[7, 8]] * count), torch.full((count,), 0.7)


def answers(explain: FinerCAM, images: Tensor) -> list[Tensor]:
    named = {"target": list(range(len(images))), "against": [[7, 8]] * len(images)}
    return [explain(images, gamma=1.0).maps, explain(images, gamma=0.7, **named).maps]


def in_onnxruntime(file: Path, threads: int = 1) -> Callable[[dict[str, Any]], list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def in_openvino(file: Path) -> Callable[[dict[str, Any]], list[Any]]:
    import openvino

    compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feeds: [compiled(feeds)[output] for output in compiled.outputs]


def difference(run: Callable[[dict[str, Any]], list[Any]], images: Tensor, wanted: list[Tensor]) -> float:
    """The largest difference of maps in [0, 1] over images and questions."""
    found = 0.0
    for question, maps in zip(questions(len(images)), wanted, strict=True):
        feeds = {name: value.numpy() for name, value in zip(INPUTS, (images, *question), strict=True)}
        found = max(found, float((torch.from_numpy(run(feeds)[1]) - maps).abs().max()))
    return found


def sensitivity(explain: FinerCAM, images: Tensor) -> float:
    """The largest difference of FinerCAM's own maps for images that differ by rounding."""
    named = {"target": list(range(len(images))), "against": [[7, 8]] * len(images)}
    asks = (partial(explain, gamma=1.0), partial(explain, gamma=0.7, **named))
    return max(moved_by_rounding(ask, images) for ask in asks)


def equal(only: str) -> None:
    heads = ("model", "method", "layers", "batch", "onnxruntime", "OpenVINO", "FinerCAM, noise")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    for name, (make, options) in EQUAL.items():
        if only not in name:
            continue
        side = SIDES.get(name, 96)
        images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
        explain = FinerCAM(seeded(make), **options)
        with tempfile.TemporaryDirectory() as folder:
            explain = explain.without_relevance(images[:1])
            about = export_onnx(explain, images[:2], Path(folder) / "model.onnx").about
            images = images[: about["batch"]]
            wanted = answers(explain, images)
            runs = [make_run(Path(folder) / "model.onnx") for make_run in (in_onnxruntime, in_openvino)]
            errors = " | ".join(f"{difference(run, images, wanted):.0e}" for run in runs)
            noise = f"{sensitivity(explain, images):.0e}"
        batch = "any" if about["batch"] is None else about["batch"]
        layers = ", ".join(about["layers"])
        print(f"| {name} | {about['method']} | {layers} | {batch} | {errors} | {noise} |", flush=True)


def time(only: str, rounds: int) -> None:
    import onnx.utils

    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    print("| model | logits alone | with maps | ratio (quartiles) |\n|---|---|---|---|", flush=True)
    for name, (make, options) in TIMED.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file, alone = Path(folder) / "model.onnx", Path(folder) / "logits.onnx"
            export_onnx(FinerCAM(seeded(make), **options), image, file)
            onnx.utils.extract_model(str(file), str(alone), ["image"], ["logits"])
            runs = {"forward": in_onnxruntime(alone), "maps": in_onnxruntime(file)}
            question = next(questions(1))
            feeds = {name: value.numpy() for name, value in zip(INPUTS, (image, *question), strict=True)}
            given = {"forward": {"image": feeds["image"]}, "maps": feeds}
            works = {row: lambda row=row, runs=runs, given=given: runs[row](given[row]) for row in runs}
            found = summary(interleaved(works, rounds))
        seconds = [f"{1000 * found[row]['wall']['seconds']:.0f} ms" for row in ("forward", "maps")]
        low, high = found["maps"]["wall"]["quartiles"]
        ratio = f"{found['maps']['wall']['ratio']:.2f} ({low:.2f}–{high:.2f})"
        print(f"| {name} | {' | '.join(seconds)} | {ratio} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["equal", "time"])
    parser.add_argument("--only", default="", help="Part of a model's name.")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    equal(options.only) if options.what == "equal" else time(options.only, options.rounds)


if __name__ == "__main__":
    main()
