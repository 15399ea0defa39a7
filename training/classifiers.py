"""Trains the built-in classifiers on Fieldguide: `python -m training.classifiers cnn --out DIR`.

Accuracy is measured on new pictures, and the weights are written with a record of the training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.data.fieldguide import PARTS, SPECIES, Fieldguide
from finercam.data.fieldguide.dataset import stack
from finercam.errors import FinerCAMError
from finercam.models.builtin import ARCHITECTURES, PatchCNN

__all__ = ["RECIPES", "Recipe", "accuracy", "normed", "part_codes", "train", "wilson"]

SIZE = 128
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
FRESH = 1_000_000
"""Added to the training seed to get the seed of the pictures on which accuracy is measured."""


@dataclass(frozen=True)
class Recipe:
    """The training of one model with AdamW, one cycle of the learning rate and cross entropy of the species."""

    layer: str
    """The layer whose `(N, C, h, w)` features or `(N, T, C)` tokens the linear head pools."""
    images: int
    """Different pictures painted for training; with too few the network memorises them."""
    passes: int
    """Pictures seen in training, counted with repetition."""
    batch: int
    rate: float
    decay: float
    parts: float
    """Weight of the auxiliary loss: cross entropy of the part (with its genus and colour) at each place of the
    feature grid, through a linear layer that is dropped after training. The architecture is unchanged and needs no
    part maps at test time. The loss cuts training from hours to minutes and keeps features at their places."""
    head: float
    """How much faster the linear head learns than the rest. Pooling divides evidence that fills 1 % of the picture
    by a hundred, so the head's weights have to grow large where grids are fine."""


RECIPES: dict[str, Recipe] = {
    "cnn": Recipe("features", 16_000, 96_000, 32, 4e-3, 0.02, 1.0, 32.0),
    "resnet": Recipe("layer4", 40_000, 96_000, 32, 3e-3, 0.05, 1.0, 4.0),
    "vit": Recipe("norm", 64_000, 160_000, 32, 1.5e-3, 0.05, 1.0, 8.0),
}


