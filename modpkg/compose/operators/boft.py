"""``boft``: a weight's inputs are turned in blocks, and its outputs scaled.

    delta = s · W Rᵀ − W        R = (I − Q)(I + Q)⁻¹,  Q = (M − Mᵀ) / 2

Liu et al. 2023, https://arxiv.org/abs/2311.06243, with one butterfly factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.matrix import rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.oft import cayley, turned
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return R's blocks, (blocks, size, size), and s."""
    blocks = inputs["r"][0]
    return {"turn": cayley((blocks - blocks.transpose(1, 2)) / 2), "s": inputs["s"]}


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (s · W Rᵀ − W)."""
    block = rows(source, start, stop)
    change = turned(block, inputs["turn"]).mul_(inputs["s"][start:stop])
    return change.sub_(block).mul_(term.weight)


BOFT = Operator(name="boft", bind=bind, delta=delta, prepare=prepare, multiplies=True)
