"""Ranks of magnitudes in their rows, for methods that drop small values more often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modpkg.compose.reducers.reducer import Blocks
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


def sorted_vectors(blocks: Blocks, **_: Any) -> list[Array] | None:
    """Return each step's magnitudes in order, if the tensor is a vector, as of a norm; else None.

    A vector is one row, as in mergekit, but is read in blocks of some of its elements.
    """
    if len(blocks.shape) != 1 or not blocks.count:
        return None
    return [
        np.sort(np.concatenate([np.abs(delta).reshape(-1) for delta in blocks.deltas(index)]))
        for index in range(len(blocks.steps))
    ]


def ranks_among(ascending: Array, size: Array) -> Array:
    """Return the rank of some magnitudes among all of a vector's; see `ranks`."""
    if ascending.size == 1:
        return np.full(size.shape, 0.5)
    before, to = ascending.searchsorted(size, "left"), ascending.searchsorted(size, "right")
    found: Array = (before + to - 1) / (2 * (ascending.size - 1))
    return found


def ranks(size: Array) -> Array:
    """Return the rank of each magnitude in its row, from 0 to 1; equal ones share their mean rank.

    In a row of one value that is 1/2.
    """
    columns = size.shape[1]
    if columns == 1:
        return np.full(size.shape, 0.5)
    order = size.argsort(axis=1)
    ascending = np.take_along_axis(size, order, axis=1)
    places, edge = np.arange(columns), np.ones((len(size), 1), np.bool_)
    apart = ascending[:, 1:] != ascending[:, :-1]
    first = np.where(np.hstack([edge, apart]), places, 0)
    last = np.where(np.hstack([apart, edge]), places, columns - 1)
    np.maximum.accumulate(first, axis=1, out=first)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    found = np.empty_like(size)
    np.put_along_axis(found, order, (first + last) / (2 * (columns - 1)), axis=1)
    return found
