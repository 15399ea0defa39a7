import threading
import time
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from finercam.data import Sample, loader
from finercam.errors import FinerCAMError
from finercam.images import Preprocess

FIXED = Preprocess((16, 16))
NATIVE = Preprocess(mode="native", multiple=8, max_side=32)


class Made:
    """Pictures of one grey each, of the sizes given; those in `bad` cannot be read."""

    name, classes = "made", ["even", "odd"]

    def __init__(self, sizes, bad=(), error=FinerCAMError, pause=0.0):
        self.sizes, self.bad, self.error, self.pause = sizes, set(bad), error, pause
        self.opened, self.lock = [], threading.Lock()

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return Sample(f"p{index}", index % 2, lambda: self._load(index))

    def _load(self, index):
        with self.lock:
            self.opened.append(index)
        time.sleep(self.pause * (index % 3))
        if index in self.bad:
            raise self.error(f"p{index} is\nbroken")
        return Image.new("RGB", self.sizes[index], (index, index, index))


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_everything_once_and_in_order(workers):
    data = Made([(20, 16)] * 11, pause=0.002)
    batches = list(loader(data, FIXED, 4, workers=workers))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert list(chain.from_iterable(batch.indices for batch in batches)) == list(range(11))
    for batch in batches:
        assert batch.images.shape == (len(batch), 3, 16, 16) and batch.errors == []
        assert batch.ids == [f"p{i}" for i in batch.indices] and batch.labels == [i % 2 for i in batch.indices]
        assert batch.sizes == [(20, 16)] * len(batch)
        for image, index in zip(batch.images, batch.indices, strict=True):
            assert (FIXED.inverse(image) == index).all()  # the picture is that of its index


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [FinerCAMError, OSError, RuntimeError])
@pytest.mark.parametrize("bad", [[0], [10], [3, 4, 5, 6, 7], [0, 1, 2, 3, 8, 9, 10]])
def test_broken_pictures_stop_nothing_and_are_named_once(workers, error, bad):
    batches = list(loader(Made([(16, 16)] * 11, bad, error), FIXED, 4, workers=workers))
    assert list(chain.from_iterable(batch.indices for batch in batches)) == [i for i in range(11) if i not in bad]
    assert list(chain.from_iterable(batch.errors for batch in batches)) == [
        (i, f"p{i}", f"p{i} is broken") for i in bad
    ]
    assert all(len(batch) for batch in batches)


def test_nothing_readable_and_nothing_asked_for():
    (batch,) = loader(Made([(16, 16)] * 3, [0, 1, 2]), FIXED, 2)
    assert len(batch) == 0 and len(batch.errors) == 3 and batch.images.shape[0] == 0
    assert list(loader(Made([(16, 16)] * 3), FIXED, 2, indices=[])) == []


def test_chosen_indices():
    batches = list(loader(Made([(16, 16)] * 9), FIXED, 2, indices=torch.tensor([7, 0, 7])))
    assert [batch.indices for batch in batches] == [[7, 0], [7]]
    with pytest.raises(FinerCAMError, match="index 9 is outside"):
        loader(Made([(16, 16)] * 9), FIXED, 2, indices=[0, 9])
    with pytest.raises(FinerCAMError, match="batch_size=0"):
        loader(Made([(16, 16)]), FIXED, 0)


def test_native_groups_by_shape_and_keeps_memory_bounded():
    rng = np.random.default_rng(0)
    sizes = [(8 * int(w), 8 * int(h)) for w, h in rng.integers(1, 5, (60, 2))]
    data = Made(sizes, bad=[5, 41])
    waiting = 0
    seen = []
    for batch in loader(data, NATIVE, 3, workers=0):
        assert batch.images.shape[2:] == NATIVE.tensor_size(batch.sizes[0]) and len(batch) <= 3
        assert len({NATIVE.tensor_size(size) for size in batch.sizes}) == 1
        assert batch.sizes == [sizes[i] for i in batch.indices]
        seen += batch.indices
        waiting = max(waiting, len(data.opened) - len(seen))
    assert sorted(seen) == [i for i in range(60) if i not in (5, 41)]
    assert waiting <= 4 * 3 + 3 + 2  # the shelves, the batch held back, the broken ones


def test_reads_ahead_but_not_without_bound():
    data = Made([(16, 16)] * 200)
    batches = loader(data, FIXED, 4, workers=2)
    next(batches)
    time.sleep(0.1)
    assert len(data.opened) <= 4 * 2 + 2 * 4  # two batches made (one is held back), two more ahead
    batches.close()
    time.sleep(0.05)
    opened = len(data.opened)
    time.sleep(0.05)
    assert len(data.opened) == opened
    assert not [t for t in threading.enumerate() if t.name.startswith("finercam-read") and t.is_alive()]


def test_a_real_dataset_with_a_missing_picture(cub_tree):
    from finercam.data.cub import CUB

    data = CUB(cub_tree, "all")
    (cub_tree / "images" / data[2].id).unlink()
    (batch,) = loader(data, FIXED, 8)
    assert batch.indices == [0, 1, 3] and batch.labels == [0, 0, 1]
    ((index, name, reason),) = batch.errors
    assert index == 2 and name == data[2].id and "does not exist" in reason
