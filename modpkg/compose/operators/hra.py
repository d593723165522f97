"""``hra``: a weight's inputs are reflected, one vector after the other.

    delta = W ∏ᵢ (I − 2 uᵢuᵢᵀ) − W        or  −2 W UUᵀ, U orthonormal by Gram-Schmidt

with each u of length 1. Yuan, Liu & Xu 2024, https://arxiv.org/abs/2405.17484.
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


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return the vectors, one a row, of length 1 and where asked for orthogonal."""
    vectors = inputs["u"].t().clone()
    for number, vector in enumerate(vectors):
        if term.parameters.get("orthogonal"):
            for other in vectors[:number]:
                vector -= (other @ vector) * other
        vector /= vector.norm()
    return {"u": vectors}


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (W ∏(I − 2 uuᵀ) − W)."""
    block = rows(source, start, stop)
    change = block.clone()
    for vector in inputs["u"]:
        change -= 2 * (change @ vector).unsqueeze(1) * vector
    return change.sub_(block).mul_(term.weight)


HRA = Operator(name="hra", bind=bind, delta=delta, prepare=prepare, multiplies=True)
