"""What the presets gain and cost: `python -m benchmarks.fine gain|photos|cost|memory`; the numbers of docs/fine.md.

`gain` measures on fresh pictures of the Fieldguide, whose deciding pixels are known, with the nearest sibling named;
`photos` on the CUB photographs and the bird model of ../shared/data; `cost` times the presets beside both peers; `memory` is the
transient memory of one image, each preset in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from finercam import FinerCAM, load_model, metrics
from finercam.core.maps import upsample
from finercam.data.fieldguide import Fieldguide

ROWS: dict[str, dict] = {
    "plain Grad-CAM": {"preset": "measured", "gamma": 0.0},
    "measured, γ .6": {"preset": "measured"},
    "fast": {"preset": "fast"},
    "fine": {"preset": "fine"},
    "fine, plain": {"preset": "fine", "gamma": 0.0},
    "finest": {"preset": "finest"},
    "finest, plain": {"preset": "finest", "gamma": 0.0},
}

MODELS = (
    "resnet50",
    "mobilenetv2_100",
    "swin_tiny_patch4_window7_224",
    "vit_base_patch16_224",
    "vit_base_patch14_dinov2",
)
WORKS = ("forward", "fast", "fine", "finest")


def signed_maps(explain: FinerCAM, images: Tensor, target: Tensor, rivals: Tensor | None) -> Tensor:
    """Signed maps at the size of the images, `(N, H, W)`."""
    parts = []
    for at in torch.arange(len(images)).split(8):
        against = None if rivals is None else rivals[at][:, None]
        signed = explain(images[at], target=target[at], against=against).signed
        parts.append(upsample(signed, (images.shape[2], images.shape[3])))
    return torch.cat(parts)


def with_interval(values: Tensor, base: Tensor | None = None) -> str:
    """The mean, or the mean difference from `base` of the same pictures, with its 95 % bootstrap interval."""
    known = values if base is None else values - base
    known = known[known.isfinite()]
    random = torch.Generator().manual_seed(0)
    means = known[torch.randint(len(known), (1000, len(known)), generator=random)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return f"{float(known.mean()):.3f} [{low:.3f}, {high:.3f}]"


def gain(count: int, seed: int) -> None:
    birds = Fieldguide(count, seed=seed)
    for name in ("cnn", "resnet"):
        loaded = load_model(f"fieldguide/{name}")
        images = torch.stack([loaded.preprocess(birds.image(i)) for i in range(count)])
        target = torch.from_numpy(birds.labels(range(count)))
        rivals = torch.tensor([birds.nearest_sibling(int(c)) for c in target])
        truth = torch.from_numpy(birds.contrast_masks(range(count), rivals.tolist()))
        print(
            f"\n{name}, {count} pictures of seed {seed}, nearest sibling named; {float(truth.float().mean()):.3f} of pixels differ"
        )
        print("| preset | AP | difference from plain | pointing | energy |\n|---|---|---|---|---|")
        base = None
        for row, options in ROWS.items():
            maps = signed_maps(FinerCAM(loaded.model, **options), images, target, rivals)
            precision = metrics.average_precision(maps, truth)
            base = precision if base is None else base
            cells = [with_interval(precision), with_interval(precision, base)]
            cells += [with_interval(measure(maps, truth)) for measure in (metrics.pointing, metrics.energy)]
            print(f"| {row} | {' | '.join(cells)} |", flush=True)


def cost(rounds: int) -> None:
    from benchmarks.clock import interleaved, summary

    torch.set_num_threads(1)
    for name in MODELS:
        model = built(name)
        images = torch.rand(1, 3, 224, 224)
        works: dict[str, Callable[[], object]] = {
            "forward": lambda model=model, images=images: plain_run(model, images)
        }
        for preset in ("fast", "fine", "finest"):
            explain = FinerCAM(model, preset=preset, keep="question", keep_images=False)
            works[preset] = lambda explain=explain, images=images: explain(images).signed
        if name in ("resnet50", "mobilenetv2_100"):
            works |= peers(model, images)
        for work, found in summary(interleaved(works, rounds)).items():
            print(
                f"{name}, {work}: {found['cpu']['ratio']:.2f} of a forward pass ({found['cpu']['seconds'] * 1e3:.0f} ms)",
                flush=True,
            )


def built(name: str) -> nn.Module:
    import timm

    sized = {"img_size": 224} if "dinov2" in name else {}
    return timm.create_model(name, num_classes=1000, **sized).eval()


def memory() -> None:
    from benchmarks.clock import in_child

    print("| | forward | fast | fine | finest |\n|---|--:|--:|--:|--:|")
    for name in MODELS:
        found = [in_child("benchmarks.fine", "memory-of", "--model", name, "--preset", p) for p in WORKS]
        print(f"| {name} | {' | '.join(f'{bytes_ / 1e6:.0f} MB' for bytes_ in found)} |", flush=True)


def memory_of(name: str, preset: str) -> int:
    """Transient bytes of one image; the warm-up is the same call, which also finds the layers."""
    from benchmarks.clock import peak_bytes

    torch.set_num_threads(1)
    model, images = built(name), torch.rand(1, 3, 224, 224)
    if preset == "forward":
        return peak_bytes(lambda: plain_run(model, images), lambda: plain_run(model, images))
    explain = FinerCAM(model, preset=preset, keep="question", keep_images=False)
    return peak_bytes(lambda: explain(images).signed, lambda: explain(images).signed)


def plain_run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def peers(model: nn.Module, images: Tensor) -> dict[str, Callable[[], object]]:
    from pytorch_grad_cam import GradCAM
    from torchcam.methods import GradCAM as TorchCAM

    layer = dict(model.named_modules())["layer4" if hasattr(model, "layer4") else "bn2"]

    def grad_cam() -> object:
        with GradCAM(model=model, target_layers=[layer]) as cam:
            return cam(input_tensor=images, targets=None)

    def torch_cam() -> object:
        with TorchCAM(model, target_layer=layer) as cam:
            logits = model(images)
            return cam(int(logits.argmax()), logits)

    return {"pytorch-grad-cam": grad_cam, "torch-cam": torch_cam}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("gain", "photos", "cost", "memory", "memory-of"))
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--preset", choices=WORKS, default="fine")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=77001)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.what == "gain":
        gain(arguments.count, arguments.seed)
    elif arguments.what == "photos":
        from benchmarks.fine_photos import photos

        photos()
    elif arguments.what == "memory":
        memory()
    elif arguments.what == "memory-of":
        print(memory_of(arguments.model, arguments.preset))
    else:
        cost(arguments.rounds)


if __name__ == "__main__":
    main()
