"""``rows``: some rows of an embedding are set (PEFT's trainable tokens).

    delta[row] = value − W[row]

A recipe names it as ``trainable-tokens``, or as the method that the rows lie beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.matrix import rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (value − W), 0 where no value is."""
    block = rows(source, start, stop)
    change = block.new_zeros(block.shape)
    for place, row in enumerate(term.parameters["rows"]):
        if start <= row < stop:
            change[row - start] = inputs["rows"][place] - block[row - start]
    return change.mul_(term.weight)


ROWS = Operator(name="rows", bind=bind, delta=delta)
TRAINABLE_TOKENS = Operator(name="trainable-tokens", bind=bind)
