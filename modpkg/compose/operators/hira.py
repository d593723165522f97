"""``hira``: a low-rank change, element by element of the weight itself.

    delta = W ⊙ (B @ A)

Huang et al. 2025, https://openreview.net/forum?id=TwJrTz9cRS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.matrix import rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.lora import product
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · W ⊙ (B @ A)."""
    change: Tensor = product(inputs, term, start, stop, term.weight)
    return change.mul_(rows(source, start, stop))


HIRA = Operator(name="hira", bind=bind, delta=delta, null=("a", "b"), multiplies=True)
