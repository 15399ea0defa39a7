"""Hybrid birds and what is said of them: twins, truth, words."""

from __future__ import annotations

import numpy as np
import torch
from training.hybrids import draw_hybrid, noun_phrase, paint_hybrid, seen_parts, vocabulary
from training.twotower import ABSENT, Album, contrastive_loss, texts_for

from finercam.data.fieldguide import PARTS, SPECIES, Fieldguide, bird, caption, traits
from finercam.data.fieldguide.species import COLOURS, NAMED, phrase
from finercam.models.twotower import TwoTower

COUNT = 80
BIRDS = [draw_hybrid(5, index) for index in range(COUNT)]
ALBUM = Album(BIRDS, np.full((COUNT, len(NAMED)), 99))


def test_hybrids_are_seeded_and_twins_differ_in_one_part() -> None:
    assert [draw_hybrid(5, index) for index in range(4)] == BIRDS[:4]
    for first in range(0, COUNT, 2):
        one, other = BIRDS[first], BIRDS[first + 1]
        if one.species is None:
            assert other.species is not None
            continue
        changed = [part for part in NAMED if one.worn.get(part) != other.worn.get(part)]
        assert len(changed) <= (2 if one.label >= 0 else 1)
        assert one.species.genus == other.species.genus  # type: ignore[union-attr]


def test_twins_share_their_scene_and_only_the_changed_part_is_repainted() -> None:
    first = next(i for i in range(0, COUNT, 2) if BIRDS[i].label < 0 and BIRDS[i].species and ALBUM.differing(i))
    (part,) = ALBUM.differing(first)
    one, other = paint_hybrid(5, first), paint_hybrid(5, first + 1)
    number = PARTS.index(NAMED[part]) + 1
    changed = (one.image != other.image).any(2)
    assert changed.any()
    # A mark's shadowless edge blends with what lies below it, so a pixel around it may change as well.
    near = torch.nn.functional.max_pool2d(
        torch.from_numpy((one.parts == number) | (other.parts == number))[None].float(), 5, 1, 2
    )[0].bool()
    assert (near.numpy() | ~changed).all()


def test_an_empty_scene_has_no_bird_and_species_are_painted_as_before() -> None:
    empty = next(i for i in range(COUNT) if BIRDS[i].species is None)
    assert paint_hybrid(5, empty).parts.max() == 0
    assert seen_parts(paint_hybrid(5, empty + 1).parts).sum() > 0
    assert bird.SPECIES is SPECIES
    assert Fieldguide(3, 0).picture(1).parts.max() > 0


def test_the_words_are_the_fieldguides_own() -> None:
    words = set(vocabulary())
    for label, species in enumerate(SPECIES):
        for text in (caption(label), *traits(label).values()):
            assert set(text.replace("-", " ").replace(",", "").split()) <= words
        for part, mark in species.marks.items():
            assert phrase(part, mark) == noun_phrase(part, mark.style, mark.colour) == traits(label)[part]
    assert len(words) == len(vocabulary())


def test_truth_of_texts_is_what_the_birds_wear() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(COUNT)
    texts = texts_for(ALBUM, rows, rng)
    true, known = ALBUM.truth(texts, rows)
    assert 0.02 < true[known].mean() < 0.3
    assert true[:, 0].tolist() == [one.species is not None for one in BIRDS]  # "bird"
    assert true[:, 1].tolist() == [one.species is None for one in BIRDS]  # "an empty perch"
    for column, text in enumerate(texts[2:], 2):
        for row in rows[true[:, column]]:
            for part, style, colour in text.claims:
                assert ALBUM.styles[row, part] != ABSENT
                assert style in (-2, ALBUM.styles[row, part])
                assert colour in (-2, ALBUM.colours[row, part])
        for _, _, colour in text.claims:  # what a text says is in its words
            assert colour < 0 or list(COLOURS)[colour] in text.words
    assert len({text.words for text in texts}) > 100


def test_a_hidden_part_is_not_spoken_about() -> None:
    hidden = Album(BIRDS, np.zeros((COUNT, len(NAMED))))
    assert len(texts_for(hidden, np.arange(COUNT), np.random.default_rng(0))) == 2
    texts = texts_for(ALBUM, np.arange(COUNT), np.random.default_rng(0))
    true, known = hidden.truth(texts[2:], np.arange(COUNT))
    before, _ = ALBUM.truth(texts[2:], np.arange(COUNT))
    assert not true.any()
    assert not known[before].any()


def test_contrastive_loss_is_clips_where_one_text_is_true_of_one_picture() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    pairs = torch.eye(5, dtype=torch.bool)
    clip = sum(torch.nn.functional.cross_entropy(side, torch.arange(5)) for side in (logits, logits.T)) / 2
    assert torch.allclose(contrastive_loss(logits, pairs, torch.ones_like(pairs)), clip, atol=1e-6)


def test_unknown_pairs_do_not_count() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    true = torch.zeros(4, 6, dtype=torch.bool)
    true[0, 0] = true[1, 1] = true[2, 0] = true[3, 5] = True
    known = torch.ones_like(true)
    known[2, 0] = known[1, 4] = False
    (gradient,) = torch.autograd.grad(contrastive_loss(logits, true, known), logits)
    assert (gradient[~known] == 0).all()
    assert (gradient[true & known] < 0).all()
    assert (gradient[0, 1:] > 0).all()


def test_every_text_can_be_tokenized() -> None:
    model = TwoTower(vocabulary(), width=8)
    texts = texts_for(ALBUM, np.arange(COUNT), np.random.default_rng(1))
    tokens = model.tokenize([text.words for text in texts])
    assert (tokens[:, 0] > 0).all()
    assert tokens.max() <= len(vocabulary())
