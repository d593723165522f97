"""Reducers by name: how several changes to one tensor become one result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modpkg.compose.plugins import find, known
from modpkg.compose.reducers.sum import sum_reducer
from modpkg.errors import UnknownOperator

if TYPE_CHECKING:
    from torch import Tensor

Reducer = Callable[["Tensor", Sequence["Tensor"]], "Tensor"]
"""(base rows, changes to them), all float64 and of one shape, to the result's rows.

The first argument may be overwritten. The function is pure otherwise, and elementwise.
"""

REDUCERS: dict[str, Reducer] = {"sum": sum_reducer}
GROUP = "modpkg.reducers"


def find_reducer(name: str, where: str) -> Reducer:
    """Return a reducer.

    Raises:
        UnknownOperator: neither modpkg nor an installed package has it.
    """
    reducer = find(REDUCERS, GROUP, name)
    if reducer is None:
        raise UnknownOperator(where=where, op=name, known=known(REDUCERS, GROUP))
    return reducer


__all__ = ["REDUCERS", "Reducer", "find_reducer"]
