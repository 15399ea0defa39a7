"""Quantised maps come back within half a step, and keep zero and sign."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam.report.pack import pack, packed_length, unpack


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 16]), st.floats(1e-12, 1e6))
def test_half_a_step_is_lost_at_most(seed, bits, size):
    maps = size * np.random.default_rng(seed).normal(size=(3, 4, 5))
    maps[1] = 0
    packed = pack(maps, bits)
    steps = np.abs(maps).max(axis=(1, 2)) / (2 ** (bits - 1) - 1)
    found = unpack(packed)
    # scales are written with nine digits, which moves the largest value by its share of that
    assert (np.abs(found - maps) <= (0.5 * steps + 1e-8 * np.abs(maps).max())[:, None, None]).all()
    assert not found[1].any()
    big = np.abs(maps) > steps[:, None, None]
    assert (np.sign(found[big]) == np.sign(maps[big])).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_announced_length_covers_the_text(bits):
    packed = pack(np.random.default_rng(0).normal(size=(20, 14, 14)), bits)
    assert len(packed["data"]) <= packed_length(20, (14, 14), bits)
