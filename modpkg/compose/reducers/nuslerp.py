"""NuSLERP: slerp by weights, between whole tensors or between the vectors that they consist of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers import together
from modpkg.compose.reducers.reducer import Blocks, Contribution, reducer
from modpkg.compose.reducers.spherical import (
    Products,
    arc,
    combined,
    length,
    models,
    of_models,
    products,
)
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

_SHORT = 1e-7
"""Vectors that are shorter are divided by this to find their direction, as in mergekit."""
_COLLINEAR = 1e-16


class Vectors(NamedTuple):
    """What is known of a tensor whose vectors are interpolated one by one."""

    width: int
    """Elements of a row: a vector of the last dimension."""
    columns: Sequence[Array] | None
    """The sums of squares and products of the two, for each column: three of [1, columns]."""


def _ends(
    base: Array, contributions: Sequence[Contribution], from_base: bool
) -> tuple[Array, Array]:
    """Return the two ends of the arc: the deltas, or the base and the step's model."""
    if from_base:
        return contributions[0].delta, contributions[1].delta
    return base, base + contributions[0].delta


def measured(
    blocks: Blocks, *, from_base: bool, base_weight: float, vectors: str
) -> Products | Vectors:
    """Return the inner products over the tensor, or those of its columns."""
    if vectors == "tensor" or len(blocks.shape) < 2:
        return products(blocks)
    if vectors == "rows":
        return Vectors(blocks.shape[-1], None)
    sums: list[Array] = []
    for base, contributions in blocks():
        one, other = _ends(base, contributions, from_base)
        found = [(a * b).sum(axis=0, keepdims=True) for a, b in _pairs(one, other)]
        sums = [total + each for total, each in zip(sums, found, strict=True)] if sums else found
    return Vectors(blocks.shape[-1], sums)


def _pairs(one: Array, other: Array) -> tuple[tuple[Array, Array], ...]:
    return (one, one), (other, other), (one, other)


def _factors(sums: Sequence[Array], t: float) -> tuple[Array, Array]:
    """Return the factors of the two ends for each vector, by their squares and inner products."""
    first, second, inner = sums
    lengths = np.maximum(np.sqrt(first), _SHORT) * np.maximum(np.sqrt(second), _SHORT)
    cos = np.clip(inner / lengths, -1.0, 1.0)
    straight = 1 - cos * cos <= _COLLINEAR
    theta = np.arccos(np.where(straight, 0.0, cos))
    sine = np.sin(theta)
    return (
        np.where(straight, 1 - t, np.sin((1 - t) * theta) / sine),
        np.where(straight, t, np.sin(t * theta) / sine),
    )


@reducer(
    "nuslerp",
    steps=(1, 2),
    relative="multislerp",
    check=together.nuslerp,
    choices={"vectors": ("tensor", "rows", "columns")},
    measure=measured,
)
def nuslerp(
    base: Array,
    contributions: Sequence[Contribution],
    inner: Any,
    *,
    from_base: bool = True,
    base_weight: float = 1.0,
    vectors: str = "tensor",
) -> Array:
    """``nuslerp``: slerp with weights instead of t; t = weight_2 / (weight_1 + weight_2).

    With from_base and two steps, the arc is between the deltas, and the base is added afterwards;
    with one step and from_base = false, it is between the base (with base_weight) and the step's
    model. Weights that cancel count as equal. There is one arc for the tensor, or for each of its
    ``rows`` (vectors of its last dimension) or ``columns`` (of its first). Goddard 2024,
    https://github.com/arcee-ai/mergekit.
    """
    if from_base:
        first, second = (contribution.weight for contribution in contributions)
    else:
        first, second = base_weight, contributions[0].weight
    t = second / (first + second) if abs(first + second) >= 1e-6 else 0.5
    if isinstance(inner, Vectors):
        return _by_vectors(base, contributions, inner, t, from_base)
    table, one, other = (inner, 1, 2) if from_base else (models(inner), 0, 1)
    lengths = [max(length(table, each), _SHORT) for each in (one, other)]
    cos = max(-1.0, min(1.0, table[one][other] / (lengths[0] * lengths[1])))
    factors = arc(cos, t, straight=1 - cos * cos <= _COLLINEAR)
    return combined(base, contributions, [1.0, *factors] if from_base else of_models(factors))


def _by_vectors(
    base: Array, contributions: Sequence[Contribution], inner: Vectors, t: float, from_base: bool
) -> Array:
    """Return the result of a block, each of whose vectors has an arc of its own."""
    shape = base.shape
    one, other = _ends(base, contributions, from_base)
    if (sums := inner.columns) is None:
        one, other = (each.reshape(-1, inner.width) for each in (one, other))
        sums = [(a * b).sum(axis=1, keepdims=True) for a, b in _pairs(one, other)]
    first, second = _factors(sums, t)
    result = (first * one + second * other).reshape(shape)
    return base + result if from_base else result
