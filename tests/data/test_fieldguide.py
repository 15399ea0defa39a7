"""Fieldguide: what it says about its pictures is so."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation

from finercam.data.fieldguide import CHANGED, GENERA, PARTS, SPECIES, Fieldguide, caption
from finercam.data.fieldguide.render import paint
from finercam.data.fieldguide.scene import draw_scene
from finercam.data.fieldguide.species import COLOURS, discriminative_parts, nearest_sibling, siblings
from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError

KINDRED = [(c, d) for c, d in combinations(range(len(SPECIES)), 2) if SPECIES[c].genus is SPECIES[d].genus]
indices = st.integers(0, 5_000)


def levels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int)).max(-1)


def test_the_book_has_the_promised_size() -> None:
    assert len(GENERA) >= 8
    assert all(4 <= len(genus.wears) <= 6 for genus in GENERA)
    assert len({species.name for species in SPECIES}) == len(SPECIES)
    assert len({genus.plan for genus in GENERA}) == len(GENERA)


def test_kin_differ_in_one_or_two_parts_and_all_captions_differ() -> None:
    for c, d in KINDRED:
        parts = discriminative_parts(c, d)
        assert 1 <= len(parts) <= 2
        assert parts == discriminative_parts(d, c)
        assert all(SPECIES[c].marks.get(part) != SPECIES[d].marks.get(part) for part in parts)
    for c in range(len(SPECIES)):
        assert discriminative_parts(c, c) == ()
        assert d_is_kin(c, nearest_sibling(c))
        assert len(discriminative_parts(c, nearest_sibling(c))) == min(
            len(discriminative_parts(c, d)) for d in siblings(c)
        )
    assert len({caption(c) for c in range(len(SPECIES))}) == len(SPECIES)


def d_is_kin(c: int, d: int) -> bool:
    return d in siblings(c) and c in siblings(d)


def test_strangers_differ_in_body_too() -> None:
    first = {species.genus.name: label for label, species in reversed(list(enumerate(SPECIES)))}
    for c, d in combinations(first.values(), 2):
        assert "body" in discriminative_parts(c, d)


def test_marks_are_drawn_in_colours_that_exist() -> None:
    for species in SPECIES:
        assert set(species.marks) <= set(PARTS)
        assert {mark.colour for mark in species.marks.values()} | set(species.genus.coat.values()) <= set(COLOURS)


@settings(max_examples=8, deadline=None)
@given(index=indices, seed=st.integers(0, 3), size=st.sampled_from([48, 128, 200]))
def test_a_picture_depends_on_seed_index_and_size_alone(index: int, seed: int, size: int) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one = Fieldguide(6_000, seed, size).picture(index)
    other = Fieldguide(index + 1, seed, size).picture(index)
    assert np.array_equal(one.image, other.image) and np.array_equal(one.parts, other.parts)
    assert one.image.shape == (size, size, 3)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_known_pixels() -> None:
    """Pictures are part of the benchmark: whoever changes them must do so knowingly, and retrain the models."""
    scene = draw_scene(0, 7)
    means = [round(float(paint(scene, 64, label).image.mean()), 2) for label in range(len(SPECIES))]
    assert means == pytest.approx(KNOWN_MEANS, abs=0.015)


KNOWN_MEANS = [
    165.93, 164.54, 165.4, 167.61, 166.22, 169.65, 169.82, 169.7, 168.87, 169.28, 168.92, 162.26,
    162.66, 163.3, 163.01, 163.41, 162.78, 165.09, 162.16, 163.53, 162.93, 165.84, 164.38, 162.92,
    163.65, 165.11, 166.97, 163.65, 166.01, 166.15, 166.22, 166.05, 166.19, 166.5, 166.0, 165.78,
    166.43, 165.71, 162.61, 163.07, 162.65, 163.13, 163.75, 163.79, 160.96, 160.26, 160.99, 161.59,
    160.29,
]  # fmt: skip


def test_pictures_differ_between_indices_and_seeds() -> None:
    one, other = Fieldguide(2, 0), Fieldguide(2, 1)
    assert not np.array_equal(one.picture(0).image, one.picture(1).image)
    assert not np.array_equal(one.picture(0).image, other.picture(0).image)


def test_every_run_of_indices_is_balanced() -> None:
    birds = Fieldguide(3 * len(SPECIES), seed=4)
    labels = birds.labels(range(len(birds)))
    for block in labels.reshape(3, -1):
        assert sorted(block) == list(range(len(SPECIES)))


@settings(max_examples=12, deadline=None)
@given(index=indices)
def test_the_same_species_again_changes_nothing(index: int) -> None:
    birds = Fieldguide(6_000)
    label = birds.label(index)
    assert np.array_equal(birds.picture(index).image, birds.picture(index, label).image)
    assert not birds.contrast_mask(index, label).any()


@settings(max_examples=40, deadline=None)
@given(index=indices, pair=st.sampled_from(KINDRED))
def test_kin_change_only_where_their_telling_parts_are(index: int, pair: tuple[int, int]) -> None:
    scene = replace(draw_scene(0, index), before=())  # leaves in front take pixels that they only half cover
    one, other = (paint(scene, 128, label) for label in pair)
    numbers = [PARTS.index(part) + 1 for part in discriminative_parts(*pair)]
    parts = np.isin(one.parts, numbers) | np.isin(other.parts, numbers)
    changed = levels(one.image, other.image)
    mask = changed > CHANGED
    assert mask.sum() >= 40
    # Edges are soft: a mark that thins out along the bird's outline changes a pixel or two that no part owns.
    assert (mask & ~binary_dilation(parts, iterations=1)).sum() <= 0.05 * mask.sum()
    birds = binary_dilation((one.parts > 0) | (other.parts > 0), iterations=2)
    assert not changed[~birds].any()


@settings(max_examples=20, deadline=None)
@given(index=indices, rival=st.integers(0, len(SPECIES) - 1))
def test_contrast_is_what_changes_and_nothing_far_from_a_bird(index: int, rival: int) -> None:
    birds = Fieldguide(6_000)
    own, other = birds.picture(index), birds.picture(index, rival)
    mask = birds.contrast_mask(index, rival)
    assert np.array_equal(mask, levels(own.image, np.asarray(birds.counterfactual(index, rival))) > CHANGED)
    clear = replace(draw_scene(0, index), before=())  # leaves in front take pixels that they only half cover
    birds_in_it = (paint(clear, 128).parts > 0) | (paint(clear, 128, rival).parts > 0)
    near = binary_dilation(birds_in_it, iterations=3)
    assert not mask[~near].any()
    # Beyond the wing's soft shadow and the fringe of edges, nothing changes at all.
    assert not levels(own.image, other.image)[~binary_dilation(near, iterations=3)].any()


@pytest.mark.slow
def test_each_telling_part_can_be_seen_in_nearly_every_picture() -> None:
    birds = Fieldguide(200, seed=9)
    areas = [int(birds.contrast_mask(i, birds.nearest_sibling(birds.label(i))).sum()) for i in range(200)]
    assert min(areas) >= 25
    assert 80 <= np.median(areas) <= 300  # parts of some 6 to 20 pixels
    for i in range(60):
        seen = birds[i].annotation.masks
        varied = {part for d in siblings(birds.label(i)) for part in discriminative_parts(birds.label(i), d)}
        assert {part for part in varied if part in SPECIES[birds.label(i)].marks} <= set(seen)


def test_masks_show_worn_parts_and_no_others() -> None:
    birds = Fieldguide(60, seed=2)
    for sample in birds:
        masks = sample.annotation.masks
        assert sample.label is not None
        worn = set(SPECIES[sample.label].marks) | {"body", "legs", "wing", "eye"}
        assert set(masks) - {"object"} <= worn
        total = np.zeros((128, 128), int)
        for part, mask in masks.items():
            assert mask.dtype == bool and mask.any()
            if part != "object":
                total += mask
        assert np.array_equal(total > 0, masks["object"]) and total.max() == 1
        x0, y0, x1, y1 = map(int, sample.annotation.box or (0, 0, 0, 0))
        assert masks["object"][y0:y1, x0:x1].sum() == masks["object"].sum()
        for x, y in sample.annotation.keypoints.values():
            assert x0 <= x <= x1 and y0 <= y <= y1


def test_a_mask_covers_its_part() -> None:
    """What taking a part off changes is what its mask shows, on the bird with the most discriminative part."""
    plain, crested = Fieldguide(1).classes.index("Plain Pippin"), Fieldguide(1).classes.index("Red-crested Pippin")
    for index in range(20):
        scene = replace(draw_scene(3, index), before=(), noise=0.0)
        with_crest, without = paint(scene, 128, crested), paint(scene, 128, plain)
        mask = with_crest.parts == PARTS.index("crest") + 1
        changed = levels(with_crest.image, without.image) > CHANGED
        assert (mask & changed).sum() / (mask | changed).sum() > 0.8


def test_scenes_do_not_tell_the_species_apart() -> None:
    """Scenes are the same for every species of a genus: only occluders look at the genus, never at the species."""
    birds = Fieldguide(2_000, seed=5)
    scenes = [draw_scene(5, index) for index in range(300)]
    by_mark = [bool(siblings(s.label)) and s.label == min((s.label, *siblings(s.label))) for s in scenes]
    gains = np.array([s.light.mean() for s in scenes])
    assert abs(gains[by_mark].mean() - gains[~np.array(by_mark)].mean()) < 0.05
    assert {birds.label(i) for i in range(300)} == set(range(len(SPECIES)))


def test_larger_pictures_show_the_same_scene() -> None:
    small, large = paint(replace(draw_scene(0, 3), noise=0.0), 64), paint(replace(draw_scene(0, 3), noise=0.0), 256)
    shrunk = np.asarray(Image.fromarray(large.image).resize((64, 64), Image.Resampling.BOX))
    assert np.abs(shrunk.astype(int) - small.image.astype(int)).mean() < 3


def test_it_is_an_image_dataset_whose_samples_travel() -> None:
    birds = Fieldguide(5, seed=1, size=64)
    assert isinstance(birds, ImageDataset) and len(birds) == 5
    sample = pickle.loads(pickle.dumps(birds[3]))
    assert sample.id == birds[3].id and len({one.id for one in birds}) == 5
    assert np.array_equal(np.asarray(sample.open()), birds.picture(3).image)
    assert sample.annotation.box == birds[3].annotation.box


@pytest.mark.slow
def test_batches_equal_single_pictures_with_and_without_workers() -> None:
    birds = Fieldguide(70, seed=1, size=32)
    batch = birds.batch(range(70), workers=2)
    assert batch.shape == (70, 32, 32, 3) and batch.dtype == np.uint8
    assert all(np.array_equal(batch[i], birds.picture(i).image) for i in range(70))
    rivals = [birds.nearest_sibling(birds.label(i)) for i in range(5)]
    masks = birds.contrast_masks(range(5), rivals)
    assert all(np.array_equal(masks[i], birds.contrast_mask(i, rivals[i])) for i in range(5))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Fieldguide(0), "count=0"),
        (lambda: Fieldguide(5, seed=-1), "seed=-1"),
        (lambda: Fieldguide(5, size=4), "size=4"),
        (lambda: Fieldguide(5).contrast_mask(0, "Dodo"), "'Dodo'"),
        (lambda: Fieldguide(5).discriminative_parts(0, 99), "99"),
    ],
)
def test_bad_questions_are_answered_in_one_line(ask, words: str) -> None:
    with pytest.raises(FinerCAMError, match=words) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_iteration_ends() -> None:
    assert len(list(Fieldguide(3, size=16))) == 3
    with pytest.raises(IndexError, match="0 to 2"):
        Fieldguide(3)[3]
