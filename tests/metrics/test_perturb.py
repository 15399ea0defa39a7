import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam import metrics
from finercam.errors import FinerCAMError


def by_hand(model, image, relevance, classes, count, reveal=False):
    order = sorted(range(relevance.numel()), key=lambda i: -relevance.flatten()[i].item())
    gone = set(order[count:] if reveal else order[:count])
    picture = image.clone()
    for i in gone:
        picture[:, i // image.shape[2], i % image.shape[2]] = 0
    with torch.no_grad():
        return model(picture[None])[0].softmax(0)[classes]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_ties_keep_raster_order(values):
    ranks = metrics.rank_pixels(torch.tensor(values, dtype=torch.float32)[None, None])[0, 0].tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert [order.index(i) for i in range(len(values))] == ranks


def test_seeded_ties_are_spread_over_the_picture_and_leave_the_order_of_values_alone():
    flat = torch.zeros(1, 30, 30)
    flat[0, 20, 20], flat[0, 5, 5] = 2, -1
    ranks = metrics.rank_pixels(flat, seed=1)
    assert ranks[0, 20, 20] == 0 and ranks[0, 5, 5] == 899
    assert sorted(ranks.flatten().tolist()) == list(range(900))
    top_half = (ranks[0, :15] < 450).float().mean().item()
    assert abs(top_half - 0.5) < 0.1, "raster order would take the upper half first"
    assert torch.equal(ranks, metrics.rank_pixels(flat, seed=1))


@pytest.mark.parametrize("reveal", [False, True])
def test_masked_scores_equal_masking_pixel_by_pixel(model, images, maps, target, reveal):
    classes = torch.stack((target, (target + 1) % 5), 1)
    counts = [0, 7, 240, 480]
    got = metrics.masked_scores(model, images, maps, classes, counts, reveal=reveal)
    for i in range(len(images)):
        for s, count in enumerate(counts):
            want = by_hand(model, images[i], maps[i], classes[i], count, reveal)
            torch.testing.assert_close(got[i, :, s], want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
@pytest.mark.parametrize("fill", ["zero", "blur", "road"])
def test_the_batching_does_not_change_the_answer(model, images, maps, target, batch_size, fill):
    counts = [0, 50, 100, 200, 480]
    whole = metrics.masked_scores(model, images, maps, target, counts, fill=fill, batch_size=20)
    cut = metrics.masked_scores(model, images, maps, target, counts, fill=fill, batch_size=batch_size)
    torch.testing.assert_close(whole, cut, atol=2e-6, rtol=1e-5)


def test_the_model_runs_as_often_as_needed_and_never_above_the_batch_size(model, images, maps):
    seen = []

    def counting(x):
        seen.append(len(x))
        assert not torch.is_grad_enabled()
        return model(x)

    metrics.masked_scores(counting, images, maps, 0, list(range(0, 480, 40)), batch_size=9)
    assert sum(seen) == 4 * 12 and max(seen) <= 9


def test_a_map_with_a_hole_voids_its_own_picture_only(model, images, maps):
    broken = maps.clone()
    broken[2, 3, 3] = torch.nan
    got = metrics.masked_scores(model, images, broken, 0, [10, 20])
    assert got[2].isnan().all()
    rest = [0, 1, 3]
    torch.testing.assert_close(got[rest], metrics.masked_scores(model, images, maps, 0, [10, 20])[rest])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_single_precision_out(model, images, maps, target, dtype):
    def half(x):
        assert x.dtype == dtype
        return model(x.float()).to(dtype)

    exact = metrics.masked_scores(model, images.to(dtype).float(), maps, target, [0, 100, 300], fill="mean")
    got = metrics.masked_scores(half, images.to(dtype), maps, target, [0, 100, 300], fill="mean")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, exact, atol=3e-2, rtol=0)


def test_readings_agree(model, images):
    logits = model(images).detach()
    classes = torch.tensor([[0, 1]] * 4)
    gap = metrics.read_scores(logits, classes, "log_probability").diff(dim=1)
    torch.testing.assert_close(gap, metrics.read_scores(logits, classes, "logit").diff(dim=1))
    every = torch.arange(5).expand(4, 5)
    torch.testing.assert_close(metrics.read_scores(logits, every).sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.zeros(4, 10, 12)}, "upsample"),
        ({"classes": 5}, "5 classes"),
        ({"classes": torch.tensor([0.5] * 4)}, "integer"),
        ({"classes": [1, 2]}, "4 images"),
        ({"score": "softmax"}, "log_probability"),
        ({"batch_size": 0}, "batch_size"),
        ({"fill": "zeros"}, "'zero'"),
        ({"fill": "black"}, "black\\(mean, std\\)"),
    ],
)
def test_one_line_says_what_is_wrong(model, images, maps, change, message):
    arguments = {"maps": maps, "classes": 0} | change
    with pytest.raises(FinerCAMError, match=message) as raised:
        metrics.masked_scores(model, images, counts=[1], **arguments)
    assert "\n" not in str(raised.value)


def test_a_model_that_gives_no_logits_is_named(images, maps):
    with pytest.raises(FinerCAMError, match="expected logits"):
        metrics.masked_scores(lambda x: (x,), images, maps, 0, [1])


@pytest.mark.parametrize("shares", [[1.5], [], [float("nan")]])
def test_shares_are_shares(shares):
    with pytest.raises(FinerCAMError, match=r"\[0, 1\]"):
        metrics.pixel_counts(shares, 100)
