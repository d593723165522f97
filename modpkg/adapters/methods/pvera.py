"""PVeRA: a VeRA whose inner values were drawn at random in training; applied with their mean.

    delta = (λb · B) @ (λd · A)

with the first half of λd and of the rows of A; the others are for the variance.
https://arxiv.org/abs/2512.07703.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape, require, vector_length
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_TRAINING = (
    *("r", "projection_prng_key", "pvera_dropout", "d_initial", "bias", "init_weights"),
    *("generator_seed",),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight; all share the projections."""
    check_keys(
        adapter,
        reads=("save_projection", "fan_in_fan_out"),
        ignores=_TRAINING,
        meanings={"sample_at_inference": "it draws at random whenever it runs"},
    )
    if shared.keys() != {"a", "b"}:
        raise adapter.refuse(
            "its projections pvera_A and pvera_B are not in its file, and the numbers that a seed "
            "gives depend on the version of torch; save it with save_projection = true"
        )
    rows, max_inner = matrix_shape(adapter, shared["a"])
    max_out, rank = matrix_shape(adapter, shared["b"])
    adapter.expect(shared["a"], shared["b"], (2 * rank, max_inner))

    def shape(site: Site) -> tuple[int | None, int | None, str]:
        linear_shape(adapter, site)
        require(adapter, site, "lambda_b", "lambda_d")
        adapter.expect(site.roles["lambda_d"], shared["a"], (rows,))
        return vector_length(adapter, site.roles["lambda_b"]), None, site.roles["lambda_b"]

    ways = transposed(adapter, sites, shape)
    changes = []
    for site in sites:
        first, second = linear_shape(adapter, site)
        out, inner = (second, first) if ways[site.target] else (first, second)
        if out > max_out or inner > max_inner:
            raise adapter.misfit(shared["a"], site.target, [rows, inner])
        changes.append(
            TensorChange(
                target=site.target,
                op="pvera",
                inputs={**site.roles, **shared},
                parameters={"transposed": True} if ways[site.target] else {},
            )
        )
    return changes


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b (out, rank) and a (rank, in)."""
    scale = inputs["lambda_b"]
    rank = inputs["b"].shape[1]
    inner = source.count // len(scale)
    return {
        "b": inputs["b"][: len(scale)] * scale[:, None],
        "a": inputs["a"][:rank, :inner] * inputs["lambda_d"][:rank, None],
    }


PVERA = PeftMethod(
    peft_type="PVERA",
    operator="pvera",
    keys={
        "pvera_A": "a",
        "pvera_B": "b",
        "pvera_lambda_b": "lambda_b",
        "pvera_lambda_d": "lambda_d",
    },
    bind=bind,
    formulas=(
        Formula(
            name="pvera",
            delta=low_rank.delta,
            prepare=prepare,
            arrays=True,
            null=("a", "b", "lambda_b", "lambda_d"),
        ),
    ),
)
