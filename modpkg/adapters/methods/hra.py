"""HRA: reflects a weight's inputs along one vector after the other.

    delta = W ∏ᵢ (I − 2 uᵢuᵢᵀ) − W        or  −2 W UUᵀ, U orthonormal by Gram-Schmidt

with each u of norm 1. Yuan, Liu & Xu 2024, https://arxiv.org/abs/2405.17484.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula, base_rows
from modpkg.adapters.method import PeftMethod, matrix_shape, require
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=("apply_GS", "rank_pattern"), ignores=("r", "bias"))
    parameters = {"orthogonal": True} if adapter.config.get("apply_GS") else {}
    changes = []
    for site in sites:
        require(adapter, site, "u")
        shape = adapter.target_shape(site.target)
        inner, _ = matrix_shape(adapter, site.roles["u"])
        if inner != math.prod(shape[1:]):
            raise adapter.misfit(site.roles["u"], site.target, shape)
        changes.append(
            TensorChange(
                target=site.target, op="hra", inputs=dict(site.roles), parameters=parameters
            )
        )
    return changes


def prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return the vectors as rows, normalized, and made orthogonal if the parameters require it."""
    vectors = inputs["u"].t().clone()
    for number, vector in enumerate(vectors):
        if term.parameters.get("orthogonal"):
            for other in vectors[:number]:
                vector -= (other @ vector) * other
        vector /= vector.norm()
    return {"u": vectors}


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (W ∏(I − 2 uuᵀ) − W)."""
    block = base_rows(source, start, stop)
    change = block.clone()
    for vector in inputs["u"]:
        change -= 2 * (change @ vector).unsqueeze(1) * vector
    return change.sub_(block).mul_(term.weight)


HRA = PeftMethod(
    peft_type="HRA",
    operator="hra",
    keys={"hra_u": "u"},
    bind=bind,
    formulas=(Formula(name="hra", delta=delta, prepare=prepare, multiplies=True),),
)
