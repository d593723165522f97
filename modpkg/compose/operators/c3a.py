"""``c3a``: a change of circulant blocks.

    delta[m·b + i, n·b + j] = k[m, n, (j − i) mod b] / inputs

Chen et al. 2024, https://arxiv.org/abs/2407.19342.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · the blocks."""
    import torch

    kernel = inputs["kernel"].mul(term.weight / source.shape[1])
    size = kernel.shape[2]
    return torch.stack(
        [kernel[row // size].roll(row % size, dims=1).flatten() for row in range(start, stop)]
    )


C3A = Operator(name="c3a", bind=bind, delta=delta, null=("kernel",))
