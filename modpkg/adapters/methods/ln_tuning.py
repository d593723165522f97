"""Methods of a few lines: LN tuning, trainable tokens, MiSS, SHiRA, HiRA, DeLoRA and C3A."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, matrix, need
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, positive


def bind_ln_tuning(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return value − base for the norms: Zhao et al. 2023, https://arxiv.org/abs/2312.11420."""
    check_keys(adapter)
    changes = []
    for site in sites:
        for role, tensor in sorted(site.roles.items()):
            target = site.target if role == "weight" else site.bias
            if target is None:
                raise adapter.unbound(tensor, f"{site.target!r} has no bias beside it")
            adapter.expect(tensor, target, adapter.target_shape(target))
            changes.append(TensorChange(target=target, op="dense", inputs={"values": tensor}))
    return changes


def bind_tokens(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return nothing: the rows themselves are bound with those of all methods."""
    check_keys(adapter, reads=("token_indices",))
    return []


def bind_miss(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return a block that is repeated: MiSS and Bone, Kang 2024, https://arxiv.org/abs/2409.15371."""
    check_keys(adapter, reads=("mini_r",), harmless=("r", "miss_dropout", "bias"))
    kind = adapter.config.get("init_weights", True)
    changes = []
    for site in sites:
        need(adapter, site, "block")
        shape, block = adapter.target_shape(site.target), adapter.shape(site.roles["block"])
        if len(shape) != 2:
            raise adapter.refuse(f"{site.target!r} has shape {list(shape)}, and is no matrix")
        parameters: dict[str, Any] = {}
        if kind == "bat":
            size = block[-1] if block else 0
            if not size or shape[1] % size or block != (shape[0] // size, size, size):
                raise adapter.misfit(site.roles["block"], site.target, shape)
            parameters["kind"] = "bat"
        else:
            wide = positive(adapter, "mini_r", 1) if kind == "mini" else shape[0]
            if len(block) != 2 or block[1] != wide or shape[0] % wide or block[0] > shape[1]:
                raise adapter.misfit(site.roles["block"], site.target, shape)
        changes.append(
            TensorChange(
                target=site.target, op="miss", inputs=dict(site.roles), parameters=parameters
            )
        )
    return changes


def bind_shira(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return single values at places: Bhardwaj et al. 2024, https://arxiv.org/abs/2406.13175."""
    check_keys(
        adapter,
        harmless=("r", "mask_type", "random_seed"),
        meanings={"fan_in_fan_out": "PEFT does not define it for SHiRA"},
    )
    changes = []
    for site in sites:
        need(adapter, site, "values", "indices")
        count = math.prod(adapter.shape(site.roles["values"]))
        adapter.expect(site.roles["indices"], site.roles["values"], (2, count))
        if len(adapter.target_shape(site.target)) != 2:
            raise adapter.refuse(f"{site.target!r} is no matrix, and SHiRA changes matrices")
        changes.append(TensorChange(target=site.target, op="sparse", inputs=dict(site.roles)))
    return changes


def bind_hira(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return W ⊙ (B @ A): Huang et al. 2025, https://openreview.net/forum?id=TwJrTz9cRS."""
    check_keys(
        adapter, reads=("fan_in_fan_out",), harmless=("r", "rank_pattern", "hira_dropout", "bias")
    )

    def product(site: Site) -> tuple[int, int, str]:
        need(adapter, site, "a", "b")
        rank, inner = matrix(adapter, site.roles["a"])
        out, _ = matrix(adapter, site.roles["b"])
        adapter.expect(site.roles["b"], site.roles["a"], (out, rank))
        if len(adapter.target_shape(site.target)) != 2:
            raise adapter.refuse(f"{site.target!r} is a convolution, which is not done for HiRA")
        return out, inner, site.roles["b"]

    ways = transposed(adapter, sites, product)
    return [
        TensorChange(
            target=site.target,
            op="hira",
            inputs=dict(site.roles),
            parameters={"transposed": True} if ways[site.target] else {},
        )
        for site in sites
    ]


def bind_delora(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return B diag(λ/r…) A: Bini et al. 2025, https://arxiv.org/abs/2503.18225."""
    check_keys(
        adapter,
        harmless=(
            *("r", "rank_pattern", "delora_lambda", "lambda_pattern", "module_dropout", "bias"),
        ),
    )
    changes = []
    for site in sites:
        need(adapter, site, "a", "b", "lambda", "norm")
        out, inner = _linear(adapter, site)
        rank, _ = matrix(adapter, site.roles["a"])
        adapter.expect(site.roles["a"], site.target, (rank, inner))
        adapter.expect(site.roles["b"], site.target, (out, rank))
        adapter.expect(site.roles["lambda"], site.target, (1,))
        adapter.expect(site.roles["norm"], site.target, (inner,))
        changes.append(TensorChange(target=site.target, op="delora", inputs=dict(site.roles)))
    return changes


def bind_c3a(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return circulant blocks: Chen et al. 2024, https://arxiv.org/abs/2407.19342."""
    check_keys(adapter, harmless=("block_size", "block_size_pattern", "bias"))
    changes = []
    for site in sites:
        need(adapter, site, "kernel")
        out, inner = _linear(adapter, site)
        shape = adapter.shape(site.roles["kernel"])
        size = shape[-1] if len(shape) == 3 else 0
        if not size or (shape[0] * size, shape[1] * size) != (out, inner):
            raise adapter.misfit(site.roles["kernel"], site.target, (out, inner))
        changes.append(TensorChange(target=site.target, op="c3a", inputs=dict(site.roles)))
    return changes


def _linear(adapter: Adapter, site: Site) -> tuple[int, int]:
    """Return the extents of a linear layer's weight, (out, in)."""
    shape = adapter.target_shape(site.target)
    if len(shape) != 2:
        raise adapter.refuse(f"{site.target!r} has shape {list(shape)}, and is no matrix")
    return shape[0], shape[1]


LN_TUNING = PeftMethod(
    operator="ln-tuning",
    parts={"ln_tuning_layers.weight": "weight", "ln_tuning_layers.bias": "bias"},
    bind=bind_ln_tuning,
)
TRAINABLE_TOKENS = PeftMethod(operator="trainable-tokens", parts={}, bind=bind_tokens)
MISS = PeftMethod(operator="miss", parts={"miss_block": "block"}, bind=bind_miss)
SHIRA = PeftMethod(
    operator="sparse",
    parts={"shira_weight": "values", "shira_indices": "indices"},
    bind=bind_shira,
)
DELORA = PeftMethod(
    operator="delora",
    parts={
        "delora_A": "a",
        "delora_B": "b",
        "delora_lambda": "lambda",
        "delora_w_norm": "norm",
    },
    bind=bind_delora,
)
C3A = PeftMethod(operator="c3a", parts={"c3a_kernel": "kernel"}, bind=bind_c3a)
HIRA = PeftMethod(operator="hira", parts={"hira_A": "a", "hira_B": "b"}, bind=bind_hira)
