"""A set of a tensor's elements: a bit for each."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from modpkg.core.lazy_numpy import np

PART = 1 << 18
"""Elements whose indices are in memory at once; a multiple of 8."""


class SomePlaces(NamedTuple):
    """Some of consecutive elements."""

    first: int
    """The flat index of the first of them."""
    size: int
    """How many there are."""
    inside: Any
    """Ascending indices among them of the ones that are meant; int64."""


class Bitmap:
    """A set of flat indices: for each element a bit, so that a tensor takes a 16th of its bytes.

    A set of many elements takes less memory than a list of their indices, and less time to make.
    """

    def __init__(self, count: int) -> None:
        """Begin with no element of ``count``."""
        self.count = count
        self._bits = np.zeros((count + 7) // 8, np.uint8)  # takes no memory where it stays 0

    def add(self, first: int, mask: Any) -> None:
        """Add the elements that a flat mask has set; it begins at an index."""
        before = first % 8
        if before:
            mask = np.concatenate([np.zeros(before, np.bool_), mask])
        packed = np.packbits(mask, bitorder="little")
        own = self._bits[first // 8 : first // 8 + packed.size]
        own |= packed

    def add_at(self, places: Any) -> None:
        """Add the elements at some indices, ascending."""
        if not len(places):
            return
        places = np.asarray(places, np.int64)
        bits = np.left_shift(1, places & 7).astype(np.uint8)
        where = places >> 3
        starts = np.flatnonzero(np.diff(where, prepend=-1))  # of those in one byte
        self._bits[where.take(starts)] |= np.bitwise_or.reduceat(bits, starts)

    def join(self, others: Bitmap) -> None:
        """Add the elements of another set of the same tensor."""
        self._bits |= others._bits

    def remove(self, others: Bitmap) -> None:
        """Remove the elements of another set of the same tensor."""
        self._bits |= others._bits  # so that no third set is needed
        self._bits ^= others._bits

    def all_bits(self, first: int, size: int) -> Any:
        """Return int32 for elements: all bits set for those in the set, none for others."""
        before = first % 8
        own = self._bits[first // 8 : (first + size + 7) // 8]
        return as_wide_bits(own, before + size, np.int32)[before:]

    def packed(self, first: int, size: int) -> Any:
        """Return the bits of elements, eight to a byte, the first one lowest; None if they do not
        begin a byte."""
        return None if first % 8 else self._bits[first // 8 : (first + size + 7) // 8]

    def mask(self, first: int, size: int) -> Any:
        """Return a mask of elements: numbers of one byte, 1 for those in the set."""
        before = first % 8
        own = self._bits[first // 8 : (first + size + 7) // 8]
        return np.unpackbits(own, count=before + size, bitorder="little")[before:]

    def parts(self) -> Iterator[SomePlaces]:
        """Yield the elements in the set, part by part in order."""
        for first in range(0, self.count, PART):
            size = min(PART, self.count - first)
            inside = np.flatnonzero(self.mask(first, size).view(np.bool_))
            if inside.size:
                yield SomePlaces(first, size, inside)

    def places(self) -> Any:
        """Return the indices of all elements in the set, ascending; int64."""
        parts = [part.inside + part.first for part in self.parts()]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def as_wide_bits(packed: Any, size: int, dtype: Any) -> Any:
    """Return integers for packed bits: all of their bits set, or none."""
    return _wide_bits(dtype).take(packed, axis=0).reshape(-1)[:size]


def places_in(packed: Any, size: int) -> Any:
    """Return the ascending indices of packed bits that are set."""
    return np.flatnonzero(np.unpackbits(packed, count=size, bitorder="little").view(np.bool_))


@functools.cache
def _wide_bits(dtype: Any) -> Any:
    """Return integers [256, 8]: for each byte what its bits become."""
    byte = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    return np.negative(np.unpackbits(byte, axis=1, bitorder="little").astype(dtype))
