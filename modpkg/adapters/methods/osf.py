"""OSF: trains the part of a weight that has the smallest singular values.

    delta = U S V − (that part of W)

Nayak et al. 2025, https://arxiv.org/abs/2504.07097.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.peft_config import check_keys
from modpkg.adapters.singular import split, whole
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_TRAINING = ("effective_rank", "rank_pattern", "target_svd_config", "init_weights")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, ignores=_TRAINING)
    changes = []
    for site in sites:
        require(adapter, site, "u", "s", "v")
        out, inner = linear_shape(adapter, site)
        rank = (*adapter.shape(site.roles["s"]), 0)[0]
        if rank > min(out, inner):
            raise adapter.misfit(site.roles["s"], site.target, [min(out, inner)])
        adapter.expect(site.roles["s"], site.target, (rank,))
        adapter.expect(site.roles["u"], site.target, (out, rank))
        adapter.expect(site.roles["v"], site.target, (rank, inner))
        changes.append(TensorChange(target=site.target, op="osf", inputs=dict(site.roles)))
    return changes


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = [U S, −U₀ S₀] and a = [V, V₀]."""
    rank = len(inputs["s"])
    kept = min(source.shape) - rank
    u, s, v = split(whole(source), kept, what="the part that was trained")
    return {
        "b": np.concatenate([inputs["u"] * inputs["s"], -u[:, kept:] * s[kept:]], axis=1),
        "a": np.concatenate([inputs["v"], v[kept:]]),
    }


OSF = PeftMethod(
    peft_type="OSF",
    operator="osf",
    keys={f"osf_svd_params.{part}_low": part.lower() for part in "USV"},
    bind=bind,
    empty={"osf_svd_params.U_low": 2, "osf_svd_params.S_low": 1, "osf_svd_params.V_low": 2},
    formulas=(
        Formula(name="osf", delta=low_rank.delta, prepare=prepare, arrays=True, multiplies=True),
    ),
)
