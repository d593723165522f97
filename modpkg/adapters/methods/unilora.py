"""Uni-LoRA: a LoRA whose every element is one of a few trained numbers, which all layers share.

    delta = B @ A        A = θ[indices] ⊙ scales, and B likewise

https://arxiv.org/abs/2506.00799.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula, UndefinedChange
from modpkg.adapters.method import PeftMethod, matrix_shape, require
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("save_indices", "fan_in_fan_out")
_TRAINING = (
    *("r", "proj_seed", "theta_d_length", "unilora_dropout", "init_theta_d_bound"),
    *("init_weights", "bias"),
)
_ABSENT = (
    "which of its numbers each layer uses is not in its file, and PEFT assigns them again in the "
    "order of the model's layers; save it with save_indices = true"
)
_ROLES = ("indices_a", "indices_b", "scales_a", "scales_b")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING)
    if not sites or shared.keys() != {"theta"}:
        raise adapter.refuse(_ABSENT)
    if len(adapter.shape(shared["theta"])) != 1:
        raise adapter.refuse(f"{shared['theta']!r} is not a vector")
    shapes = {}
    for site in sites:
        require(adapter, site, *_ROLES)
        rank, inner = matrix_shape(adapter, site.roles["indices_a"])
        out, other = matrix_shape(adapter, site.roles["indices_b"])
        adapter.expect(site.roles["indices_b"], site.target, (out, rank))
        adapter.expect(site.roles["scales_a"], site.target, (rank, inner))
        adapter.expect(site.roles["scales_b"], site.target, (out, other))
        shapes[site.path] = (out, inner, site.roles["indices_b"])
    ways = low_rank.ways_of(adapter, sites, shapes)
    return [
        TensorChange(
            target=site.target,
            op="unilora",
            inputs={**site.roles, **shared},
            parameters=ways[site.target],
        )
        for site in sites
    ]


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b (out, rank) and a (rank, in).

    Raises:
        UndefinedChange: An index is not one of the numbers.
    """
    factors = {}
    for factor in "ab":
        indices = inputs[f"indices_{factor}"].astype("int64")
        if indices.size and (indices.min() < 0 or indices.max() >= len(inputs["theta"])):
            raise UndefinedChange("an index is out of range")
        factors[factor] = inputs["theta"][indices] * inputs[f"scales_{factor}"]
    return factors


UNILORA = PeftMethod(
    peft_type="UNILORA",
    operator="unilora",
    keys={
        "unilora_theta_d": "theta",
        **{f"unilora_indices_{side}": f"indices_{side.lower()}" for side in "AB"},
        **{f"unilora_scales_{side}": f"scales_{side.lower()}" for side in "AB"},
    },
    bind=bind,
    absent=_ABSENT,
    formulas=(
        Formula(
            name="unilora", delta=low_rank.delta, prepare=prepare, arrays=True, null=("theta",)
        ),
    ),
)
