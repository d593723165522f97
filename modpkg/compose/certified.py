"""Which results of a block, computed in float64, are certain to round as the exact ones do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modpkg.adapters.formula import LEAST, Sizes, gamma, largest
from modpkg.compose.arrays import Array
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.doubt import doubtful_places
from modpkg.compose.reducers import Contribution, Reducer
from modpkg.compose.reducers.reducer import Doubt

_MARGIN = 1 + 2.0**-40
"""Covers that bounds are computed in float64 as well."""


class Certified:
    """A block's bounds of error, from the magnitudes of what goes into it."""

    def __init__(
        self, blocks: TensorBlocks, base: Array, contributions: Sequence[Contribution]
    ) -> None:
        """Measure a block, before it is overwritten."""
        self._contributions = contributions
        self._base = largest(base)
        self._deltas = [largest(contribution.delta) for contribution in contributions]
        self._errors = [
            term.error(Sizes(self._base, delta))
            for term, delta in zip(blocks.terms, self._deltas, strict=True)
        ]
        self._signless = any(term.leaves is None for term in blocks.terms)
        self._doubt: Doubt | None = None

    def doubt(self, reducer: Reducer) -> dict[str, Doubt]:
        """Return the argument of a method that compares, by name."""
        if reducer.exact is None or not reducer.exact.compares:
            return {}
        self._doubt = Doubt(self._contributions, self._errors)
        return {"doubt": self._doubt}

    def bound(
        self, reducer: Reducer | None, measured: Sequence[Any], arguments: Mapping[str, Any]
    ) -> float:
        """Return a bound of the error of each result; infinite if none is known.

        A result is base · b + Σ delta_i · d_i in at most as many roundings as γ counts, of deltas
        that are off themselves.
        """
        reach = None
        if reducer is not None and reducer.exact is not None:
            reach = reducer.exact.reach(self._contributions, *measured or (None,), arguments)
        if reach is None:
            return math.inf
        steps = 2 * len(reach.deltas) + 16
        total = gamma(steps) * reach.base * self._base + steps * LEAST
        for share, size, error in zip(reach.deltas, self._deltas, self._errors, strict=True):
            own = error.absolute + (error.relative + gamma(steps)) * size
            total += share * own + LEAST * (1 + share)
        return total * _MARGIN

    def undecided(self, values: Array, bound: float, dtype: str) -> tuple[Any, Any]:
        """Return the flat indices of results that may round otherwise, and of those that are +0.0.

        Where nothing changes a value of 0, the result is 0 for certain.
        """
        zeros = np.empty(0, np.int64)
        where = doubtful_places(values, bound, dtype)
        flat = values.reshape(-1)
        if not any(error.absolute for error in self._errors):
            zeros = where[flat[where] == 0]
            for contribution in self._contributions:
                zeros = zeros[contribution.delta.reshape(-1)[zeros] == 0]
            where = np.setdiff1d(where, zeros, assume_unique=True)
        if self._doubt is not None and self._doubt.mask.any():
            where = np.union1d(where, np.flatnonzero(self._doubt.mask))
        return where, zeros if self._signless else zeros[:0]
