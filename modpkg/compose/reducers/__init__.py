"""Reducers by name: how several changes to one tensor become one result."""

from __future__ import annotations

from modpkg.compose.plugins import find, known
from modpkg.compose.reducers import sparsified, spherical, weighted
from modpkg.compose.reducers.reducer import (
    REQUIRED,
    ApproximateMagnitudes,
    Block,
    Blocks,
    Contribution,
    Reducer,
    as_arguments,
    reducer,
)
from modpkg.compose.reducers.single import SinglePrecision
from modpkg.core.errors import ComposeError

REDUCERS: dict[str, Reducer] = {
    item.name: item
    for module in (weighted, spherical, sparsified)
    for item in vars(module).values()
    if isinstance(item, Reducer)
}
GROUP = "modpkg.reducers"


def find_reducer(name: str, where: str) -> Reducer:
    """Return a reducer.

    Raises:
        ComposeError: neither modpkg nor an installed package has it; the error names those that
            are known.
    """
    found = find(REDUCERS, GROUP, name)
    if found is None:
        raise ComposeError("M620", where=where, method=name, known=known(REDUCERS, GROUP))
    return found


__all__ = [
    "REDUCERS",
    "REQUIRED",
    "ApproximateMagnitudes",
    "Block",
    "Blocks",
    "Contribution",
    "Reducer",
    "SinglePrecision",
    "as_arguments",
    "find_reducer",
    "reducer",
]
