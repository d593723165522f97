"""``miss``: one small block, repeated over a weight's inputs.

    delta[o, i] = D[i mod r, o mod m]        (Bone's "bat": W_block @ D + D, block by block)

Kang 2024, https://arxiv.org/abs/2409.15371.
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
    """Return rows of weight · the repeated block."""
    block, columns = inputs["block"], source.shape[1]
    if term.parameters.get("kind") == "bat":
        size = block.shape[2]
        own = rows(source, start, stop).view(stop - start, -1, size)
        numbers = range(start, stop)
        blocks = block[[row // size for row in numbers]]
        inner = blocks[range(len(numbers)), [row % size for row in numbers]].unsqueeze(1)
        return (own @ blocks + inner).flatten(1).mul_(term.weight)
    rank, wide = block.shape
    own = block.t()[[row % wide for row in range(start, stop)]]
    return own.repeat(1, -(-columns // rank))[:, :columns].mul(term.weight)


MISS = Operator(name="miss", bind=bind, delta=delta, null=("block",))
