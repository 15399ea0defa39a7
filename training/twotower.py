"""Trains the two-tower image–text model on pictures of hybrids and their descriptions: `python -m training.twotower`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.data.fieldguide import GENERA, PARTS, SPECIES, Fieldguide, caption
from finercam.data.fieldguide.dataset import stack
from finercam.data.fieldguide.species import COLOURS, NAMED, with_article
from finercam.images import Preprocess
from finercam.models.twotower import TwoTower, TwoTowerMeta, save_twotower
from training.classifiers import MEAN, SIZE, STD, normed, wilson
from training.hybrids import (
    ANY_STYLE,
    CONTEXTS,
    GENERAL,
    NOTHING,
    OPTIONAL,
    STYLES,
    Hybrid,
    draw_hybrid,
    near,
    noun_phrase,
    paint_hybrid,
    seen_parts,
    vocabulary,
)

__all__ = ["Album", "Text", "contrastive_loss", "train", "zero_shot_accuracy"]

CROP = 96
"""Side of the square crops for training in pixels. They lose mostly sky and halve the time."""
STRIDE = 4
"""Distance in pixels between places of the image tower's grid."""
SEEN = 6
"""Smallest number of visible pixels for a description to mention a part."""
ABSENT, ANY = -1, -2
BARE, NOWHERE = -1, -2
"""Marks of places that show no named part: the rest of the bird, or no bird."""
BIRD, EMPTY = "bird", "empty"

_STYLE = {(part, style): place for part in NAMED for place, style in enumerate(STYLES[part])}
_COLOUR = {colour: place for place, colour in enumerate(COLOURS)}
_NEAR = np.array([[near(one, other) for other in COLOURS] for one in COLOURS])


@dataclass(frozen=True)
class Text:
    """A description and its claims `(part, style, colour)`, with `ANY` for what it does not mention."""

    words: str
    claims: tuple[tuple[int, int, int], ...] = ()
    look: int = ANY
    of: str = BIRD


