"""The cost of the metrics: deletion relative to its forward passes, ROAD relative to that of pytorch-grad-cam.

    python benchmarks/metrics.py [--repeats 5] [--threads 1] [--out metrics.json]

Runs are interleaved and reported as the median of each pair's ratio, with the smallest and the largest: on a shared
machine only ratios mean anything. With one thread the processor's own time is used, which other people's work on the
machine does not lengthen; with more, the clock on the wall.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam import metrics

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def small_cnn(classes: int = 40) -> nn.Module:
    """A model of about 45 million multiply-adds at 128 px; a light model shows the cost of masking more clearly."""
    widths, layers = (3, 24, 48, 96), []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [
        nn.Conv2d(96, 96, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, classes),
    ]
    return nn.Sequential(*layers).eval()


def pictures(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Smooth noise of unit variance, and upsampled maps of 7 × 7 cells as from a CAM."""
    images = F.avg_pool2d(torch.randn(count, 3, side, side), 5, 1, 2)
    maps = F.interpolate(torch.randn(count, 1, 7, 7), (side, side), mode="bilinear")[:, 0]
    return images / images.std(), maps


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def interleave(
    first: Callable[[], object], second: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Run both alternately after a warm-up round; returns medians, and the ratio first / second of every round."""
    first(), second()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            pairs.append((seconds(first, clock), seconds(second, clock)))
        else:
            pairs.append(tuple(reversed((seconds(second, clock), seconds(first, clock)))))
    ratios = [a / b for a, b in pairs]
    return {
        "first_s": statistics.median(a for a, _ in pairs),
        "second_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def deletion_cost(repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Deletion, 50 steps, 64 pictures of 128 px, with a rival's curve, over 51 bare passes of the same batch."""
    model, (images, maps) = small_cnn(), pictures(64, 128)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(51):
                model(images)

    return interleave(lambda: metrics.deletion(model, images, maps, 0, 1, steps=50), bare, repeats, clock)


def imputation_speed(repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """ROAD's 18 imputations of a 224 px picture, theirs one by one and ours in one batch, and their difference."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    images, maps = pictures(1, 224)
    order = metrics.rank_pixels(maps)
    counts = metrics.pixel_counts(SHARES, 224 * 224)
    known = torch.cat((order >= counts[:, None, None], order < 224 * 224 - counts[:, None, None]))
    peer = NoisyLinearImputer(noise=0)
    many = images.expand(len(known), -1, -1, -1)
    result = interleave(
        lambda: [peer(images[0], mask.float()) for mask in known],
        lambda: metrics.impute(many, known, noise=0),
        repeats,
        clock,
    )
    want = torch.stack([peer(images[0], mask.float()) for mask in known])
    return result | {"largest_difference": float((metrics.impute(many, known, noise=0) - want).abs().max())}


def road_speed(repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """The complete metric (9 shares, both directions, combined) on one 224 px picture with the small CNN."""
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, (images, maps) = small_cnn(), pictures(1, 224)
    peer, targets = ROADCombined(), [ClassifierOutputSoftmaxTarget(0)]
    return interleave(
        lambda: peer(images, maps.numpy(), targets, model),
        lambda: metrics.road(model, images, maps, 0).combined,
        repeats,
        clock,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds, after one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; the peer's solver always uses one")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    report = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "grad-cam", "scipy", "numpy")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "clock": clock.__name__,
        "repeats": arguments.repeats,
        "deletion": deletion_cost(arguments.repeats, clock),
        "imputation": imputation_speed(arguments.repeats, clock),
        "road": road_speed(arguments.repeats, clock),
    }
    print(
        f"torch {report['versions']['torch']}, grad-cam {report['versions']['grad-cam']}, "
        f"{report['machine']}, {report['processor']}, clock {report['clock']}"
    )
    for name, what in (
        ("deletion", "deletion (50 steps, 64 images, 128 px) / bare forward passes"),
        ("imputation", "pytorch-grad-cam's imputation / ours (18 masks, 224 px)"),
        ("road", "pytorch-grad-cam's ROADCombined / ours (1 image, 224 px)"),
    ):
        row = report[name]
        print(
            f"{what}: {row['ratio']:.2f}x [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
            f"   {row['first_s']:.2f} s / {row['second_s']:.3f} s"
        )
    print(f"largest difference between the imputed pictures: {report['imputation']['largest_difference']:.1e}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
