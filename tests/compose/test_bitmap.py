"""A set of flat indices in bits is what a set of integers is."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.compose.reducers import bitmap
from modpkg.compose.reducers.bitmap import Bitmap


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 59), st.integers(0, 20))), st.data())
def test_it_is_a_set_of_integers(
    count: int, ranges: list[tuple[int, int]], data: st.DataObject
) -> None:
    made, wanted = Bitmap(count), set[int]()
    for first, size in ranges:
        size = max(0, min(size, count - first))
        places = sorted(data.draw(st.sets(st.integers(0, max(size - 1, 0)), max_size=size)))
        if data.draw(st.booleans()):
            mask = np.zeros(size, np.bool_)
            mask[places] = True
            made.add(first, mask)
        else:
            made.add_at(np.array(places, np.int64) + first)
        wanted |= {place + first for place in places}
    with mock.patch.object(bitmap, "PART", 8):
        assert made.places().tolist() == sorted(wanted)
        parts = list(made.parts())
    assert [part.first + each for part in parts for each in part.inside.tolist()] == sorted(wanted)
    first = data.draw(st.integers(0, count))
    mask = made.mask(first, count - first)
    assert mask.tolist() == [int(place in wanted) for place in range(first, count)]
    assert made.all_bits(first, count - first).tolist() == [-int(each) for each in mask.tolist()]
    others = Bitmap(count)
    others.add_at([place for place in range(count) if place % 3])
    made.join(others)
    wanted |= set(others.places().tolist())
    assert made.places().tolist() == sorted(wanted)
    made.remove(others)
    assert made.places().tolist() == [place for place in sorted(wanted) if not place % 3]


@pytest.mark.parametrize("count", [0, 1, 8, 9])
def test_it_begins_empty(count: int) -> None:
    assert Bitmap(count).places().size == 0
    assert not Bitmap(count).mask(0, count).any()
