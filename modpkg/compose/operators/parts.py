"""``parts``: changes to single rows of a tensor.

    delta[first + i] = change[begin + i]    for the rows of each block; 0 elsewhere

transformers splits or joins some tensors when it loads a model. An adapter trained on a part
changes some rows of the tensor on disk, each as the adapter's own formula does. Rows of a tensor of
all experts are those of their matrices, one expert after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from modpkg.adapters.formula import (
    BaseRows,
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
)
from modpkg.adapters.memory import PARTS
from modpkg.adapters.methods.lora import LORA
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.dense import DENSE
from modpkg.compose.operators.operator import Operator
from modpkg.core.errors import ComposeError
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_FORMULAS: dict[str, Formula] = {
    formula.name: formula for formula in (*LORA.formulas, DENSE) if formula.arrays
}


class _BlockTerm(Struct, frozen=True):
    """What one block is computed with."""

    weight: float
    parameters: Mapping[str, Any]


class _BlockRows:
    """The rows of the base that a block changes, numbered as the block's own formula does."""

    def __init__(self, base: BaseRows, start: int, stop: int, offset: int, width: int) -> None:
        """Show the base's rows [start, stop), cut to ``width``; row ``offset`` is the block's 0."""
        self._base, self._start, self._stop, self._offset = base, start, stop, offset
        self.shape, self.count, self.columns = base.shape, base.count, width
        self._each = base.columns // width

    def peek(self, start: int, stop: int) -> Array:
        # all rows of the call are read at once: the base is hashed while it is read in order
        move = self._offset - self._start * self._each
        rows = self._base.peek(self._start, self._stop).reshape(-1, self.columns)
        return rows[start + move : stop + move]


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows [start, stop) of the changes of all blocks."""
    width = term.parameters.get("width", source.columns)
    each = source.columns // width
    change = np.zeros(((stop - start) * each, width))
    for number, block in enumerate(term.parameters["blocks"]):
        first, last = max(start * each, block["first"]), min(stop * each, block["stop"])
        if first >= last:
            continue
        formula = _FORMULAS.get(block["op"])
        if formula is None or formula.delta is None:
            raise ComposeError("M602", where=PARTS, op=block["op"], known=", ".join(_FORMULAS))
        offset = block["first"] - block["begin"]
        begin, end = first - offset, last - offset
        own: dict[str, Array] = {}
        for role, values in inputs.items():
            place, _, name = role.partition(".")
            if place == str(number):
                by_rows = name in formula.by_rows
                own[name] = values[begin:end].copy() if by_rows else values
        part = _BlockTerm(term.weight * block["weight"], block["parameters"])
        rows = formula.delta(own, part, begin, end, _BlockRows(source, start, stop, offset, width))
        place = first - start * each
        change[place : place + last - first] += np.asarray(rows).reshape(last - first, -1)
    return change.reshape(stop - start, -1)


def exact(inputs: Mapping[str, Array], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    width = term.parameters.get("width", elements.columns)
    row, column = elements.flat // width, elements.flat % width
    change = elements.base * 0
    for number, block in enumerate(term.parameters["blocks"]):
        mask = (row >= block["first"]) & (row < block["stop"])
        if not mask.any():
            continue
        formula = _FORMULAS[block["op"]]
        own_row = np.where(mask, row - block["first"], 0) + block["begin"]
        own: dict[str, Array] = {}
        for role, values in inputs.items():
            place, _, name = role.partition(".")
            if place == str(number):
                by_rows = name in formula.by_rows
                own[name] = values.reshape(len(values), -1)[own_row, column] if by_rows else values
        part = _BlockTerm(term.weight * block["weight"], block["parameters"])
        at = structs.replace(elements, flat=own_row * width + column, columns=width)
        change = change + formula.exact(own, part, at).where(mask)  # type: ignore[misc]
    return change


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`: at most one block changes it."""
    errors = [Error()]
    for number, block in enumerate(term.parameters["blocks"]):
        own = {
            role.partition(".")[2]: extent
            for role, extent in inputs.items()
            if role.partition(".")[0] == str(number)
        }
        part = _BlockTerm(term.weight * block["weight"], block["parameters"])
        formula = _FORMULAS[block["op"]]
        if formula.error is None:
            return Error(math.inf)
        errors.append(formula.error(own, part, sizes))
    return Error(sum(error.absolute for error in errors), max(error.relative for error in errors))


PARTS_OPERATOR = Operator(name=PARTS, bind=bind, delta=delta, exact=exact, error=error, arrays=True)
