"""Reading a tensor whose rows come from others, see `modpkg.compose.row_places`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from modpkg.compose.arrays import Array, Stored, widened
from modpkg.compose.memory import BLOCK_ELEMENTS
from modpkg.compose.rounding import rounded
from modpkg.compose.row_places import MEAN, MovedRows
from modpkg.compose.rows import RowReader

_GAP = 4
"""Rows between two that are read rather than skipped."""


class MovedReader(RowReader):
    """Reads rows that come from several tensors."""

    def __init__(self, moved: MovedRows, *, again: bool, trusted: frozenset[str]) -> None:
        own = moved.tensors[0]
        super().__init__(own, again=again, trusted=True, rows=moved.count)
        self._parts = [RowReader(ref, trusted=ref.file in trusted) for ref in moved.tensors]
        self._sources = np.frombuffer(moved.sources, "<i4")
        self._numbers = np.frombuffer(moved.rows, "<i4")
        self._means = moved.means
        self._padding: Stored | None = None

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def check(self, what: str) -> None:
        """Check the tensors that rows are read from; see `RowReader.check`."""
        for part in self._parts:
            part.check(what)

    def fill(self, stored: Stored, first: int) -> None:
        """Read the elements from ``first`` on; see `RowReader.fill`."""
        stored[:] = self._again(first, first + stored.size)
        self._latest = first, first + stored.size, stored

    def _again(self, first: int, last: int) -> Stored:
        start = first // self.columns
        rows = self._moved(start, -(-last // self.columns)).reshape(-1)
        return rows[first - start * self.columns : last - start * self.columns]

    def _moved(self, start: int, stop: int) -> Stored:
        """Return some rows, as stored."""
        found = np.zeros((stop - start, self.columns), self._dtype)
        end = min(stop, self._sources.size)
        sources, numbers = self._sources[start:end], self._numbers[start:end]
        for source in np.unique(sources[sources >= 0]).tolist():
            where = np.flatnonzero(sources == source)
            where = where[numbers[where].argsort(kind="stable")]
            found[where] = self._taken(source, numbers[where])
        for row in (np.flatnonzero(sources == MEAN) + start).tolist():
            found[row - start] = self._mean(self._means[row])
        if stop > self._sources.size:
            found[max(end - start, 0) :] = self._mean_of_all()
        return found

    def _taken(self, source: int, numbers: Any) -> Stored:
        """Return some rows of a tensor, whose numbers ascend."""
        part, columns = self._parts[source], self.columns
        taken = []
        cuts = np.flatnonzero(np.diff(numbers) > _GAP) + 1
        for begin, end in itertools.pairwise((0, *cuts.tolist(), len(numbers))):
            first, last = int(numbers[begin]), int(numbers[end - 1]) + 1
            block = part.flat(first * columns, last * columns).reshape(-1, columns)
            taken.append(block[numbers[begin:end] - first])
        return np.concatenate(taken)

    def _mean(self, parts: tuple[tuple[int, int], ...]) -> Stored:
        """Return the mean of some rows, rounded."""
        rows = [widened(self._taken(s, np.array([n])), self.ref)[0] for s, n in parts]
        sums = [math.fsum(each) / len(parts) for each in zip(*rows, strict=True)]
        return self._rounded(np.array(sums))

    def _mean_of_all(self) -> Stored:
        if self._padding is None:
            total, height = np.zeros(self.columns), max(1, BLOCK_ELEMENTS // self.columns)
            for start in range(0, self._sources.size, height):
                block = self._moved(start, min(start + height, self._sources.size))
                rows = np.vstack([total, widened(block, self.ref)])
                total = np.add.accumulate(rows, axis=0)[-1]  # in this order, on every machine
            self._padding = self._rounded(total / self._sources.size)
        return self._padding

    def _rounded(self, values: Array) -> Stored:
        return rounded(values, self.ref.dtype).view(self._dtype)
