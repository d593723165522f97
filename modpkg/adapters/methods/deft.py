"""DEFT: replaces what a weight does in a subspace of its outputs.

    delta = Q (s · R − Tᵀ W)        Q = P, T = relu(P);  or Q = T, P orthonormal by QR

with s = alpha / r, or 1. PaRa (``para``) only removes the subspace: R = 0. As PEFT's
``tuners/deft`` describes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula, all_rows
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, choice, number
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("decomposition_method", "alpha", "para", "fan_in_fan_out")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(
        adapter, reads=_READ, ignores=("r", "init_scale", "deft_dropout", "init_weights", "bias")
    )
    method = choice(adapter, "decomposition_method", "relu", ("relu", "qr"))
    removes = bool(adapter.config.get("para"))
    alpha = number(adapter, "alpha", 0) if adapter.config.get("alpha") else 0

    def shape(site: Site) -> tuple[int | None, int | None, str]:
        linear_shape(adapter, site)
        require(adapter, site, "p")
        out, rank = matrix_shape(adapter, site.roles["p"])
        if removes and "r" not in site.roles:
            return out, None, site.roles["p"]
        require(adapter, site, "r")
        if removes:
            raise adapter.refuse(f"it has para, but {site.roles['r']!r} adds to the weight")
        other, inner = matrix_shape(adapter, site.roles["r"])
        if other != rank:
            raise adapter.misfit(site.roles["r"], site.roles["p"], [rank, inner])
        return out, inner, site.roles["p"]

    ways = transposed(adapter, sites, shape)
    changes = []
    for site in sites:
        rank = adapter.shape(site.roles["p"])[1]
        parameters = {"method": method, "scaling": alpha / rank if alpha else 1.0}
        if ways[site.target]:
            parameters["transposed"] = True
        changes.append(
            TensorChange(
                target=site.target, op="deft", inputs=dict(site.roles), parameters=parameters
            )
        )
    return changes


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = Q and a = s · R − Tᵀ W."""
    p = inputs["p"]
    if term.parameters["method"] == "qr":
        left = right = np.linalg.qr(p)[0]
    else:
        left, right = p, np.maximum(p, 0)
    if term.parameters.get("transposed"):
        removed = np.concatenate([rows @ right for _, rows in all_rows(source)]).T
    else:
        removed = sum(right[place].T @ rows for place, rows in all_rows(source))
    if "r" in inputs:
        removed = removed - inputs["r"] * term.parameters["scaling"]
    return {"b": left, "a": -removed}


DEFT = PeftMethod(
    peft_type="DEFT",
    operator="deft",
    keys={"deft_P": "p", "deft_R": "r"},
    bind=bind,
    formulas=(
        Formula(
            name="deft",
            delta=low_rank.delta,
            prepare=prepare,
            arrays=True,
            null=("p",),
            multiplies=True,
        ),
    ),
)
