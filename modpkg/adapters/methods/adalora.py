"""AdaLoRA: a LoRA with trained singular values E.

    delta = alpha / (rank + 1e-5) · B @ (E · A)

where the rank is the one left after pruning. Zhang et al. 2023, https://arxiv.org/abs/2303.10512.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, product_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number

_TRAINING = (
    *("beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "r", "target_r", "tfinal"),
    *("tinit", "total_step", "rank_pattern", "lora_dropout", "init_lora_weights", "bias"),
    *("loftq_config", "megatron_core", "runtime_config", "qalora_group_size", "eva_config"),
    *("corda_config", "lora_ga_config", "alpha_pattern"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight; its formula is LoRA's, with E."""
    check_keys(adapter, reads=("lora_alpha", "fan_in_fan_out"), ignores=_TRAINING)
    alpha = number(adapter, "lora_alpha", 8)

    def product(site: Site) -> tuple[int, int, str]:
        require(adapter, site, "e")
        shape = product_shape(adapter, site)
        rank = adapter.shape(site.roles["a"])[0]
        adapter.expect(site.roles["e"], site.roles["a"], (rank, 1))
        return shape

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
    peft_type="ADALORA",
    operator="lora",
    keys={"lora_A": "a", "lora_B": "b", "lora_E": "e"},
    bind=bind,
)
