"""GraLoRA: a LoRA for each of k × k blocks of a weight.

    delta[block j, n] = scale · Bⱼ[n] @ Aₙ[j]        scale = alpha / (r + hybrid_r)

Each Aₙ and Bⱼ is divided into k parts of r / k ranks. With ``hybrid_r``, a LoRA of the whole weight
is added. Jung et al. 2025, https://arxiv.org/abs/2505.20355.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, require
from modpkg.adapters.peft_config import check_keys, number, positive
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("r", "hybrid_r", "alpha", "gralora_k", "fan_in_fan_out")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=("gralora_dropout", "init_weights", "bias"))
    rank, blocks = positive(adapter, "r", 32), positive(adapter, "gralora_k", 2)
    hybrid = positive(adapter, "hybrid_r", 0) if adapter.config.get("hybrid_r") else 0
    scale = number(adapter, "alpha", 64) / (rank + hybrid)
    if rank % blocks:
        raise adapter.refuse(f"its r is {rank}, which its gralora_k {blocks} does not divide")
    shapes = {}
    for site in sites:
        require(adapter, site, "a", "b", *(("general_a", "general_b") if hybrid else ()))
        a, b = adapter.shape(site.roles["a"]), adapter.shape(site.roles["b"])
        if len(a) != 3 or (a[0], a[2]) != (blocks, rank):
            raise adapter.misfit(site.roles["a"], site.target, [blocks, *a[1:2], rank])
        if len(b) != 3 or b[:2] != (blocks, rank):
            raise adapter.misfit(site.roles["b"], site.target, [blocks, rank, *b[2:]])
        out, inner = blocks * b[2], blocks * a[1]
        if hybrid:
            adapter.expect(site.roles["general_a"], site.target, (hybrid, inner))
            adapter.expect(site.roles["general_b"], site.target, (out, hybrid))
        elif len(site.roles) != 2:
            raise adapter.refuse(f"{max(site.roles.values())!r} needs hybrid_r, which it lacks")
        shapes[site.path] = (out, inner, site.roles["b"])
    ways = low_rank.ways_of(adapter, sites, shapes)
    return [
        TensorChange(
            target=site.target,
            op="gralora",
            inputs=dict(site.roles),
            weight=scale,
            parameters=ways[site.target],
        )
        for site in sites
    ]


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b (out, ranks) and a (ranks, in), with zeros outside of the blocks."""
    a, b = inputs["a"], inputs["b"]
    blocks, width, rank = a.shape
    height, part = b.shape[2], rank // blocks
    left = np.zeros((blocks, height, blocks, blocks, part))
    right = np.zeros((blocks, blocks, part, blocks, width))
    for block in range(blocks):
        # b[block]: (n, part, height); a[block]: (width, j, part)
        left[block, :, block] = b[block].reshape(blocks, part, height).transpose(2, 0, 1)
        right[:, block, :, block] = a[block].reshape(width, blocks, part).transpose(1, 2, 0)
    ranks = blocks * rank
    factors = {"a": right.reshape(ranks, -1), "b": left.reshape(-1, ranks)}
    if "general_a" in inputs:
        factors["a"] = np.concatenate([factors["a"], inputs["general_a"]])
        factors["b"] = np.concatenate([factors["b"], inputs["general_b"]], axis=1)
    return factors


GRALORA = PeftMethod(
    peft_type="GRALORA",
    operator="gralora",
    keys={
        "gralora_A": "a",
        "gralora_B": "b",
        "gralora_A_general.weight": "general_a",
        "gralora_B_general.weight": "general_b",
    },
    bind=bind,
    formulas=(
        Formula(
            name="gralora",
            delta=low_rank.delta,
            prepare=prepare,
            exact=low_rank.exact,
            error=low_rank.error,
            arrays=True,
        ),
    ),
)
