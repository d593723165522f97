"""VeRA: one pair of random projections for all layers, each with scales of its own.

Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, matrix, need
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return (λb · B) @ (λd · A), of A and B the part that a layer has extents for."""
    check_keys(
        adapter,
        reads=("save_projection", "fan_in_fan_out"),
        harmless=("r", "projection_prng_key", "vera_dropout", "d_initial", "bias"),
    )
    if shared.keys() != {"a", "b"}:
        raise adapter.refuse(
            "its projections vera_A and vera_B are not in its file, and the numbers that a seed "
            "gives depend on the version of torch; save it with save_projection = true"
        )
    rank, widest = matrix(adapter, shared["a"])
    tallest, _ = matrix(adapter, shared["b"])
    adapter.expect(shared["b"], shared["a"], (tallest, rank))

    def product(site: Site) -> tuple[int | None, int | None, str]:
        need(adapter, site, "lambda_b", "lambda_d")
        adapter.expect(site.roles["lambda_d"], shared["a"], (rank,))
        return math.prod(adapter.shape(site.roles["lambda_b"])), None, site.roles["lambda_b"]

    ways = transposed(adapter, sites, product)
    changes = []
    for site in sites:
        way = ways[site.target]
        shape = adapter.target_shape(site.target)
        out, inner = (shape[1], shape[0]) if way else (shape[0], math.prod(shape[1:]))
        if out > tallest or inner > widest or len(shape) != 2:
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


VERA = PeftMethod(
    operator="vera",
    parts={
        "vera_A": "a",
        "vera_B": "b",
        "vera_lambda_b": "lambda_b",
        "vera_lambda_d": "lambda_d",
    },
    bind=bind,
)
