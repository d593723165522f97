"""HiRA: a low-rank matrix, multiplied element-wise with the weight.

    delta = W ⊙ (B @ A)

Huang et al. 2025, https://openreview.net/forum?id=TwJrTz9cRS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod, linear_shape, product_shape
from modpkg.adapters.methods.lora import product
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(
        adapter, reads=("fan_in_fan_out",), ignores=("r", "rank_pattern", "hira_dropout", "bias")
    )

    def shape(site: Site) -> tuple[int, int, str]:
        linear_shape(adapter, site)
        return product_shape(adapter, site)

    ways = transposed(adapter, sites, shape)
    return [
        TensorChange(
            target=site.target,
            op="hira",
            inputs=dict(site.roles),
            parameters={"transposed": True} if ways[site.target] else {},
        )
        for site in sites
    ]


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · W ⊙ (B @ A)."""
    change: Tensor = product(inputs, term, start, stop, term.weight)
    return change.mul_(base_rows(source, start, stop))


HIRA = PeftMethod(
    peft_type="HIRA",
    operator="hira",
    keys={"hira_A": "a", "hira_B": "b"},
    bind=bind,
    formulas=(Formula(name="hira", delta=delta, null=("a", "b"), multiplies=True),),
)
