"""``lora``: a low-rank change.

    delta = scale · alpha / rank · B @ A

with A of shape (rank, in) and B of shape (out, rank); for weights that are stored as (in, out),
as GPT-2's are, and for embeddings, the transpose; for convolutions, A and B flattened to
matrices. Hu et al. 2021, https://arxiv.org/abs/2106.09685; with rsLoRA √rank takes the place of
rank: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732; with AdaLoRA, A's rows are scaled by E.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import BaseRows, Operator

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


def delta(
    inputs: Mapping[str, Array], term: Term, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · B @ A, of its transpose, or of what else the inputs are.

    ``bias`` alone is added as it is. With ``values``, the base itself was replaced as well:
    weight · (values − base + scaling · B @ A).
    """
    if "bias" in inputs:
        own: Array = inputs["bias"][start:stop] * term.weight
        return own
    alone = "values" not in inputs
    scale = term.weight if alone else term.parameters["scaling"]
    change: Array = product(inputs, term, start, stop, scale)
    if alone:
        return change
    change += inputs["values"]
    change -= source.peek(start, stop)
    change *= term.weight
    return change


def product(inputs: Mapping[str, Any], term: Term, start: int, stop: int, scale: float) -> Any:
    """Return rows ``start`` to ``stop`` of scale · B @ A, laid out as the base's tensor is.

    It is written in what arrays of numpy and tensors of torch have in common.
    """
    a, b = inputs["a"], inputs["b"]
    if "e" in inputs:
        a = a * inputs["e"]
    parameters = term.parameters
    if "experts" in parameters:
        return _experts(a, b, term, start, stop, scale)
    if parameters.get("transposed"):
        return (a[:, start:stop].T * scale) @ b.T
    return (b[start:stop].reshape(stop - start, -1) * scale) @ a.reshape(a.shape[0], -1)


def _experts(a: Any, b: Any, term: Term, start: int, stop: int, scale: float) -> Any:
    """Return rows of one expert's weight, or experts as rows: A (experts · rank, in), B (out,
    rank · experts)."""
    parameters = term.parameters
    experts = parameters["experts"]
    a = a.reshape(experts, -1, a.shape[1])
    b = b.reshape(b.shape[0], -1, experts)
    if "expert" in parameters:
        begin, expert = parameters["begin"], parameters["expert"]
        return (b[begin + start : begin + stop, :, expert] * scale) @ a[expert]
    if experts == 1:
        return (b[start:stop, :, 0] * scale) @ a[0]
    change = (b.swapaxes(0, 2).swapaxes(1, 2)[start:stop] * scale) @ a[start:stop]
    if parameters.get("transposed"):
        change = change.swapaxes(1, 2)
    return change.reshape(stop - start, -1)


LORA = Operator(
    name="lora",
    bind=bind,
    delta=delta,
    arrays=True,
    null=("a", "b", "e", "bias"),
    by_rows=("values",),
)
