"""OFT, BOFT and HRA: a weight's inputs are turned by an orthogonal matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, matrix, need
from modpkg.adapters.peft_config import check_keys, number, positive


def bind_oft(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return W Rᵀ − W, with R block-diagonal: Qiu et al. 2023, https://arxiv.org/abs/2306.07280."""
    check_keys(
        adapter,
        reads=("block_share", "coft", "eps", "use_cayley_neumann", "num_cayley_neumann_terms"),
        harmless=("r", "oft_block_size", "module_dropout", "bias"),
        plain={"fan_in_fan_out": False},
    )
    parameters: dict[str, Any] = {}
    if adapter.config.get("use_cayley_neumann", True):
        parameters["terms"] = positive(adapter, "num_cayley_neumann_terms", 5)
    if adapter.config.get("coft"):
        parameters["eps"] = number(adapter, "eps", 6e-5)
    changes = []
    for site in sites:
        if site.roles.keys() not in ({"r"}, {"embedding_r"}):
            raise adapter.unbound(min(site.roles.values()), "another rotation is for the place")
        (role, tensor), *_ = site.roles.items()
        shape = adapter.target_shape(site.target)
        _pointwise(adapter, site)
        count, pairs = matrix(adapter, tensor)
        size = (1 + math.isqrt(1 + 8 * pairs)) // 2
        if size * (size - 1) // 2 != pairs:
            raise adapter.refuse(f"{tensor!r} has {pairs} angles, which no block has")
        inner = math.prod(shape[1:])
        blocks = inner // size if count == 1 and adapter.config.get("block_share") else count
        if blocks * size != inner:
            raise adapter.misfit(tensor, site.target, shape)
        extra = {"inverse": True} if role == "embedding_r" else {}
        changes.append(
            TensorChange(
                target=site.target,
                op="oft",
                inputs={"r": tensor},
                parameters={**parameters, **extra},
            )
        )
    return changes


def bind_boft(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return s · W Rᵀ − W: Liu et al. 2023, https://arxiv.org/abs/2311.06243."""
    check_keys(
        adapter,
        reads=("boft_n_butterfly_factor",),
        harmless=("boft_block_size", "boft_block_num", "boft_dropout", "bias"),
        plain={"fan_in_fan_out": False},
    )
    changes = []
    for site in sites:
        need(adapter, site, "r", "s")
        shape = adapter.target_shape(site.target)
        turns = adapter.shape(site.roles["r"])
        if len(turns) != 4 or turns[0] != 1:
            raise adapter.refuse(
                f"{site.roles['r']!r} has {turns[0] if turns else 0} butterfly factors, and only "
                "one is done: PEFT computes more with a CUDA kernel alone"
            )
        if len(shape) != 2:
            raise adapter.refuse(f"{site.target!r} is a convolution, which BOFT orders otherwise")
        if turns[2] != turns[3] or turns[1] * turns[2] != shape[1]:
            raise adapter.misfit(site.roles["r"], site.target, shape)
        adapter.expect(site.roles["s"], site.target, (shape[0], 1))
        changes.append(TensorChange(target=site.target, op="boft", inputs=dict(site.roles)))
    return changes


def bind_hra(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return W ∏(I − 2 uuᵀ) − W: Yuan et al. 2024, https://arxiv.org/abs/2405.17484."""
    check_keys(adapter, reads=("apply_GS", "rank_pattern"), harmless=("r", "bias"))
    changes = []
    for site in sites:
        need(adapter, site, "u")
        shape = adapter.target_shape(site.target)
        inner, _ = matrix(adapter, site.roles["u"])
        if inner != math.prod(shape[1:]):
            raise adapter.misfit(site.roles["u"], site.target, shape)
        parameters = {"orthogonal": True} if adapter.config.get("apply_GS") else {}
        changes.append(
            TensorChange(
                target=site.target, op="hra", inputs=dict(site.roles), parameters=parameters
            )
        )
    return changes


def _pointwise(adapter: Adapter, site: Site) -> None:
    shape = adapter.target_shape(site.target)
    if len(shape) < 2 or math.prod(shape[2:]) != 1:
        raise adapter.refuse(
            f"{site.target!r} has shape {list(shape)}: PEFT turns the overlapping patches of a "
            "convolution one by one, which no weight does"
        )


OFT = PeftMethod(
    operator="oft",
    parts={"oft_R.weight": "r", "oft_embedding_R.weight": "embedding_r"},
    bind=bind_oft,
)
BOFT = PeftMethod(operator="boft", parts={"boft_R": "r", "boft_s": "s"}, bind=bind_boft)
HRA = PeftMethod(operator="hra", parts={"hra_u": "u"}, bind=bind_hra)
