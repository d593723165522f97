"""``sparse``: values that are added at single places.

    delta[place] = value

A module has ``<tensor>.indices``, flat places in the base's tensor (I32 or I64), and
``<tensor>.values`` beside it. SHiRA adapters (Bhardwaj et al. 2024,
https://arxiv.org/abs/2406.13175) have rows and columns instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind as bind_adapter
from modpkg.compose.operators.operator import BaseRows, Effects, Operator, StepContext
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError, ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

_INDICES = ("I32", "I64")


def bind(context: StepContext) -> Effects:
    """Return a term for each pair of places and values.

    Raises:
        ComposeError: they do not belong together. ReleaseError: the base has no such tensor.
    """
    module, base = context.module, context.base
    if ADAPTER_CONFIG in module.files:
        return bind_adapter(context)
    terms: dict[str, Term] = {}
    for name in sorted(module.tensors):
        target, _, role = name.rpartition(".")
        other = f"{target}.{'values' if role == 'indices' else 'indices'}"
        if role not in ("indices", "values") or other not in module.tensors:
            raise ReleaseError(
                "M208",
                tensor=name,
                module=module.name,
                base=base.name,
                reason="a sparse module has '<tensor>.indices' and '<tensor>.values' only",
            )
        if target not in base.tensors:
            raise ReleaseError(
                "M208",
                tensor=name,
                module=module.name,
                base=f"{base.name} {base.version}",
                reason=f"there is no {target!r} to act on",
            )
        indices = module.tensors[f"{target}.indices"]
        values = module.tensors[f"{target}.values"]
        if (
            indices.dtype not in _INDICES
            or values.dtype not in FLOATS
            or base.tensors[target].dtype not in FLOATS
            or len(indices.shape) != 1
            or list(indices.shape) != list(values.shape)
            or indices.shape[0] > math.prod(base.tensors[target].shape)
        ):
            raise ComposeError(
                "M601",
                model=context.model,
                reason=f"{module.name} has {indices.dtype} places {list(indices.shape)} and "
                f"{values.dtype} values {list(values.shape)} for {target!r}",
            )
        terms[target] = Term(op="sparse", weight=1.0, inputs={"indices": indices, "values": values})
    return Effects(terms=terms)


def prepare(inputs: Mapping[str, Array], term: Term, source: BaseRows) -> Mapping[str, Any]:
    """Return flat places in order, and their values.

    Raises:
        ComposeError: a place is outside of the tensor, or there twice.
    """
    places, values = inputs["indices"].astype("int64"), inputs["values"].reshape(-1)
    if places.ndim == 2:
        rows, columns = places
        if columns.size and (columns.min() < 0 or columns.max() >= source.shape[1]):
            raise ComposeError(
                "M601", model="sparse", reason="a column is outside of the base's tensor"
            )
        places = rows * source.shape[1] + columns
    order = places.argsort(kind="stable")
    places = places[order]
    if places.size and (places[0] < 0 or places[-1] >= source.count):
        raise ComposeError("M601", model="sparse", reason="a place is outside of the base's tensor")
    if (places[1:] == places[:-1]).any():
        raise ComposeError("M601", model="sparse", reason="a place is there twice")
    return {"places": places, "values": values[order]}


def delta(inputs: Mapping[str, Any], term: Term, start: int, stop: int, source: BaseRows) -> Array:
    """Return rows of weight · the scattered values."""
    import numpy as np

    places, columns = inputs["places"], source.columns
    first, last = places.searchsorted([start * columns, stop * columns])
    change: Array = np.zeros((stop - start) * columns)
    change[places[first:last] - start * columns] = inputs["values"][first:last] * term.weight
    return change


SPARSE = Operator(
    name="sparse", bind=bind, delta=delta, prepare=prepare, arrays=True, null=("values",)
)