def train(
    model_name: str,
    out_dir: str | Path,
    seed: int = 0,
    *,
    images: int | None = None,
    passes: int | None = None,
    fresh: int = 4_000,
    workers: int = 2,
    bfloat16: bool = True,
    species: float = 1.0,
    commit: str = "",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `"cnn"`, `"resnet"` or `"vit"` and write `model.safetensors` (float16) and `config.json` to `out_dir`.

    The training pictures of `seed` are painted first and kept in memory (49 KB each); `images` and `passes` override
    the recipe. Accuracy is measured on `fresh` pictures of another seed with the stored (float16) weights; it is
    returned with its 95 % Wilson interval in the training record. `species` weighs the loss of the species: with 0
    only the attributes of parts are learnt, which gives a backbone for a linear head. The number of threads is
    PyTorch's own (`torch.set_num_threads`); `bfloat16` halves the time on processors that support it.
    """
    if model_name not in RECIPES:
        raise FinerCAMError(f"model {model_name!r}: expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[model_name]
    passes = passes or recipe.passes
    images = recipe.images if images is None else images
    log(f"painting {images} pictures")
    pixels, parts = _pictures(seed, images, workers)
    labels = torch.from_numpy(Fieldguide(images, seed, SIZE).labels(range(images)))
    options: dict[str, Any] = {"norm": True} if model_name == "cnn" else {}
    begin = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[model_name](len(SPECIES), **options)
        model = _fit(model, recipe, pixels, parts, labels, seed, passes, bfloat16, species, log)
        minutes = (time.perf_counter() - begin) / 60
        if isinstance(model, PatchCNN):
            model, options = model.folded(), {}
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    share, low, high = accuracy(model.eval(), seed + FRESH, fresh, workers)
    log(
        f"{model_name}: accuracy {share:.4f} [{low:.4f}, {high:.4f}] on {fresh} fresh pictures, {minutes:.1f} minutes"
    )
    record = {
        "command": f"python -m training.classifiers {model_name} --out OUT --seed {seed}",
        "commit": commit,
        "seed": seed,
        "images": images,
        "passes": passes,
        "steps": passes // recipe.batch,
        "recipe": vars(recipe),
        "bfloat16": bfloat16,
        "species": species,
        "torch": torch.__version__,
        "minutes": round(minutes, 1),
        "accuracy": round(share, 4),
        "accuracy_interval": [round(low, 4), round(high, 4)],
        "accuracy_images": fresh,
        "accuracy_seed": seed + FRESH,
    }
    config = {
        "name": f"fieldguide/{model_name}",
        "architecture": model_name,
        "options": options,
        "class_names": [species.name for species in SPECIES],
        "input_size": [SIZE, SIZE],
        "mean": MEAN,
        "std": STD,
        "layer": recipe.layer
        if model_name != "vit"
        else f"blocks.{len(model.get_submodule('blocks')._modules) - 1}.norm1",
        "training": record,
    }
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return record


def accuracy(model: nn.Module, seed: int, count: int, workers: int = 1) -> tuple[float, float, float]:
    """Share of `count` pictures of `seed` that are classified correctly, with its 95 % Wilson interval."""
    birds = Fieldguide(count, seed, SIZE)
    hits = 0
    for first, last in pairwise([*range(0, count, 2048), count]):
        pixels, labels = birds.batch(range(first, last), workers), torch.from_numpy(birds.labels(range(first, last)))
        with torch.inference_mode():
            for at in range(0, len(pixels), 64):
                answers = model(normed(pixels[at : at + 64])).argmax(1)
                hits += int((answers == labels[at : at + 64]).sum())
    return (hits / count, *wilson(hits / count, count))


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share of `count` (Wilson, JASA 1927); 95 % by default."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def part_codes() -> np.ndarray:
    """`(species, 1 + parts)` int64: a number for each look of a part, the same for species with the same look.

    0 is the background. `part_codes()[label, picture.parts]` is a map of what is visible at each pixel.
    """
    codes = np.zeros((len(SPECIES), 1 + len(PARTS)), np.int64)
    known: dict[tuple[str, str, Any], int] = {}
    for label, species in enumerate(SPECIES):
        for number, part in enumerate(PARTS, 1):
            codes[label, number] = known.setdefault(
                (species.genus.name, part, species.marks.get(part)), len(known) + 1
            )
    return codes


def _picture(seed: int, index: int) -> np.ndarray:
    """Pixels and, as a fourth channel, part numbers."""
    picture = Fieldguide(index + 1, seed, SIZE).picture(index)
    return np.concatenate([picture.image, picture.parts[:, :, None]], 2)


def _pictures(seed: int, count: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    both = stack(partial(_picture, seed), range(count), workers, (SIZE, SIZE, 4), np.uint8)
    return np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3])


def normed(pixels: np.ndarray) -> Tensor:
    """`(N, H, W, 3)` uint8 to `(N, 3, H, W)` float32."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    return x.sub_(127.5).mul_(1 / (255 * STD[0]))


def _draws(count: int, batch: int, steps: int, seed: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Picture indices of each step (every picture once per pass), and whether to mirror them."""
    rng = np.random.default_rng((seed, 2))
    waiting = np.empty(0, np.int64)
    for _ in range(steps):
        if len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(count)])
        yield waiting[:batch], bool(rng.random() < 0.5)
        waiting = waiting[batch:]


def _fit(
    model: nn.Module,
    recipe: Recipe,
    pixels: np.ndarray,
    parts: np.ndarray,
    labels: Tensor,
    seed: int,
    passes: int,
    bfloat16: bool,
    species: float,
    log: Callable[[str], None],
) -> nn.Module:
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight, 0, 0.01 * recipe.head)
    nn.init.zeros_(head.bias)
    seen: list[Tensor] = []
    hook = model.get_submodule(recipe.layer).register_forward_hook(lambda *call: seen.append(call[2]))
    codes = torch.from_numpy(part_codes())
    kinds = int(codes.max()) + 1
    reader = nn.Linear(head.in_features, kinds)
    weight = torch.ones(kinds)
    weight[0] = 0.1  # most of a picture is not a bird
    weight[codes[:, PARTS.index("body") + 1]] = 0.4

    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    steps = passes // recipe.batch
    weights = [*model.parameters(), *reader.parameters()]
    # The head's bias learns as fast as its weights; otherwise the empty background votes for missing parts.
    slow = [w for w in weights if w is not head.weight and w is not head.bias]
    rates = [recipe.rate, recipe.rate, recipe.rate * recipe.head, recipe.rate * recipe.head]
    groups = [
        {"params": [w for w in slow if w.ndim > 1], "weight_decay": recipe.decay},
        {"params": [w for w in slow if w.ndim <= 1], "weight_decay": 0.0},
        {"params": [head.weight], "weight_decay": recipe.decay},
        {"params": [head.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.15)
    begin, smooth = time.perf_counter(), np.zeros(3)
    for step, (chosen, mirrored) in enumerate(_draws(len(pixels), recipe.batch, steps, seed), 1):
        x, truth = normed(pixels[chosen]), labels[chosen]
        if mirrored:
            x = x.flip(3)
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), truth)
        extra = loss.new_zeros(())
        if recipe.parts:
            seen_parts = torch.from_numpy(parts[chosen])
            if mirrored:
                seen_parts = seen_parts.flip(2)
            extra = _parts_loss(
                reader, seen[0], codes[truth[:, None, None], seen_parts.long()], weight, step, bfloat16
            )
        optimizer.zero_grad()
        (species * loss + recipe.parts * extra).backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        schedule.step()
        hit = float((logits.argmax(1) == truth).float().mean())
        smooth = 0.97 * smooth + 0.03 * np.array([loss.item(), extra.item(), hit])
        if step % 100 == 0 or step == steps:
            now = smooth / (1 - 0.97**step)
            took = time.perf_counter() - begin
            log(f"step {step}/{steps} loss {now[0]:.3f} parts {now[1]:.3f} accuracy {now[2]:.3f} {took:.0f} s")
    hook.remove()
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def _parts_loss(
    reader: nn.Linear, features: Tensor, kinds: Tensor, weight: Tensor, step: int, bfloat16: bool
) -> Tensor:
    """Cross entropy of the part that a linear `reader` predicts at the centre of each cell of the feature grid."""
    if features.ndim == 3:
        side = round(sqrt(features.shape[1]))
        features = features.transpose(1, 2).unflatten(2, (side, side))
    stride = SIZE // features.shape[-1]
    kinds = kinds[:, stride // 2 :: stride, stride // 2 :: stride]
    if features.shape[-1] >= 32:  # neighbouring cells of a fine grid are alike: a quarter of them suffices
        rows, columns = slice(step % 2, None, 2), slice(step // 2 % 2, None, 2)
        features, kinds = features[:, :, rows, columns], kinds[:, rows, columns]
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        answers = reader(features.permute(0, 2, 3, 1).flatten(0, 2))
    return F.cross_entropy(answers.float(), kinds.flatten(), weight)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.classifiers", description=__doc__)
    parser.add_argument("model", choices=list(RECIPES), help="which architecture to train")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and training")
    options = parser.parse_args(arguments)
    train(options.model, options.out, options.seed)


if __name__ == "__main__":
    main()
