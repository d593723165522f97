"""RandLoRA: several random low-rank bases, the same for all layers, scaled for each layer.

    delta = alpha / r · B' @ A'        A'[j, n] = λ[j, n] · A[j] ⊙ γ[n]

with as many bases n as the smaller side of the weight needs for full rank, and A' on that side.
Albert et al. 2025, https://arxiv.org/abs/2502.00987.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number, positive

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_TRAINING = (
    *("projection_prng_key", "randlora_dropout", "sparse", "very_sparse", "init_weights"),
    *("bias", "save_projection"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight; all share the bases."""
    check_keys(adapter, reads=("r", "randlora_alpha", "fan_in_fan_out"), ignores=_TRAINING)
    if shared.keys() != {"a", "b"}:
        raise adapter.refuse(
            "its bases randlora_A and randlora_B are not in its file, and the numbers that a seed "
            "gives depend on the version of torch; save it with save_projection = true"
        )
    rank = positive(adapter, "r", 32)
    scale = number(adapter, "randlora_alpha", 640) / rank
    bases, columns = adapter.shape(shared["b"]), adapter.shape(shared["a"])
    if len(bases) != 3 or len(columns) != 3 or columns[:2] != (rank, 1) or bases[2] != rank:
        raise adapter.other_rank(shared["a"], rank)
    for site in sites:
        require(adapter, site, "lambda", "gamma")
        shape = linear_shape(adapter, site)
        smaller, larger = min(shape), max(shape)
        count, _ = matrix_shape(adapter, site.roles["gamma"])
        adapter.expect(site.roles["gamma"], site.target, (-(-smaller // rank), smaller))
        adapter.expect(site.roles["lambda"], site.target, (rank, count))
        if columns[2] < smaller or bases[0] < larger or bases[1] < count:
            raise adapter.misfit(shared["b"], site.target, [larger, count, rank])
    # The sides of a change are those of its weight, whichever way it is stored.
    ways = transposed(adapter, sites, lambda site: (None, None, site.roles["lambda"]))
    return [
        TensorChange(
            target=site.target,
            op="randlora",
            inputs={**site.roles, **shared},
            weight=scale,
            parameters={"transposed": True} if ways[site.target] else {},
        )
        for site in sites
    ]


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b (out, rank · bases) and a (rank · bases, in)."""
    outer, inner = source.shape
    if term.parameters.get("transposed"):
        outer, inner = inner, outer
    gamma = inputs["gamma"]
    count, smaller = gamma.shape
    scaled = inputs["lambda"][:, :, None] * inputs["a"][:, :, :smaller] * gamma
    a = scaled.reshape(-1, smaller)
    b = inputs["b"][: max(outer, inner), :count].reshape(max(outer, inner), -1)
    return {"a": a, "b": b} if smaller == inner else {"a": b.T, "b": a.T}


RANDLORA = PeftMethod(
    peft_type="RANDLORA",
    operator="randlora",
    keys={
        "randlora_A": "a",
        "randlora_B": "b",
        "randlora_lambda": "lambda",
        "randlora_gamma": "gamma",
    },
    bind=bind,
    formulas=(
        Formula(
            name="randlora",
            delta=low_rank.delta,
            prepare=prepare,
            arrays=True,
            null=("a", "b", "lambda", "gamma"),
        ),
    ),
)
