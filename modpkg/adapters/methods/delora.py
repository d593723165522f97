"""DeLoRA: a low-rank change of bounded norm.

    delta = B @ diag(λ / (r · ‖aᵢ‖ · ‖bᵢ‖)) @ A · diag(w)

over the rows aᵢ of A and the columns bᵢ of B, norms clamped to at least 10⁻⁴. w holds the norms of
the base's columns when training began, and is in the file. Bini, Girrbach & Akata 2025,
https://arxiv.org/abs/2503.18225.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import Coefficients, Formula
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape, require
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from torch import Tensor

_MIN_NORM = 1e-4
_TRAINING = ("r", "rank_pattern", "delora_lambda", "lambda_pattern", "module_dropout", "bias")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, ignores=_TRAINING)
    changes = []
    for site in sites:
        require(adapter, site, "a", "b", "lambda", "norm")
        out, inner = linear_shape(adapter, site)
        rank, _ = matrix_shape(adapter, site.roles["a"])
        adapter.expect(site.roles["a"], site.target, (rank, inner))
        adapter.expect(site.roles["b"], site.target, (out, rank))
        adapter.expect(site.roles["lambda"], site.target, (1,))
        adapter.expect(site.roles["norm"], site.target, (inner,))
        changes.append(TensorChange(target=site.target, op="delora", inputs=dict(site.roles)))
    return changes


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · B diag(λ / (r·‖aᵢ‖·‖bᵢ‖)) A diag(w)."""
    a, b = inputs["a"], inputs["b"]
    norms = a.norm(dim=1).clamp(min=_MIN_NORM) * b.norm(dim=0).clamp(min=_MIN_NORM)
    scale: Tensor = inputs["lambda"].mul(term.weight / a.shape[0]) / norms
    return b[start:stop].mul(scale) @ a.mul(inputs["norm"])


DELORA = PeftMethod(
    peft_type="DELORA",
    operator="delora",
    keys={"delora_A": "a", "delora_B": "b", "delora_lambda": "lambda", "delora_w_norm": "norm"},
    bind=bind,
    formulas=(Formula(name="delora", delta=delta, null=("a", "b", "lambda", "norm")),),
)
