"""Where the rows of a tensor come from that has a row for each token, once these are renumbered.

A row comes from the tensor itself or from that of another model, is 0, or is the mean of rows of
several models.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

from msgspec import Struct

from modpkg.core.digests import digest_bytes
from modpkg.core.installed import TensorRef
from modpkg.core.tensors import canonical_identity

ZEROS, MEAN = -1, -2
"""In place of the number of a tensor."""


class MovedRows(Struct, frozen=True, kw_only=True):
    """Rows of several tensors, in a new order."""

    tensors: tuple[TensorRef, ...]
    sources: bytes
    """int32 for each row: which of the tensors it is of, or `ZEROS` or `MEAN`."""
    rows: bytes
    """int32 for each row: its number there."""
    means: dict[int, tuple[tuple[int, int], ...]] = {}
    """By row: the tensors and rows of which it is the mean."""
    padding: int = 0
    """How many rows follow; each is the mean of all before."""

    @property
    def count(self) -> int:
        """The number of rows, with those that follow."""
        return len(self.sources) // 4 + self.padding

    def is_plain(self) -> bool:
        """Return whether they are the rows of the first tensor, all of them in order."""
        rows = self.tensors[0].shape[0]
        if self.count != rows or self.padding or any(self.sources):
            return False
        return self.rows == packed(array("i", range(rows)))

    def key_fields(self) -> list[Any]:
        """Return the fields that decide the bytes."""
        means = [[row, [list(part) for part in parts]] for row, parts in sorted(self.means.items())]
        places = [str(digest_bytes(self.sources)), str(digest_bytes(self.rows)), means]
        return [[canonical_identity(ref) for ref in self.tensors], *places, self.padding]


def packed(numbers: array[int]) -> bytes:
    """Return numbers as int32, in the same order of bytes on every machine."""
    if sys.byteorder == "big":
        numbers = array("i", numbers)
        numbers.byteswap()
    return numbers.tobytes()
