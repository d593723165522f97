"""Reading a tensor in rows, hashing it on the way."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from io import FileIO
from typing import Any

import numpy as np

from modpkg.compose.arrays import Array, Stored, stored_dtype, widened
from modpkg.compose.memory import BLOCK_ELEMENTS, KEPT_BYTES
from modpkg.core import system
from modpkg.core.errors import PackError
from modpkg.core.installed import TensorRef
from modpkg.core.regular_file import open_unbuffered
from modpkg.core.tree import changed_file

_GAP = 1 << 12
"""Elements between two places that are read rather than skipped."""


class RowReader:
    """Reads a tensor in rows and hashes it on the way; operators get the base's as ``source``.

    The tensor is seen as a matrix, its first dimension by all others; a vector has one column, so
    long vectors are split into blocks too. It is read instead of mapped, because page faults take
    as long as the arithmetic.
    """

    def __init__(
        self,
        ref: TensorRef,
        *,
        again: bool = False,
        trusted: bool = False,
        rows: int | None = None,
    ) -> None:
        """Open lazily.

        Args:
            again: The tensor will be read twice, so it is kept in memory if small.
            trusted: Its bytes were just verified, so they are not hashed.
            rows: The first extent to show instead of the tensor's own: rows beyond the tensor's
                are zeros.
        """
        self.shape = tuple(ref.shape) if rows is None else (rows, *ref.shape[1:])
        self.count = math.prod(self.shape)
        self.rows = self.shape[0] if self.shape else 1
        self.columns = self.count // self.rows if self.count else 0
        self.height = max(1, min(self.rows, BLOCK_ELEMENTS // max(self.columns, 1)))
        """Rows per block, except the last."""
        self.ref, self._dtype = ref, stored_dtype(ref)
        self._file: FileIO | None = None
        self._state, self._hashed = hashlib.sha256(), 0
        self._trusted = trusted
        self._last: tuple[int, int, Array] | None = None
        self._latest: tuple[int, int, Stored] = (0, 0, np.empty(0, self._dtype))
        self._keep, self._all = again and ref.length <= KEPT_BYTES, np.empty(0, self._dtype)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, start: int, stop: int) -> Array:
        """Return rows as float64, which the caller may overwrite.

        Raises:
            PackError: The pack cannot be read.
        """
        last, self._last = self._last, None
        if last is not None and last[:2] == (start, stop):
            return last[2]
        return self._read(start, stop)

    def peek(self, start: int, stop: int) -> Array:
        """Return rows as float64, read-only; a following `take` of them returns the same array."""
        if self._last is None or self._last[:2] != (start, stop):
            self._last = (start, stop, self._read(start, stop))
        return self._last[2]

    def ranges(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield each block's first row and the row after its last, from row ``first`` on."""
        last = self.rows if last is None else last
        for start in range(first, last if self.count else 0, self.height):
            yield start, min(start + self.height, last)

    def _read(self, start: int, stop: int) -> Array:
        return widened(self.stored(start, stop), self.ref)

    def stored(self, start: int, stop: int) -> Stored:
        """Return rows as stored in the pack, read-only.

        Raises:
            PackError: The pack cannot be read.
        """
        return self.flat(start * self.columns, stop * self.columns).reshape(-1, self.columns)

    def some(self, ranges: Sequence[tuple[int, int]]) -> Stored:
        """Return ranges of rows as stored in the pack, flat.

        Raises:
            PackError: The pack cannot be read.
        """
        if self._keep:
            whole = self.stored(0, self.rows)
            parts = [whole[start:stop] for start, stop in ranges]
        else:
            parts = [self.stored(start, stop) for start, stop in ranges]
        return np.concatenate(parts).reshape(-1)

    def flat(self, first: int, last: int) -> Stored:
        """Return elements as stored in the pack, flat, read-only.

        Raises:
            PackError: The pack cannot be read.
        """
        if self._keep:
            if not self._all.size:
                self._all = self._fresh(0, self.count)
            return self._all[first:last]
        return self._fresh(first, last)

    def at(self, places: Any) -> Array:
        """Return the elements at some flat indices, ascending, as float64. They are not hashed.

        Raises:
            PackError: The pack cannot be read.
        """
        if not len(places):
            return widened(np.empty(0, self._dtype), self.ref)
        before, end, block = self._latest
        if self._all.size:
            return widened(self._all.take(places), self.ref)
        if before <= places[0] and places[-1] < end:
            return widened(block.take(places - before), self.ref)
        values = np.empty(len(places), self._dtype)
        cuts = np.flatnonzero(np.diff(places) > _GAP) + 1
        for start, stop in itertools.pairwise((0, *cuts.tolist(), len(places))):
            if start < stop:
                first, last = int(places[start]), int(places[stop - 1]) + 1
                values[start:stop] = self._again(first, last)[places[start:stop] - first]
        return widened(values, self.ref)

    def _again(self, first: int, last: int) -> Stored:
        width = self._dtype.itemsize
        stored = np.zeros(last - first, self._dtype)
        if (own := min(last, self.ref.length // width)) > first:
            self._fill(stored[: own - first].view(np.uint8).data, first * width)
        return stored

    def _fresh(self, first: int, last: int) -> Stored:
        stored = np.empty(last - first, self._dtype)
        self.fill(stored, first)
        return stored

    def fill(self, stored: Stored, first: int) -> None:
        """Read the elements from ``first`` on into a flat array of the tensor's own dtype.

        Raises:
            PackError: The pack cannot be read.
        """
        last, width = first + stored.size, self._dtype.itemsize
        end = min(last, self.ref.length // width)
        if end < last:
            stored[max(end - first, 0) :] = 0
        if end > first:
            view = stored[: end - first].view(np.uint8).data
            self._fill(view, first * width)
            if not self._trusted and first * width <= self._hashed < end * width:
                self._state.update(view[self._hashed - first * width :])
                self._hashed = end * width
        self._latest = first, last, stored

    def _fill(self, view: memoryview, position: int) -> None:
        try:
            if self._file is None:
                self._file = open_unbuffered(self.ref.file)
            while view:
                count = system.read_at(self._file.fileno(), view, self.ref.offset + position)
                if not count:
                    raise PackError("M201", path=self.ref.file, reason="it is truncated")
                view, position = view[count:], position + count
        except OSError as error:
            raise PackError(
                "M201", path=self.ref.file, reason=f"it cannot be read ({error})"
            ) from None

    def check(self, what: str) -> None:
        """Hash the bytes that were not read yet, and check the digest, unless it is trusted.

        Raises:
            IntegrityError: The tensor does not match its digest.
        """
        if self._trusted:
            return
        while self._hashed < self.ref.length:
            part = memoryview(bytearray(min(1 << 20, self.ref.length - self._hashed)))
            self._fill(part, self._hashed)
            self._state.update(part)
            self._hashed += len(part)
        if "sha256:" + self._state.hexdigest() != self.ref.digest:
            raise changed_file(what, self.ref.file)
