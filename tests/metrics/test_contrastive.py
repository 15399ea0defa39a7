import torch

from finercam import metrics


def test_a_crest_that_is_not_there_is_evidence_not_background():
    objects, discriminative = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    objects[0, 2:, :2] = True
    discriminative[0, 1:3, 0] = True  # one pixel on the bird, one in the sky
    parts = metrics.regions(discriminative, objects)
    assert sum(part.int() for part in parts.values()).eq(1).all()
    assert {name: int(part.sum()) for name, part in parts.items()} == {
        "discriminative": 2,
        "shared": 3,
        "background": 11,
    }


def test_by_hand_and_energies_add_up(maps, masks):
    objects = masks | masks.roll(4, 2)
    answer = metrics.contrastive(maps, masks, objects, tolerance=2)
    for i in range(4):
        mass = maps[i].clamp_min(0)
        torch.testing.assert_close(answer["discriminative_energy"][i], mass[masks[i]].sum() / mass.sum())
        torch.testing.assert_close(answer["shared_energy"][i], mass[objects[i] & ~masks[i]].sum() / mass.sum())
    total = sum(answer[f"{name}_energy"] for name in ("discriminative", "shared", "background"))
    torch.testing.assert_close(total, torch.ones(4))
    assert torch.equal(answer["discriminative_pointing"], metrics.pointing(maps, masks, tolerance=2))
    assert torch.equal(answer["discriminative_ap"], metrics.average_precision(maps, masks))


def test_the_perfect_map_scores_one(masks):
    answer = metrics.contrastive(masks.float(), masks, masks.roll(2, 1))
    for name in ("energy", "pointing", "ap"):
        assert (answer[f"discriminative_{name}"] == 1).all()
    assert (answer["shared_energy"] == 0).all() and (answer["background_energy"] == 0).all()


def test_the_uniform_map_and_shuffled_maps_land_on_the_chance_levels(maps, masks):
    objects = masks | masks.roll(4, 2)
    chance = metrics.contrastive_chance(masks, objects, tolerance=2)
    uniform = metrics.contrastive(metrics.uniform_map(4, (20, 24)), masks, objects, tolerance=2)
    assert chance.keys() == uniform.keys()
    for name in chance.keys() - {"discriminative_ap"}:  # AP's uniform value is the share: all pixels tie
        torch.testing.assert_close(uniform[name], chance[name])
    many = metrics.shuffled_map(maps[:1].expand(2000, -1, -1), seed=7)
    shuffled = metrics.contrastive(many, masks[:1].expand_as(many), objects[:1].expand_as(many), tolerance=2)
    for name, values in shuffled.items():
        assert abs(values.mean() - chance[name][0]) < 4 * values.std() / 2000**0.5, name


def test_nothing_tells_them_apart(maps, masks):
    nothing = masks.clone()
    nothing[3] = False
    for values in (metrics.contrastive(maps, nothing, masks), metrics.contrastive_chance(nothing, masks)):
        for name, column in values.items():
            assert column.isnan().tolist() == [False, False, False, True], name
