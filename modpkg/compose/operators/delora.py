"""``delora``: a low-rank change of bounded length.

    delta = B @ diag(λ / (r · ‖aᵢ‖ · ‖bᵢ‖)) @ A · diag(w)

over the rows aᵢ of A and the columns bᵢ of B, lengths at least 10⁻⁴; w are the lengths of the
base's columns as they were when training began, and lie in the file. Bini, Girrbach & Akata 2025,
https://arxiv.org/abs/2503.18225.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-4


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · the change."""
    a, b = inputs["a"], inputs["b"]
    lengths = a.norm(dim=1).clamp(min=_LEAST) * b.norm(dim=0).clamp(min=_LEAST)
    scale: Tensor = inputs["lambda"].mul(term.weight / a.shape[0]) / lengths
    return b[start:stop].mul(scale) @ a.mul(inputs["norm"])


DELORA = Operator(name="delora", bind=bind, delta=delta, null=("a", "b", "lambda", "norm"))
