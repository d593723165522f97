"""Reducers: how several changes to the same tensor become one.

A reducer takes rows of the base and the rows of every delta, all float64 of one shape, in a
canonical order, and returns the composed rows. A third party adds one with an entry point of
the group ``modpkg.reducers``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from modpkg.errors import UnknownOperator

if TYPE_CHECKING:
    import torch

Reducer = Callable[["torch.Tensor", Iterable["torch.Tensor"]], "torch.Tensor"]


def sum_deltas(base: torch.Tensor, deltas: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return base + delta_1 + delta_2 + …; ``base`` is overwritten."""
    for delta in deltas:
        base += delta
    return base


@functools.cache
def reducers() -> dict[str, Reducer]:
    """Return all reducers by name: ours, and those of installed plug-ins."""
    from importlib.metadata import entry_points

    found: dict[str, Reducer] = {"sum": sum_deltas}
    for entry in entry_points(group="modpkg.reducers"):
        if entry.name not in found:
            found[entry.name] = entry.load()
    return found


def reducer(name: str, where: str) -> Reducer:
    """Return a reducer by name.

    Raises:
        UnknownOperator: there is none; names those there are.
    """
    known = reducers()
    if name not in known:
        raise UnknownOperator(where=where, op=name, known=", ".join(sorted(known)))
    return known[name]
