"""The plates: one a genus, each discriminative part named."""

from __future__ import annotations

import pytest
from PIL import Image
from training.plates import LACKING, plate, write_plates

from finercam.data.fieldguide import GENERA, SPECIES, discriminative_parts
from finercam.data.fieldguide.species import phrase


@pytest.mark.slow
def test_plates_are_written_for_every_genus(tmp_path) -> None:
    paths = write_plates(tmp_path, size=48)
    assert {path.name for path in paths} == {"overview.png"} | {f"plate-{g.name.lower()}.png" for g in GENERA}
    for path in paths:
        low, high = Image.open(path).convert("L").getextrema()
        assert low < 80 and high > 180


def test_a_plate_names_every_species_and_what_it_wears_or_lacks() -> None:
    genus = GENERA[0]
    words = [text.get_text() for axes in plate(genus, 48).axes for text in axes.texts]
    labels = [label for label, species in enumerate(SPECIES) if species.genus is genus]
    for label in labels:
        assert SPECIES[label].name in words
        for part in {part for other in labels for part in discriminative_parts(label, other)}:
            mark = SPECIES[label].marks.get(part)
            assert (phrase(part, mark) if mark else LACKING[part]) in words
