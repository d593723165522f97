"""``vera``: a low-rank change of fixed projections, scaled by vectors.

    delta = (λb · B) @ (λd · A)

Kopiczko, Blankevoort & Asano 2023, https://arxiv.org/abs/2310.11454. A layer takes the rows of B
and the columns of A that it has extents for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.matrix import matrix
from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (λb · B) @ (λd · A), or of its transpose."""
    a = inputs["a"] * inputs["lambda_d"].unsqueeze(1)
    scale = inputs["lambda_b"].flatten().mul(term.weight)
    b = inputs["b"][: len(scale)] * scale.unsqueeze(1)
    if term.parameters.get("transposed"):
        return a[:, start:stop].t() @ b.t()
    return b[start:stop] @ a[:, : matrix(source).shape[1]]


VERA = Operator(name="vera", bind=bind, delta=delta, null=("lambda_b", "lambda_d", "a", "b"))
