"""``over``: an adapter's change to a layer that it also saved whole.

    delta = values + change(values) − W

PEFT saves embeddings and output layers that an adapter changes, and loads them in place of the
base's: what the method multiplies or normalises are the saved values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from modpkg.adapters.formula import Coefficients, Formula, as_matrix, base_rows
from modpkg.adapters.methods import METHODS
from modpkg.adapters.saved_modules import OVER, OVER_VALUES
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator
from modpkg.core.errors import ComposeError

if TYPE_CHECKING:
    from torch import Tensor

    from modpkg.adapters.formula import Array

_SAVED = "saved values"
"""The role of the values, beside those that a formula prepares."""
_FORMULAS: dict[str, Formula] = {
    formula.name: formula
    for method in METHODS.values()
    for formula in method.formulas
    if formula.name in OVER_VALUES
}


class _OwnTerm(Struct, frozen=True):
    """What the change itself is computed with."""

    weight: float
    parameters: Mapping[str, Any]


class _SavedRows:
    """The saved values, as formulas on arrays read the base."""

    def __init__(self, values: Tensor) -> None:
        self._matrix: Array = as_matrix(values).numpy()
        self.shape, self.count = tuple(values.shape), values.numel()
        self.columns = self._matrix.shape[1]

    def peek(self, start: int, stop: int) -> Array:
        return self._matrix[start:stop]


def prepare(inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor) -> Mapping[str, Any]:
    """Return the values, and what the change's own formula prepares from them."""
    formula, change, values = _formula(term), _change(term), inputs["values"]
    own: Mapping[str, Any] = {role: each for role, each in inputs.items() if role != "values"}
    if formula.arrays:
        own = {role: each.numpy() for role, each in own.items()}
    if formula.prepare is not None:
        own = formula.prepare(own, change, _SavedRows(values) if formula.arrays else values)
    return {**own, _SAVED: values}


def delta(
    inputs: Mapping[str, Any], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (values + change − W)."""
    import torch

    formula, values = _formula(term), inputs[_SAVED]
    own = {role: each for role, each in inputs.items() if role != _SAVED}
    basis = _SavedRows(values) if formula.arrays else values
    change = torch.as_tensor(formula.delta(own, _change(term), start, stop, basis))  # type: ignore[misc]
    rows = as_matrix(values)[start:stop] + change.reshape(stop - start, -1)
    return (rows - base_rows(source, start, stop)) * term.weight


def _change(term: Coefficients) -> _OwnTerm:
    return _OwnTerm(term.parameters["weight"], term.parameters["parameters"])


def _formula(term: Coefficients) -> Formula:
    name = term.parameters["op"]
    formula = _FORMULAS.get(name)
    if formula is None or formula.delta is None:
        raise ComposeError("M602", where=OVER, op=name, known=", ".join(_FORMULAS))
    return formula


OVER_OPERATOR = Operator(name=OVER, bind=bind, delta=delta, prepare=prepare, multiplies=True)
