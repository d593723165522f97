"""Formulas whose change is a product of two factors, once they are prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site
from modpkg.adapters.formula import BaseRows, Coefficients
from modpkg.adapters.method import linear_shape
from modpkg.adapters.orientation import transposed

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · ``b @ a``, or of its transpose, of what was prepared."""
    a, b = inputs["a"], inputs["b"]
    if term.parameters.get("transposed"):
        a, b = b.T, a.T
    change: Array = (b[start:stop] * term.weight) @ a
    return change


def ways_of(
    adapter: Adapter, sites: Sequence[Site], shapes: Mapping[str, tuple[int, int, str]]
) -> dict[str, dict[str, Any]]:
    """Return the parameter of `delta` by target: whether its weight is stored as (in, out).

    Args:
        adapter: The adapter, with its base.
        sites: The modules that it acts on, all with a matrix.
        shapes: By path, (out, in) of the change, and the name of a tensor that shows it.

    Raises:
        ComposeError: A weight is not a matrix, or see `transposed`.
    """
    for site in sites:
        linear_shape(adapter, site)
    ways = transposed(adapter, sites, lambda site: shapes[site.path])
    return {target: {"transposed": True} if way else {} for target, way in ways.items()}
