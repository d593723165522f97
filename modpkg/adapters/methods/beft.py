"""BEFT: a change of a layer's bias only.

    delta = b, on the bias

https://arxiv.org/abs/2509.15974.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, require
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's bias."""
    check_keys(adapter, ignores=("init_weights",))
    changes = []
    for site in sites:
        require(adapter, site, "bias")
        tensor = site.roles["bias"]
        if site.bias is None:
            raise adapter.refuse(
                f"tensor {tensor!r} is added to a bias, but {adapter.base_name} has none beside "
                f"{site.target!r}"
            )
        adapter.expect(tensor, site.bias, (1, *adapter.target_shape(site.bias)))
        changes.append(TensorChange(target=site.bias, op="beft", inputs=dict(site.roles)))
    return changes


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · b."""
    change: Array = inputs["bias"][0, start:stop] * term.weight
    return change


BEFT = PeftMethod(
    peft_type="BEFT",
    operator="beft",
    keys={"beft_bias": "bias"},
    bind=bind,
    formulas=(Formula(name="beft", delta=delta, arrays=True, null=("bias",)),),
)
