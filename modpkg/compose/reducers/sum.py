"""``sum``: task arithmetic.

    composed = base + Σ weight_i · delta_i

Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sum_reducer(base: Tensor, deltas: Sequence[Tensor]) -> Tensor:
    """Return base + Σ deltas in float64: the deltas first, in the order given (it is canonical).

    ``base`` is overwritten.
    """
    total = deltas[0]
    for delta in deltas[1:]:
        total = total + delta
    return base.add_(total)
