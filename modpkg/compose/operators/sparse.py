"""``sparse``: values that are added to single elements.

    delta[index] = value

A module has ``<tensor>.indices``, indices into the base's flattened tensor (I32 or I64), and
``<tensor>.values`` beside it. SHiRA adapters have rows and columns instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.adapters.formula import LEAST, BaseRows, Elements, Error, Extent, Sizes, gamma
from modpkg.compose.composition import Term
from modpkg.compose.operators import adapter
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_INDEX_DTYPES = ("I32", "I64")


def bind(context: StepContext) -> Effects:
    """Return a term for each pair of indices and values.

    Raises:
        ComposeError: The tensors of a pair do not belong together.
        ReleaseError: A tensor is not one of a pair, or the base lacks its target.
    """
    module, base = context.module, context.base
    if ADAPTER_CONFIG in module.files:
        return adapter.bind(context)
    unbound = context.on_base().unbound
    terms: dict[str, Term] = {}
    for name in sorted(module.tensors):
        target, _, role = name.rpartition(".")
        other = f"{target}.{'values' if role == 'indices' else 'indices'}"
        if role not in ("indices", "values") or other not in module.tensors:
            raise unbound(name, "a sparse module has pairs of <tensor>.indices and <tensor>.values")
        if target not in base.tensors:
            raise unbound(name, f"the base has no {target!r}")
        indices = module.tensors[f"{target}.indices"]
        values = module.tensors[f"{target}.values"]
        if (
            indices.dtype not in _INDEX_DTYPES
            or values.dtype not in FLOATS
            or base.tensors[target].dtype not in FLOATS
            or len(indices.shape) != 1
            or list(indices.shape) != list(values.shape)
            or indices.shape[0] > math.prod(base.tensors[target].shape)
        ):
            raise context.refuse(
                f"{module.name} has {indices.dtype} indices {list(indices.shape)} and "
                f"{values.dtype} values {list(values.shape)} for {target!r}, which do not go "
                "together"
            )
        terms[target] = Term(op="sparse", weight=1.0, inputs={"indices": indices, "values": values})
    return Effects(terms=terms)


def prepare(inputs: Mapping[str, Array], term: Term, source: BaseRows) -> Mapping[str, Any]:
    """Return flat indices in ascending order, and their values.

    Raises:
        ComposeError: An index is out of range, or a duplicate.
    """
    indices, values = inputs["indices"].astype("int64"), inputs["values"].reshape(-1)
    if indices.ndim == 2:
        rows, columns = indices
        if columns.size and (columns.min() < 0 or columns.max() >= source.shape[1]):
            raise _invalid("a column index is out of range")
        indices = rows * source.shape[1] + columns
    order = indices.argsort(kind="stable")
    indices = indices[order]
    if indices.size and (indices[0] < 0 or indices[-1] >= source.count):
        raise _invalid("an index is out of range")
    if (indices[1:] == indices[:-1]).any():
        raise _invalid("an index occurs twice")
    return {"indices": indices, "values": values[order]}


def _invalid(reason: str) -> ComposeError:
    return ComposeError("M601", model="sparse", reason=reason)


def delta(inputs: Mapping[str, Any], term: Term, start: int, stop: int, source: BaseRows) -> Array:
    """Return rows of weight · the scattered values."""
    indices, columns = inputs["indices"], source.columns
    first, last = indices.searchsorted([start * columns, stop * columns])
    change: Array = np.zeros((stop - start) * columns)
    change[indices[first:last] - start * columns] = inputs["values"][first:last] * term.weight
    return change


def exact(inputs: Mapping[str, Any], term: Term, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    return elements.number(scattered(inputs, elements.flat)) * term.weight


def error(inputs: Mapping[str, Extent], term: Term, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`: a product."""
    return Error(0.0 if term.weight == 1.0 else LEAST, gamma(2))


def scattered(inputs: Mapping[str, Any], flat: Any) -> Array:
    """Return the values at flat indices, 0 where there is none."""
    values: Array = np.zeros(len(flat))
    indices = inputs["indices"]
    if len(indices):
        places = np.minimum(indices.searchsorted(flat), len(indices) - 1)
        found = indices[places] == flat
        values[found] = inputs["values"][places[found]]
    return values


SPARSE = Operator(
    name="sparse",
    bind=bind,
    delta=delta,
    exact=exact,
    error=error,
    prepare=prepare,
    arrays=True,
    null=("values",),
)
