"""VeRA: one pair of random projections for all layers, scaled by vectors for each layer.

    delta = (λb · B) @ (λd · A)

A layer uses the first rows of B and the first columns of A, as many as its weight has. Kopiczko,
Blankevoort & Asano 2023, https://arxiv.org/abs/2310.11454.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
    as_matrix,
)
from modpkg.adapters.method import PeftMethod, matrix_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight; all share the projections."""
    check_keys(
        adapter,
        reads=("save_projection", "fan_in_fan_out"),
        ignores=("r", "projection_prng_key", "vera_dropout", "d_initial", "bias"),
    )
    if shared.keys() != {"a", "b"}:
        raise adapter.refuse(
            "its projections vera_A and vera_B are not in its file, and the numbers that a seed "
            "gives depend on the version of torch; save it with save_projection = true"
        )
    rank, max_inner = matrix_shape(adapter, shared["a"])
    max_out, _ = matrix_shape(adapter, shared["b"])
    adapter.expect(shared["b"], shared["a"], (max_out, rank))

    def scaled_shape(site: Site) -> tuple[int | None, int | None, str]:
        require(adapter, site, "lambda_b", "lambda_d")
        adapter.expect(site.roles["lambda_d"], shared["a"], (rank,))
        return math.prod(adapter.shape(site.roles["lambda_b"])), None, site.roles["lambda_b"]

    ways = transposed(adapter, sites, scaled_shape)
    changes = []
    for site in sites:
        way = ways[site.target]
        shape = adapter.target_shape(site.target)
        out, inner = (shape[1], shape[0]) if way else (shape[0], math.prod(shape[1:]))
        if out > max_out or inner > max_inner or len(shape) != 2:
            raise adapter.misfit(shared["a"], site.target, [rank, inner])
        changes.append(
            TensorChange(
                target=site.target,
                op="vera",
                inputs={**site.roles, **shared},
                parameters={"transposed": True} if way else {},
            )
        )
    return changes


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (λb · B) @ (λd · A), or of its transpose."""
    a = inputs["a"] * inputs["lambda_d"].unsqueeze(1)
    scale = inputs["lambda_b"].flatten().mul(term.weight)
    b = inputs["b"][: len(scale)] * scale.unsqueeze(1)
    if term.parameters.get("transposed"):
        return a[:, start:stop].t() @ b.t()
    return b[start:stop] @ a[:, : as_matrix(source).shape[1]]


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    out, inner = elements.row, elements.column
    if term.parameters.get("transposed"):
        out, inner = inner, out
    number = elements.number
    products = number(inputs["b"][out]) * number(inputs["a"][:, inner].T)
    total = (products * number(inputs["lambda_d"].reshape(1, -1))).sum()
    return total * number(inputs["lambda_b"].reshape(-1)[out]) * term.weight


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    own = {**inputs, "e": inputs["lambda_d"]}
    scale = inputs["lambda_b"].largest * max(abs(term.weight), 1.0)
    return Error(low_rank.size_of(own, scale)[1])


VERA = PeftMethod(
    peft_type="VERA",
    operator="vera",
    keys={
        "vera_A": "a",
        "vera_B": "b",
        "vera_lambda_b": "lambda_b",
        "vera_lambda_d": "lambda_d",
    },
    bind=bind,
    formulas=(
        Formula(
            name="vera",
            delta=delta,
            exact=exact,
            error=error,
            null=("lambda_b", "lambda_d", "a", "b"),
        ),
    ),
)
