"""``lokr``: a Kronecker product.

    delta = alpha / rank · W1 ⊗ W2

each of them whole or as a low-rank product. Yeh et al. 2023 (LyCORIS),
https://arxiv.org/abs/2309.14859.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return both factors whole: they are small."""
    first = inputs["w1"] if "w1" in inputs else inputs["w1_a"] @ inputs["w1_b"]
    if "w2" in inputs:
        second = inputs["w2"]
    elif "t2" in inputs:
        core, a, b = inputs["t2"], inputs["w2_a"], inputs["w2_b"]
        inner = (core.flatten(2).transpose(1, 2) @ b).transpose(1, 2)
        second = (a.t() @ inner.flatten(1)).reshape(a.shape[1], b.shape[1], *core.shape[2:])
    else:
        second = inputs["w2_a"] @ inputs["w2_b"]
    return {"first": first, "second": second}


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · W1 ⊗ W2."""
    first, second = inputs["first"], inputs["second"]
    if second.ndim == 3:
        # PEFT pairs the axes of a three-dimensional factor from the last one: its own format.
        whole = first.unsqueeze(0).kron(second).reshape(source.shape[0], -1)
        return whole[start:stop] * term.weight
    height = second.shape[0]
    rows = range(start, stop)
    left = first[[row // height for row in rows]]
    right = second.flatten(1)[[row % height for row in rows]]
    return (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1).mul_(term.weight)


LOKR = Operator(
    name="lokr",
    bind=bind,
    delta=delta,
    prepare=prepare,
    null=("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"),
)
