"""What relevance gains on a vision transformer, and costs: `python -m benchmarks.tokens gain|photos|cost`; docs/tokens.md.

`gain` measures on pictures of the Fieldguide that nothing was chosen on; `photos` on the CUB photographs and the ViT-Tiny of
../shared/data; `cost` times it beside a forward pass.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from benchmarks.clock import interleaved, summary

from finercam import FinerCAM, load_model, metrics
from finercam.data.fieldguide import Fieldguide

FINE: dict[str, Any] = {"method": "relevance", "layer": "tokens", "fusion": "product"}
ROWS: dict[str, dict[str, Any]] = {
    "plain Grad-CAM": {"method": "gradcam", "gamma": 0.0},
    "Grad-CAM, γ .6": {"method": "gradcam", "gamma": 0.6},
    "HiResCAM, plain": {"method": "hirescam", "gamma": 0.0},
    "HiResCAM, γ 1": {"method": "hirescam", "gamma": 1.0},
    "relevance, plain": {**FINE, "gamma": 0.0},
    "relevance, γ 1": {**FINE, "gamma": 1.0},
    "relevance, γ 1, flips": {**FINE, "gamma": 1.0, "smooth": "flip"},
}


def gain(count: int, seed: int) -> None:
    loaded, birds = load_model("fieldguide/vit"), Fieldguide(count, seed=seed)
    images = torch.stack([loaded.preprocess(birds.image(i)) for i in range(count)])
    target = birds.labels(range(count)).tolist()
    rivals = [birds.nearest_sibling(label) for label in target]
    truth = torch.from_numpy(birds.contrast_masks(range(count), rivals))
    plain = None
    for name, options in ROWS.items():
        explain = FinerCAM(loaded.model, keep="question", keep_images=False, **options)
        maps = explain(images, target=target, against=[[rival] for rival in rivals]).maps
        precision = metrics.average_precision(maps, truth)
        plain = precision if plain is None else plain
        more = metrics.bootstrap_difference(precision, plain)
        pointing = metrics.pointing(maps, truth).mean()
        print(
            f"{name}: AP {precision.mean():.3f}, more than plain Grad-CAM {more}, pointing {pointing:.3f}", flush=True
        )


def cost(rounds: int) -> None:
    import timm

    torch.set_num_threads(1)
    for name in ("vit_base_patch16_224", "vit_base_patch14_dinov2"):
        model, images = timm.create_model(name, img_size=224, num_classes=1000).eval(), torch.rand(1, 3, 224, 224)

        def forward(model=model, images=images) -> None:
            with torch.no_grad():
                model(images)

        works: dict[str, Any] = {"forward": forward}
        for row in ("Grad-CAM, γ .6", "HiResCAM, γ 1", "relevance, γ 1"):
            explain = FinerCAM(model, keep="question", keep_images=False, **ROWS[row])
            works[row] = lambda explain=explain, images=images: explain(images, target=1, against=[2])
        for row, found in summary(interleaved(works, rounds)).items():
            print(f"{name}, {row}: {found['cpu']['ratio']:.2f} of a forward pass", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["gain", "photos", "cost"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.what == "photos":
        from benchmarks.fine_photos import tokens

        tokens()
        return
    gain(options.count, options.seed) if options.what == "gain" else cost(options.rounds)


if __name__ == "__main__":
    main()