class Album:
    """The contents of N pictures as numbers, from which the truth of a text is computed."""

    def __init__(self, birds: list[Hybrid], seen: np.ndarray) -> None:
        self.birds = birds
        self.bird = np.array([one.species is not None for one in birds])
        self.look = np.array([one.look for one in birds])
        self.styles = np.full((len(birds), len(NAMED)), ABSENT)
        self.colours = np.full((len(birds), len(NAMED)), ABSENT)
        self.seen = seen >= SEEN
        for row, one in enumerate(birds):
            for part, mark in one.worn.items():
                column = NAMED.index(part)
                self.styles[row, column] = _STYLE[part, mark.style]
                self.colours[row, column] = _COLOUR[mark.colour]

    def truth(self, texts: list[Text], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(N, T)` bool each: whether a text is true of a picture, and whether that is known.

        It is not known if the part is hidden, or if its colour is close to the claimed one.
        """
        true = np.empty((len(rows), len(texts)), bool)
        known = np.ones_like(true)
        for column, text in enumerate(texts):
            holds = ~self.bird[rows] if text.of == EMPTY else self.bird[rows]
            if text.look != ANY:
                holds = holds & (self.look[rows] == text.look)
            doubt = np.zeros(len(rows), bool)
            for part, style, colour in text.claims:
                worn, style_of, colour_of = self.seen[rows, part], self.styles[rows, part], self.colours[rows, part]
                fits = (style_of != ABSENT) & ((style == ANY) | (style_of == style))
                alike = (colour == ANY) | _NEAR[colour_of, colour]
                same = fits & ((colour == ANY) | (colour_of == colour))
                doubt |= (fits & ~same & alike) | (same & ~worn)
                holds = holds & (same | (fits & alike))
            true[:, column] = holds & ~doubt
            known[:, column] = ~(holds & doubt)
        return true, known

    def differing(self, row: int) -> list[int]:
        """The parts of a picture that differ from its twin."""
        twin = row ^ 1
        changed = (self.styles[row] != self.styles[twin]) | (self.colours[row] != self.colours[twin])
        return [part for part in np.flatnonzero(changed).tolist() if self.styles[row, part] != ABSENT]


def texts_for(album: Album, rows: np.ndarray, rng: np.random.Generator) -> list[Text]:
    """Descriptions for the pictures of a step: of one part, of several parts, and one with a wrong part."""
    texts = [Text(str(rng.choice(GENERAL))), Text(str(rng.choice(NOTHING)), of=EMPTY)]
    for row in rows.tolist():
        if not album.bird[row]:
            continue
        shown = [part for part in range(len(NAMED)) if album.styles[row, part] != ABSENT and album.seen[row, part]]
        discriminative = [part for part in album.differing(row) if part in shown]
        if not shown:
            continue
        first = int(rng.choice(discriminative if discriminative and rng.random() < 0.7 else shown))
        texts.append(_one(album, row, first, rng))
        texts.append(_several(album, row, shown, rng))
        texts.append(_false(album, row, first, rng))
    return texts


def _one(album: Album, row: int, part: int, rng: np.random.Generator, style: int = ANY, colour: int = ANY) -> Text:
    words, claim = _claim(album, row, part, rng, style, colour)
    bare = with_article(words) if rng.random() < 0.5 else words
    context = str(rng.choice(CONTEXTS))
    return Text(context.format(bare if context == "{}" else with_article(words)), (claim,))


def _claim(
    album: Album, row: int, part: int, rng: np.random.Generator, style: int = ANY, colour: int = ANY
) -> tuple[str, tuple[int, int, int]]:
    name = NAMED[part]
    style = int(album.styles[row, part]) if style == ANY else style
    colour = int(album.colours[row, part]) if colour == ANY else colour
    loose = name in ANY_STYLE and rng.random() < 0.5
    shade = list(COLOURS)[colour]
    if name in OPTIONAL and loose and rng.random() < 0.25:  # the part alone, whatever its colour
        words = " ".join(noun_phrase(name, None, "", int(rng.integers(4))).replace("-marked", "marked").split())
        return words, (part, ANY, ANY)
    words = noun_phrase(name, None if loose else list(STYLES[name])[style], shade, int(rng.integers(4)))
    return words, (part, ANY if loose else style, colour)


def _several(album: Album, row: int, shown: list[int], rng: np.random.Generator) -> Text:
    bird = album.birds[row]
    full = bird.label >= 0 and rng.random() < 0.3
    if full:
        marks = [(NAMED.index(part), mark) for part, mark in SPECIES[bird.label].marks.items()]
        claims = tuple((part, _STYLE[NAMED[part], mark.style], _COLOUR[mark.colour]) for part, mark in marks)
        return Text(caption(bird.label), claims, bird.look)
    chosen = rng.permutation(shown)[: int(rng.integers(2, 4))]
    named = [_claim(album, row, int(part), rng) for part in chosen]
    phrases = [with_article(words) for words, _ in named]
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    look = bird.look if bird.look >= 0 and rng.random() < 0.5 else ANY
    subject = "bird" if look == ANY else GENERA[look].look
    return Text(f"a {subject} with {listed}", tuple(claim for _, claim in named), look)


def _false(album: Album, row: int, part: int, rng: np.random.Generator) -> Text:
    """The part in another colour or, at times, style."""
    styles = len(STYLES[NAMED[part]])
    if styles > 1 and rng.random() < 0.4:
        return _one(album, row, part, rng, style=int(rng.integers(styles)))
    return _one(album, row, part, rng, colour=int(rng.integers(len(COLOURS))))


# -- learning -----------------------------------------------------------------------------------------------------


def contrastive_loss(logits: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """The symmetric contrastive loss for pictures with several true texts and texts that are true of several pictures.

    `logits`, `true`, `known` are `(N, T)`. Each true pair is compared with the false pairs of its row, and with those
    of its column. This is CLIP's cross entropy (Radford et al., ICML 2021) without the other true pairs in the sum.

    >>> import torch
    >>> pairs = torch.eye(2, dtype=torch.bool)
    >>> round(contrastive_loss(torch.zeros(2, 2), pairs, torch.ones(2, 2, dtype=torch.bool)).item(), 4)
    0.6931
    """
    false = logits.masked_fill(true | ~known, -1e4)  # -inf would have no gradient
    pairs = true & known
    by_picture = F.softplus(torch.logsumexp(false, 1, keepdim=True) - logits)[pairs]
    by_text = F.softplus(torch.logsumexp(false, 0, keepdim=True) - logits)[pairs]
    return 0.5 * (by_picture.mean() + by_text.mean())


def train(
    out_dir: str | Path,
    seed: int = 0,
    *,
    images: int = 16_000,
    steps: int = 3_200,
    batch: int = 32,
    rate: float = 4e-3,
    decay: float = 0.02,
    places: float = 1.0,
    fresh: int = 1_000,
    workers: int = 2,
    bfloat16: bool = True,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train the two-tower model, write it to `out_dir` and return the training record with the zero-shot accuracy.

    `images` hybrids of the seed are painted first, and a square of each is kept in memory. `places` weighs a second
    loss, between single places and the texts about the part at that place. As with the other built-in models, part
    maps cut training from hours to minutes and are not needed afterwards.
    """
    log(f"painting {images} pictures")
    pixels, parts, seen = paint(seed, images, workers)
    album = Album([draw_hybrid(seed, index) for index in range(images)], seen)
    words = vocabulary()
    begin, worked = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TwoTower(words, norm=True)
        fit(model, pixels, parts, album, seed, steps, batch, rate, decay, places, bfloat16, log)
    minutes, worked = (time.perf_counter() - begin) / 60, (time.process_time() - worked) / 60
    model.visual = model.visual.folded()
    model.load_state_dict({key: value.half() for key, value in model.state_dict().items()})
    hits, low, high = zero_shot_accuracy(model.eval(), seed + 1_000_000, fresh)
    log(
        f"twotower: zero-shot accuracy {hits:.3f} [{low:.3f}, {high:.3f}] on {fresh} fresh pictures, {minutes:.1f} min"
    )
    record = {
        "command": f"python -m training.twotower --out OUT --seed {seed}",
        "seed": seed,
        "images": images,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "decay": decay,
        "places": places,
        "bfloat16": bfloat16,
        "torch": torch.__version__,
        "minutes": round(minutes, 1),
        "processor_minutes": round(worked, 1),
        "zero_shot_accuracy": round(hits, 4),
        "zero_shot_interval": [round(low, 4), round(high, 4)],
        "zero_shot_images": fresh,
    }
    save_twotower(model, TwoTowerMeta(words, 96, Preprocess((SIZE, SIZE), mean=MEAN, std=STD), record), out_dir)
    return record


def paint(seed: int, count: int, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels `(N, 96, 96, 3)` uint8, the part at each place `(N, 24, 24)`, as an index into `NAMED`, `BARE` or
    `NOWHERE`, and pixels in sight of each named part `(N, 13)`."""
    both = stack(partial(_picture, seed), range(count), workers, (CROP, CROP, 4), np.uint8)
    number = np.full(len(PARTS) + 1, BARE, np.int8)
    number[0] = NOWHERE
    for place, part in enumerate(NAMED):
        number[PARTS.index(part) + 1] = place
    middle = both[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE, 3]
    return np.ascontiguousarray(both[..., :3]), number[middle], np.stack([seen_parts(one) for one in both[..., 3]])


def _picture(seed: int, index: int) -> np.ndarray:
    picture = paint_hybrid(seed, index, SIZE)
    return cut(seed, index, np.concatenate([picture.image, picture.parts[:, :, None]], 2))


def cut(seed: int, index: int, picture: np.ndarray) -> np.ndarray:
    """A square crop of a picture `(H, W, …)` at a random position, which is the same for twins."""
    row, column = np.random.default_rng((seed, index // 2, 5)).integers(SIZE - CROP + 1, size=2).tolist()
    return picture[row : row + CROP, column : column + CROP]


def fit(
    model: TwoTower,
    pixels: np.ndarray,
    parts: np.ndarray,
    album: Album,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
    decay: float,
    places: float,
    bfloat16: bool,
    log: Callable[[str], None],
) -> None:
    """Train with AdamW and one cycle of the learning rate; both twins are always in the same batch."""
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(_groups(model, decay), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    rng = np.random.default_rng((seed, 4))
    waiting = np.empty(0, np.int64)
    begin, smooth = time.perf_counter(), np.zeros(2)
    for step in range(1, steps + 1):
        if len(waiting) < batch // 2:
            waiting = np.concatenate([waiting, rng.permutation(len(pixels) // 2)])
        pairs, waiting = waiting[: batch // 2], waiting[batch // 2 :]
        rows = np.stack([2 * pairs, 2 * pairs + 1], 1).ravel()
        texts = texts_for(album, rows, rng)
        true, known = (torch.from_numpy(table) for table in album.truth(texts, rows))
        x = normed(pixels[rows])
        mirrored = bool(rng.random() < 0.5)
        if mirrored:
            x = x.flip(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            maps = model.visual.features(x)
        tokens = model.tokenize([text.words for text in texts])
        described = F.normalize(model.encode_text(tokens), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        pooled = F.normalize(model.visual.projection(maps.float().mean((2, 3))), dim=-1)
        losses = [contrastive_loss(scale * pooled @ described.T, true, known), scale.new_zeros(())]
        if places:
            there = parts[rows][:, :, ::-1] if mirrored else parts[rows]
            chosen = drawn_places(there, rng)
            features = maps.permute(0, 2, 3, 1).flatten(0, 2)[torch.from_numpy(chosen)].float()
            each = F.normalize(model.visual.projection(features), dim=-1)
            truth = place_truth(
                texts, there.ravel()[chosen], true[chosen // there[0].size], known[chosen // there[0].size]
            )
            losses[1] = contrastive_loss(scale * each @ described.T, *truth)
        optimizer.zero_grad()
        (losses[0] + places * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        smooth = 0.97 * smooth + 0.03 * np.array([value.item() for value in losses])
        if step % 50 == 0 or step == steps:
            now, took = smooth / (1 - 0.97**step), time.perf_counter() - begin
            log(
                f"step {step}/{steps} pictures {now[0]:.3f} places {now[1]:.3f} scale {scale.item():.1f} {took:.0f} s"
            )
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def drawn_places(parts: np.ndarray, rng: np.random.Generator, named: int = 36, others: int = 12) -> np.ndarray:
    """Flat indices of places to learn from, of parts `(N, h, w)`: of each picture some with a named part, some of the
    rest of the bird, some of the background."""
    drawn = []
    for row, flat in enumerate(parts.reshape(len(parts), -1)):
        for kind, count in ((flat >= 0, named), (flat == BARE, others), (flat == NOWHERE, others)):
            drawn.append(row * flat.size + rng.permutation(np.flatnonzero(kind))[:count])
    return np.concatenate(drawn)


def place_truth(texts: list[Text], part: np.ndarray, true: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Whether texts are true of places with these parts `(R,)`, and whether that is known, `(R, T)` each.

    `true` and `known` `(R, T)` are those of the pictures. A text about one part is true at places of that part, and the
    general text at places of the bird; elsewhere both are false. For other texts the truth at a place is not known.
    """
    about = [text.claims[0][0] if len(text.claims) == 1 and text.look == ANY else ABSENT for text in texts]
    general = torch.tensor([text.of == BIRD and not text.claims and text.look == ANY for text in texts])
    single = torch.tensor(about) != ABSENT
    at = torch.from_numpy(part.astype(np.int64))[:, None]
    here = torch.where(general, at != NOWHERE, at == torch.tensor(about))
    local = single | general
    return true & here & local, local & (known | ~here)


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    weights = list(model.parameters())
    return [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]


def zero_shot_accuracy(model: TwoTower, seed: int, count: int) -> tuple[float, float, float]:
    """Share of Fieldguide pictures for which the caption of their species scores best, with its 95 % Wilson interval."""
    birds = Fieldguide(count, seed, SIZE)
    tokens = model.tokenize([caption(label) for label in range(len(SPECIES))])
    hits = 0
    with torch.inference_mode():
        for at in range(0, count, 50):
            rows = range(at, min(at + 50, count))
            answers = model(normed(birds.batch(rows)), tokens).argmax(1).numpy()
            hits += int((answers == birds.labels(rows)).sum())
    return (hits / count, *wilson(hits / count, count))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.twotower", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and training")
    options = parser.parse_args(arguments)
    train(options.out, options.seed)


if __name__ == "__main__":
    main()
