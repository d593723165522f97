"""LoHa and LoKr: low-rank changes by Hadamard and Kronecker products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, need
from modpkg.adapters.peft_config import check_keys, number, of_pattern, pattern, positive

_TRAINING = ("rank_dropout", "module_dropout", "rank_dropout_scale", "decompose_both")
_READ = ("r", "alpha", "rank_pattern", "alpha_pattern", "use_effective_conv2d", "decompose_factor")


class _Scale:
    """alpha / rank by module path."""

    def __init__(self, adapter: Adapter) -> None:
        check_keys(adapter, reads=_READ, harmless=_TRAINING)
        self.rank, self.alpha = positive(adapter, "r", 8), number(adapter, "alpha", 8)
        self.ranks = pattern(adapter, "rank_pattern")
        self.alphas = pattern(adapter, "alpha_pattern")

    def of(self, path: str) -> tuple[int, float]:
        rank = of_pattern(self.ranks, path, self.rank)
        return rank, of_pattern(self.alphas, path, self.alpha) / rank


def bind_loha(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return (W1a @ W1b) ⊙ (W2a @ W2b): FedPara, Hyeon-Woo et al. 2021."""
    scale = _Scale(adapter)
    changes = []
    for site in sites:
        need(adapter, site, "w1_a", "w1_b", "w2_a", "w2_b")
        rank, weight = scale.of(site.path)
        shape = adapter.target_shape(site.target)
        cores = [role for role in ("t1", "t2") if role in site.roles]
        need(adapter, site, *(("t1", "t2") if cores else ()))
        if cores:
            kernel = (*shape[2:], 1) if len(shape) == 3 else shape[2:]
            for number_ in "12":
                adapter.expect(site.roles[f"t{number_}"], site.target, (rank, rank, *kernel))
                adapter.expect(site.roles[f"w{number_}_a"], site.target, (rank, shape[0]))
                adapter.expect(site.roles[f"w{number_}_b"], site.target, (rank, shape[1]))
        else:
            for number_ in "12":
                adapter.expect(site.roles[f"w{number_}_a"], site.target, (shape[0], rank))
                columns = math.prod(shape[1:])
                adapter.expect(site.roles[f"w{number_}_b"], site.target, (rank, columns))
        changes.append(
            TensorChange(target=site.target, op="loha", inputs=dict(site.roles), weight=weight)
        )
    return changes


def bind_lokr(
    adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]
) -> list[TensorChange]:
    """Return W1 ⊗ W2, each whole or in factors: LyCORIS, Yeh et al. 2023."""
    scale = _Scale(adapter)
    changes = []
    for site in sites:
        _, weight = scale.of(site.path)
        shape = adapter.target_shape(site.target)
        first, second = _first(adapter, site), _second(adapter, site)
        rows = first[0] * second[0]
        if rows != shape[0] or first[1] * math.prod(second[1:]) != math.prod(shape[1:]):
            raise adapter.misfit(
                min(site.roles.values()),
                site.target,
                shape,
                [rows, first[1] * math.prod(second[1:])],
            )
        changes.append(
            TensorChange(target=site.target, op="lokr", inputs=dict(site.roles), weight=weight)
        )
    return changes


def _first(adapter: Adapter, site: Site) -> tuple[int, ...]:
    if "w1" in site.roles:
        shape = adapter.shape(site.roles["w1"])
        if len(shape) != 2 or "w1_a" in site.roles or "w1_b" in site.roles:
            raise adapter.refuse(f"{site.roles['w1']!r} is not the only first factor, or no matrix")
        return shape
    need(adapter, site, "w1_a", "w1_b")
    return _factors(adapter, site, "w1_a", "w1_b")


def _second(adapter: Adapter, site: Site) -> tuple[int, ...]:
    if "w2" in site.roles:
        if {"w2_a", "w2_b", "t2"} & site.roles.keys():
            raise adapter.refuse(f"{site.roles['w2']!r} is not the only second factor")
        return adapter.shape(site.roles["w2"])
    need(adapter, site, "w2_a", "w2_b")
    if "t2" not in site.roles:
        return _factors(adapter, site, "w2_a", "w2_b")
    core = adapter.shape(site.roles["t2"])
    a, b = adapter.shape(site.roles["w2_a"]), adapter.shape(site.roles["w2_b"])
    if len(core) != 4 or (len(a), len(b)) != (2, 2) or (a[0], b[0]) != core[:2]:
        raise adapter.misfit(site.roles["t2"], site.roles["w2_a"], [a[0], b[0], *core[2:]])
    return (a[1], b[1], *core[2:])


def _factors(adapter: Adapter, site: Site, one: str, other: str) -> tuple[int, ...]:
    a, b = adapter.shape(site.roles[one]), adapter.shape(site.roles[other])
    if (len(a), len(b)) != (2, 2) or a[1] != b[0]:
        raise adapter.misfit(site.roles[one], site.roles[other], [*a[:1], *b[:1]])
    return a[0], b[1]


LOHA = PeftMethod(
    operator="loha",
    parts={
        **{f"hada_w{n}_{side}": f"w{n}_{side}" for n in "12" for side in "ab"},
        **{f"hada_t{n}": f"t{n}" for n in "12"},
    },
    bind=bind_loha,
)
LOKR = PeftMethod(
    operator="lokr",
    parts={f"lokr_{part}": part for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    bind=bind_lokr,
)
