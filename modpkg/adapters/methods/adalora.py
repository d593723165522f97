"""AdaLoRA: a LoRA with trained singular values E.

    delta = alpha / (init_r + 1e-5) · B @ (E · A)

where init_r is the rank before pruning, whatever is left of it; a module pruned to rank 0 is
unchanged. Zhang et al. 2023, https://arxiv.org/abs/2303.10512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, product_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number, positive
from modpkg.adapters.wrappers import has_module_named_module, unwrapped
from modpkg.core.filenames import ADAPTER_CONFIG

_TRAINING = (
    *("beta1", "beta2", "deltaT", "orth_reg_weight", "r", "target_r", "tfinal"),
    *("tinit", "total_step", "rank_pattern", "lora_dropout", "init_lora_weights", "bias"),
    *("loftq_config", "megatron_core", "runtime_config", "qalora_group_size", "eva_config"),
    *("corda_config", "lora_ga_config", "alpha_pattern"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight; its formula is LoRA's, with E."""
    check_keys(adapter, reads=("init_r", "lora_alpha", "fan_in_fan_out"), ignores=_TRAINING)
    alpha = number(adapter, "lora_alpha", 8)
    before = positive(adapter, "init_r", 12)
    left = _ranks_left(adapter)

    def product(site: Site) -> tuple[int, int, str]:
        shape = product_shape(adapter, site)
        require(adapter, site, "e")
        rank = adapter.shape(site.roles["a"])[0]
        adapter.expect(site.roles["e"], site.roles["a"], (rank, 1))
        if rank != (expected := left.get(site.path, before)):
            raise adapter.other_rank(site.roles["a"], expected)
        return shape

    ways = transposed(adapter, sites, product)
    changes = []
    for site in sites:
        rank = adapter.shape(site.roles["a"])[0]
        if not rank:
            continue
        changes.append(
            TensorChange(
                target=site.target,
                op="lora",
                inputs=dict(site.roles),
                weight=(alpha if alpha > 0 else float(rank)) / (before + 1e-5),
                parameters={"transposed": True} if ways[site.target] else {},
            )
        )
    return changes


def _ranks_left(adapter: Adapter) -> dict[str, int]:
    """Return the ranks that pruning left, by path of the module.

    Raises:
        ComposeError: ``rank_pattern`` has something else than a list of what is kept, by tensor.
    """
    table = adapter.config.get("rank_pattern") or {}
    valid = isinstance(table, dict) and all(
        isinstance(kept, list) and all(isinstance(each, bool) for each in kept)
        for kept in table.values()
    )
    if not valid:
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} has a rank_pattern that does not say which ranks are kept"
        )
    own = has_module_named_module(adapter.base)
    paths = {name: name if adapter.keeps_wrappers else unwrapped(name, own) for name in table}
    return {
        paths[name].removesuffix(".default").rpartition(".")[0]: sum(kept)
        for name, kept in table.items()
    }


ADALORA = PeftMethod(
    peft_type="ADALORA",
    operator="lora",
    keys={"lora_A": "a", "lora_B": "b", "lora_E": "e", "ranknum": ""},
    bind=bind,
    empty={"lora_A": 2, "lora_B": 2, "lora_E": 2},  # pruned to rank 0
)
