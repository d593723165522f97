"""AdaLoRA: a LoRA whose singular values E were trained too.

Zhang et al. 2023, https://arxiv.org/abs/2303.10512. PEFT scales with alpha / (rank + 1e-5), where
the rank is the one that is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, matrix, need
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number

_TRAINING = (
    *("beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "r", "target_r", "tfinal"),
    *("tinit", "total_step", "rank_pattern", "lora_dropout", "init_lora_weights", "bias"),
    *("loftq_config", "megatron_core", "runtime_config", "qalora_group_size", "eva_config"),
    *("corda_config", "lora_ga_config", "alpha_pattern"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return B @ (E · A) for each site."""
    check_keys(adapter, reads=("lora_alpha", "fan_in_fan_out"), harmless=_TRAINING)
    alpha = number(adapter, "lora_alpha", 8)

    def product(site: Site) -> tuple[int, int, str]:
        need(adapter, site, "a", "b", "e")
        rank, inner = matrix(adapter, site.roles["a"])
        out, _ = matrix(adapter, site.roles["b"])
        adapter.expect(site.roles["b"], site.roles["a"], (out, rank))
        adapter.expect(site.roles["e"], site.roles["a"], (rank, 1))
        return out, inner, site.roles["b"]

    ways = transposed(adapter, sites, product)
    changes = []
    for site in sites:
        rank = math.prod(adapter.shape(site.roles["e"]))
        scale = alpha if alpha > 0 else float(rank)
        changes.append(
            TensorChange(
                target=site.target,
                op="lora",
                inputs=dict(site.roles),
                weight=scale / (rank + 1e-5),
                parameters={"transposed": True} if ways[site.target] else {},
            )
        )
    return changes


ADALORA = PeftMethod(
    operator="lora", parts={"lora_A": "a", "lora_B": "b", "lora_E": "e"}, bind=bind
)
