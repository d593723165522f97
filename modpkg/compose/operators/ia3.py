"""``ia3``: a weight's outputs, or its inputs, are scaled by a vector.

    delta = W · (l − 1)

Liu et al. 2022, https://arxiv.org/abs/2205.05638.
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
    """Return rows of weight · W · (l − 1), l for each row or for each column.

    A convolution in groups has a column for the inputs of one group: which part of l that is,
    depends on the row.
    """
    scale, weight = inputs["l"].flatten() - 1.0, term.weight
    block = rows(source, start, stop)
    if not term.parameters.get("columns"):
        return block.mul_(scale[start:stop].unsqueeze(1)).mul_(weight)
    if source.ndim <= 2:
        return block.mul_(scale).mul_(weight)
    out, inner = source.shape[:2]
    scale = scale.view(-1, inner).repeat_interleave(out // (scale.numel() // inner), 0)
    kernel = block.shape[1] // inner
    return block.mul_(scale[start:stop].repeat_interleave(kernel, 1)).mul_(weight)


IA3 = Operator(name="ia3", bind=bind, delta=delta, multiplies=True)
