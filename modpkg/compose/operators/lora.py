"""``lora``: a low-rank change.

    delta = scale · alpha / rank · B @ A

with A of shape (rank, in) and B of shape (out, rank); for weights that are stored as (in, out),
as GPT-2's are, and for embeddings, the transpose; for convolutions, A and B flattened to
matrices. Hu et al. 2021, https://arxiv.org/abs/2106.09685; with rsLoRA √rank takes the place of
rank: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732; with AdaLoRA, A's rows are scaled by E.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.matrix import rows
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · B @ A, of its transpose, or of what else the inputs are.

    ``bias`` alone is added as it is. With ``values``, the base itself was replaced as well:
    weight · (values − base + scaling · B @ A).
    """
    if "bias" in inputs:
        return inputs["bias"][start:stop].mul(term.weight)
    if "values" not in inputs:
        return product(inputs, term, start, stop, term.weight)
    change = product(inputs, term, start, stop, term.parameters["scaling"])
    return change.add_(inputs["values"]).sub_(rows(source, start, stop)).mul_(term.weight)


def product(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, scale: float
) -> Tensor:
    """Return rows ``start`` to ``stop`` of scale · B @ A, laid out as the base's tensor is."""
    a, b = inputs["a"], inputs["b"]
    if "e" in inputs:
        a = a * inputs["e"]
    parameters = term.parameters
    if "experts" in parameters:
        return _experts(a, b, term, start, stop, scale)
    if parameters.get("transposed"):
        return a[:, start:stop].t().mul(scale) @ b.t()
    return b[start:stop].flatten(1).mul(scale) @ a.flatten(1)


def _experts(a: Tensor, b: Tensor, term: Term, start: int, stop: int, scale: float) -> Tensor:
    """Return rows of one expert's weight, or experts as rows: A (experts · rank, in), B (out,
    rank · experts)."""
    parameters = term.parameters
    experts = parameters["experts"]
    a = a.view(experts, -1, a.shape[1])
    b = b.view(b.shape[0], -1, experts)
    if "expert" in parameters:
        begin, expert = parameters["begin"], parameters["expert"]
        return b[begin + start : begin + stop, :, expert].mul(scale) @ a[expert]
    if experts == 1:
        return b[start:stop, :, 0].mul(scale) @ a[0]
    change = b.permute(2, 0, 1)[start:stop].mul(scale) @ a[start:stop]
    if parameters.get("transposed"):
        change = change.transpose(1, 2)
    return change.flatten(1)


LORA = Operator(
    name="lora",
    bind=bind,
    delta=delta,
    null=("a", "b", "e", "bias"),
    by_rows=("values",),
)
