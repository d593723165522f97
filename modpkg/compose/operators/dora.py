"""``dora``: a low-rank change of a weight's direction, and a magnitude of its own.

    V = W + scale · B @ A        delta = m / ‖V‖ · V − W

with one norm and one magnitude for each output (for each column of an embedding). Liu et al. 2024,
https://arxiv.org/abs/2402.09353. A recipe names it as ``lora``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.matrix import matrix, rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.lora import product
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor

_ELEMENTS = 1 << 19


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return the inputs, with the factor of each column where norms run over all rows."""
    if not term.parameters.get("transposed"):
        return inputs
    count, columns = matrix(source).shape
    squares = inputs["b"].new_zeros(columns)
    step = max(1, _ELEMENTS // columns)
    for start in range(0, count, step):
        stop = min(start + step, count)
        squares += _direction(inputs, term, start, stop, source).square_().sum(0)
    return {**inputs, "factor": inputs["magnitude"].flatten() / squares.sqrt_()}


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (m / ‖V‖ · V − W)."""
    turned = _direction(inputs, term, start, stop, source)
    if "factor" in inputs:
        factor = inputs["factor"]
    else:
        magnitude = inputs["magnitude"].flatten()[start:stop]
        factor = (magnitude / turned.square().sum(1).sqrt_()).unsqueeze(1)
    return turned.mul_(factor).sub_(rows(source, start, stop)).mul_(term.weight)


def _direction(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    change: Tensor = product(inputs, term, start, stop, term.parameters["scaling"])
    change.add_(rows(source, start, stop))
    return change


DORA = Operator(name="dora", bind=bind, delta=delta, prepare=prepare, multiplies=True)
