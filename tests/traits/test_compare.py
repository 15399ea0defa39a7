"""What is a trait: consistent between halves, not by chance, and as strong as its removal says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from finercam.errors import FinerCAMError
from finercam.traits.sights import ClassSights, Sights, read_sights, sights_fingerprint
from finercam.traits.traits import compare

CREST, WING = torch.tensor([1.0, 0.0, 0.2]), torch.tensor([0.0, 1.0, -0.2])


def sights(target: int, rival: int, regions: list[list[tuple]], names: list[str] | None = None) -> ClassSights:
    """What photos show; each region is (feature, sign, share, drop, name index or None)."""
    rows = [(photo, *region) for photo, of in enumerate(regions) for region in of]
    named = torch.zeros(len(rows), len(names or []))
    for at, row in enumerate(rows):
        if row[5] is not None:
            named[at, row[5]] = 1
    features = torch.stack([F.normalize(row[1] + 0.01 * at, dim=0) for at, row in enumerate(rows)])
    table = Sights(
        torch.tensor([row[0] for row in rows]),
        torch.full((len(rows), 2), 0.5),
        torch.tensor([float(row[2]) for row in rows]),
        torch.tensor([row[3] for row in rows]),
        features,
        torch.tensor([row[4] for row in rows]),
        torch.zeros(len(rows)),
        named,
    )
    count = len(regions)
    paths = [f"{target}/{at}.png" for at in range(count)]
    grids = F.normalize(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    return ClassSights(
        target,
        list(range(count)),
        paths,
        grids,
        {rival: torch.full((count,), 5.0)},
        {rival: table},
        names or [],
        "words",
    )


def crested(count: int = 12) -> tuple[ClassSights, ClassSights]:
    """The first class shows a crest that carries its margin; the second one's evidence is faint and on the wing."""
    one = sights(
        3, 8, [[(CREST, 1, 0.7, 4.0 + at / 99, 0), (WING, 1, 0.1, 0.1, 1)] for at in range(count)], ["crest", "wing"]
    )
    other = sights(8, 3, [[(WING, 1, 0.4, 0.3 + at / 99, 0)] for at in range(count)], ["wing"])
    return one, other


def test_the_trait_that_carries_the_margin_is_first_and_says_who_shows_it():
    pair = compare(*crested())
    first, second = pair.traits
    assert (first.name, first.shown_by, first.consistent, first.confirmed) == ("crest", "target", True, True)
    assert (first.target.photos, first.rival.photos) == (12, 0)
    assert first.target.without == pytest.approx(5 - 4.0, abs=0.1) and first.rival.without == pytest.approx(5.0)
    assert first.margin_share == pytest.approx((4.05 + 0) / 2 / 5, abs=0.01)
    assert second.name == "wing" and second.rival.photos == 12
    assert not any(spot.lit for spot in first.rival.spots) and all(spot.lit for spot in first.target.spots)


def test_the_rivals_evidence_names_what_the_target_lacks():
    reversed_pair = compare(*reversed(crested()))
    crest = next(trait for trait in reversed_pair.traits if trait.name == "crest")
    assert (crest.shown_by, crest.consistent) == ("rival", True)


def test_evidence_that_both_classes_carry_alike_is_not_consistent():
    """Half of the photos of either class show a crest, whatever their label: as if labels had been shuffled."""
    regions = [[(CREST if at % 4 < 2 else WING, 1 if at % 4 < 2 else -1, 0.5, 2.0, None)] for at in range(16)]
    flipped = [[(feature, -sign, share, drop, name)] for ((feature, sign, share, drop, name),) in regions]
    pair = compare(sights(0, 1, regions), sights(1, 0, flipped))
    assert pair.traits and not pair.consistent


def test_few_photos_are_never_called_consistent():
    assert not compare(*crested(2)).consistent


def test_a_name_with_the_most_weight_wins_and_unknown_names_stay_empty():
    one, other = crested()
    bare = compare(sights(3, 8, [[(CREST, 1, 0.7, 4.0, None)]] * 3), sights(8, 3, [[(WING, 1, 0.4, 0.3, None)]] * 3))
    assert {trait.name for trait in bare.traits} == {""}
    assert compare(one, other).traits[0].name_share == 1.0


def test_a_class_with_one_photo_or_another_rival_is_refused():
    one = crested()[0]
    with pytest.raises(FinerCAMError, match="class 8 has 1 usable photos"):
        compare(one, sights(8, 3, [[(WING, 1, 0.4, 0.3, None)]]))
    with pytest.raises(FinerCAMError, match="class 3 were not compared with class 5"):
        compare(one, sights(5, 8, [[(WING, 1, 0.4, 0.3, None)]] * 2))


def test_sights_survive_the_disk_and_a_damaged_file_is_told(tmp_path):
    one, other = crested()
    for at, of in enumerate((one, other)):
        of.write(tmp_path / f"{at}", "made of this")
    read = tuple(read_sights(tmp_path / f"{at}") for at in (0, 1))
    assert sights_fingerprint(tmp_path / "0") == "made of this"
    assert [t.name for t in compare(*read).traits] == [t.name for t in compare(one, other).traits]
    (tmp_path / "0").write_bytes((tmp_path / "0").read_bytes()[:100])
    assert sights_fingerprint(tmp_path / "0") is None
    with pytest.raises(FinerCAMError, match="cannot be read"):
        read_sights(tmp_path / "0")
