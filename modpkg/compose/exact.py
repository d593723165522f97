"""The exact results of a tensor, rounded once: the last word on what a composition is.

Where a method is a sum of products, or a quotient of these, its result is a number, and what is
stored is the float nearest to it, ties to even: see ``docs/exactness.md``. Fast arithmetic decides
nearly all elements; those whose approximation may round otherwise are computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modpkg.compose.arrays import Stored
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import NOTHING, ComputedTensor
from modpkg.compose.exact_numbers import Exact, finite_numbers
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import Reducer
from modpkg.compose.rounding import rounded

_AT_ONCE = 1 << 13
"""Elements at once: integers take 32 bytes and more."""


def is_exact(model: str, computed: ComputedTensor, reducer: Reducer) -> bool:
    """Return whether a tensor's result is defined as the exact one, rounded."""
    if reducer.exact is None or not _finite(computed.settings):
        return False
    alike = reducer.exact.measures(computed.settings)
    for term in computed.terms:
        if not (math.isfinite(term.weight) and math.isfinite(term.scale)):
            return False
        if term.op == NOTHING:
            continue
        operator = find_operator(term.op, model)
        if operator.exact is None or (alike and not operator.becomes):
            return False
        if not _finite(term.settings):
            return False
    return True


def _finite(settings: Mapping[str, Any]) -> bool:
    return all(math.isfinite(value) for value in settings.values() if isinstance(value, float))


class ExactTensor:
    """The exact results of one tensor. Any number of threads may call `at`."""

    def __init__(
        self,
        blocks: TensorBlocks,
        dtype: str,
        reducer: Reducer,
        arguments: Mapping[str, Any],
        measured: Sequence[Any],
    ) -> None:
        """Bind a method, for which `is_exact` holds, to a tensor's inputs.

        Args:
            dtype: The result's.
            arguments: The method's parameters, by its function's argument names.
            measured: What the method measured, if anything; at most one item.
        """
        self._blocks, self._dtype = blocks, dtype
        self._reduce = reducer.reduce
        self._compute: Any = reducer.exact.compute if reducer.exact else None
        self._arguments, self._measured = arguments, measured

    def at(self, places: Any) -> Stored:
        """Return the results at some flat indices, ascending, as stored in a pack.

        They are NaN where an input is not finite, or the result is not defined.

        Raises:
            PackError: An input cannot be read.
        """
        places = np.asarray(places, np.int64)
        parts = [
            self._some(places[start : start + _AT_ONCE])
            for start in range(0, max(len(places), 1), _AT_ONCE)
        ]
        return np.concatenate(parts)

    def _some(self, places: Any) -> Stored:
        broken = np.zeros(len(places), np.bool_)
        try:
            number = self.numbers(places, broken)
        except ZeroDivisionError:  # the weights of a mean sum to 0
            number, broken[:] = Exact.of(np.zeros(len(places))), True
        stored = number.rounded(self._dtype)
        zeros = np.flatnonzero(number.sign() == 0)
        if zeros.size:
            negative = self._negative_zeros(places[zeros])
            if negative.any():
                stored[zeros[negative]] = rounded(np.array([-0.0]), self._dtype)[0]
        if broken.any():
            nan = 0x7FC0 if self._dtype == "BF16" else math.nan
            stored[broken] = stored.dtype.type(nan)
        return stored

    def _negative_zeros(self, places: Any) -> Any:
        """Return a mask of the places whose result is −0.0, among some whose result is 0.

        They are those that no change adds to, and a base of −0.0: a patch leaves it alone.
        """
        source = self._blocks.base
        base = source.at(places)
        if not self._blocks.terms:
            return np.signbit(self._reduce(base, (), **self._arguments))
        negative = np.signbit(base)
        if negative.any():
            for term in self._blocks.terms:
                negative = negative & term.left_alone(source, places)
        return negative

    def numbers(self, places: Any, broken: Any) -> Exact:
        """Return the results at some places; sets ``broken`` where an input is not finite."""
        base = finite_numbers(self._blocks.base.at(places), broken)
        contributions = []
        for term in self._blocks.terms:
            delta = term.exactly(self._blocks.base, base, places, broken)
            contribution = term.contribution_of(delta, places)
            if term.importance is not None:
                importance: Any = finite_numbers(term.importance.at(places), broken)
                contribution = replace(contribution, importance=importance)
            contributions.append(contribution)
        result: Exact = self._compute(base, contributions, *self._measured, **self._arguments)
        return result
