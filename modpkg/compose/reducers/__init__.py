"""Reducers (merge methods) by name: they combine several contributions to one tensor."""

from __future__ import annotations

from modpkg.compose.parameter import REQUIRED, Parameter
from modpkg.compose.plugins import find, known
from modpkg.compose.reducers import (
    arcee_fusion,
    nearswap,
    nuslerp,
    ram,
    sce,
    sparsified,
    spherical,
    weighted,
)
from modpkg.compose.reducers.reducer import (
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
    for module in (weighted, spherical, nuslerp, sparsified, sce, arcee_fusion, nearswap, ram)
    for item in vars(module).values()
    if isinstance(item, Reducer)
}
GROUP = "modpkg.reducers"


def find_reducer(name: str, where: str) -> Reducer:
    """Return a reducer by name; ``where`` names the caller's table in the error.

    Raises:
        ComposeError: Neither modpkg nor an installed package has it.
    """
    method = find(REDUCERS, GROUP, name)
    if method is None:
        raise ComposeError("M620", where=where, method=name, known=known(REDUCERS, GROUP))
    return method


__all__ = [
    "REDUCERS",
    "REQUIRED",
    "ApproximateMagnitudes",
    "Block",
    "Blocks",
    "Contribution",
    "Parameter",
    "Reducer",
    "SinglePrecision",
    "as_arguments",
    "find_reducer",
    "reducer",
]
