"""Formulas whose change is a product of two factors, once they are prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site
from modpkg.adapters.formula import (
    LEAST,
    BaseRows,
    Coefficients,
    Elements,
    Error,
    Extent,
    Sizes,
    gamma,
)
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


def factors(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Return the change as `Formula.factors`; None if it is more than a product."""
    if not {"a", "b", "e"} >= inputs.keys():
        return None
    a, b = inputs["a"], inputs["b"]
    if "e" in inputs:
        a = a * inputs["e"]
    if "experts" in parameters:
        experts = parameters["experts"]
        a, b = a.reshape(experts, -1, a.shape[1]), b.reshape(b.shape[0], -1, experts)
        if "expert" in parameters:
            begin, expert = parameters["begin"], parameters["expert"]
            return b[begin:, :, expert][None], a[expert][None]
        if experts == 1 and not parameters.get("stacked"):
            return b[:, :, 0][None], a[0][None]
        b = b.swapaxes(0, 2).swapaxes(1, 2)
    else:
        a, b = a.reshape(1, a.shape[0], -1), b.reshape(1, b.shape[0], -1)
    return (a.swapaxes(1, 2), b.swapaxes(1, 2)) if parameters.get("transposed") else (b, a)


def factors_at(
    inputs: Mapping[str, Array], term: Coefficients, elements: Elements
) -> tuple[Array, Array, Array | None]:
    """Return the factors whose products sum to each element, [k, rank] each: of B, A and E."""
    a, b, row, column = inputs["a"], inputs["b"], elements.row, elements.column
    parameters = term.parameters
    if "experts" in parameters:
        experts = parameters["experts"]
        a = a.reshape(experts, -1, a.shape[1])
        b = b.reshape(b.shape[0], -1, experts)
        if "expert" in parameters:
            begin, expert = parameters["begin"], parameters["expert"]
            return b[begin + row, :, expert], a[expert, :, column], None
        if experts == 1 and not parameters.get("stacked"):
            return b[row, :, 0], a[0, :, column], None
        if parameters.get("transposed"):
            inner, out = column // len(b), column % len(b)
        else:
            out, inner = column // a.shape[2], column % a.shape[2]
        return b[out, :, row], a[row, :, inner], None
    e = inputs["e"].reshape(1, -1) if "e" in inputs else None
    if parameters.get("transposed"):
        return b[column], a[:, row].T, e
    return b.reshape(len(b), -1)[row], a.reshape(len(a), -1)[:, column].T, e


def size_of(inputs: Mapping[str, Extent], scale: float) -> tuple[float, float]:
    """Return bounds of Σ |scale · b · e · a| for each element, and of the error of that sum."""
    rank = max(inputs["a"].shape[0], 1)
    factors = [inputs[role].largest for role in "abe" if role in inputs]
    total = rank * abs(scale) * math.prod(factors)
    # an underflow is multiplied by the factors that follow
    under = (rank + 8) * LEAST * math.prod(1 + factor for factor in (abs(scale), *factors))
    return total, gamma(rank + 8) * total + under


def exact(inputs: Mapping[str, Array], term: Coefficients, elements: Elements) -> Any:
    """Return `methods.lora.delta` at single elements, without rounding."""
    number = elements.number
    alone = "values" not in inputs
    scale = term.weight if alone else term.parameters["scaling"]
    if "bias" in inputs:
        change = number(inputs["bias"].reshape(-1)[elements.row]) * scale
    else:
        b, a, e = factors_at(inputs, term, elements)
        products = number(b) * number(a)
        change = (products if e is None else products * number(e)).sum() * scale
    if alone:
        return change
    return (change + number(inputs["values"]) - elements.base) * term.weight


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `methods.lora.delta`."""
    alone = "values" not in inputs
    scale = term.weight if alone else term.parameters["scaling"]
    if "bias" in inputs:
        total = abs(scale) * inputs["bias"].largest
        off = gamma(2) * total + LEAST
    else:
        total, off = size_of(inputs, scale)
    if alone:
        return Error(off)
    # |values| <= |delta / weight| + total + |base|
    off += gamma(8) * (total + sizes.base)
    return Error(abs(term.weight) * off + LEAST, gamma(8))


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
