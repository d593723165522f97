"""LoHa: the element-wise product of two low-rank matrices.

    delta = alpha / rank · (W1a @ W1b) ⊙ (W2a @ W2b)

Convolutions may have a core t for each factor: Σ t[i, j] · Wa[i] · Wb[j]. Hyeon-Woo, Ye-Bin & Oh
2021 (FedPara), https://arxiv.org/abs/2108.06098.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    LEAST,
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
    gamma,
)
from modpkg.adapters.method import PeftMethod, require
from modpkg.adapters.peft_config import check_keys, scaling_of

if TYPE_CHECKING:
    from torch import Tensor


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(
        adapter,
        reads=("r", "alpha", "rank_pattern", "alpha_pattern", "use_effective_conv2d"),
        ignores=("rank_dropout", "module_dropout", "rank_dropout_scale"),
    )
    scaling = scaling_of(adapter, alpha="alpha")
    changes = []
    for site in sites:
        require(adapter, site, "w1_a", "w1_b", "w2_a", "w2_b")
        rank, weight = scaling.at(site.path)
        shape = adapter.target_shape(site.target)
        if site.roles.keys() & {"t1", "t2"}:
            require(adapter, site, "t1", "t2")
            kernel = (*shape[2:], 1) if len(shape) == 3 else shape[2:]
            for factor in "12":
                adapter.expect(site.roles[f"t{factor}"], site.target, (rank, rank, *kernel))
                adapter.expect(site.roles[f"w{factor}_a"], site.target, (rank, shape[0]))
                adapter.expect(site.roles[f"w{factor}_b"], site.target, (rank, shape[1]))
        else:
            columns = math.prod(shape[1:])
            for factor in "12":
                adapter.expect(site.roles[f"w{factor}_a"], site.target, (shape[0], rank))
                adapter.expect(site.roles[f"w{factor}_b"], site.target, (rank, columns))
        changes.append(
            TensorChange(target=site.target, op="loha", inputs=dict(site.roles), weight=weight)
        )
    return changes


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (W1a @ W1b) ⊙ (W2a @ W2b)."""
    first = _factor(inputs, "1", start, stop)
    return first.mul_(_factor(inputs, "2", start, stop)).mul_(term.weight)


def _factor(inputs: Mapping[str, Tensor], which: str, start: int, stop: int) -> Tensor:
    a, b = inputs[f"w{which}_a"], inputs[f"w{which}_b"]
    if f"t{which}" not in inputs:
        return a[start:stop] @ b
    core = inputs[f"t{which}"]
    inner = (core.flatten(2).transpose(1, 2) @ b).transpose(1, 2).flatten(1)
    return a[:, start:stop].t() @ inner


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    return _factor_at(inputs, "1", elements) * _factor_at(inputs, "2", elements) * term.weight


def _factor_at(inputs: Mapping[str, Any], which: str, elements: Elements) -> Any:
    a, b, number = inputs[f"w{which}_a"], inputs[f"w{which}_b"], elements.number
    if f"t{which}" not in inputs:
        return (number(a[elements.row]) * number(b[:, elements.column].T)).sum()
    core = inputs[f"t{which}"].reshape(*inputs[f"t{which}"].shape[:2], -1)
    channel, place = divmod(elements.column, core.shape[2])
    cores = core[:, :, place].transpose(2, 0, 1)
    inner = (number(cores) * number(b[:, channel].T[:, None, :])).sum()
    return (number(a[:, elements.row].T) * inner).sum()


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    total, count, under = abs(term.weight), 16, 1 + abs(term.weight)
    for which in "12":
        a, b = inputs[f"w{which}_a"], inputs[f"w{which}_b"]
        core = inputs.get(f"t{which}")
        rank = b.shape[0] if core is None else b.shape[0] ** 2
        size = rank * a.largest * b.largest * (1.0 if core is None else core.largest)
        total, count = total * size, count + 2 * rank
        under *= (1 + size) * (1 + a.largest) * (1 + b.largest) * count
    return Error(gamma(count) * total + LEAST * under)


LOHA = PeftMethod(
    peft_type="LOHA",
    operator="loha",
    keys={
        **{f"hada_w{n}_{side}": f"w{n}_{side}" for n in "12" for side in "ab"},
        **{f"hada_t{n}": f"t{n}" for n in "12"},
    },
    bind=bind,
    formulas=(
        Formula(
            name="loha",
            delta=delta,
            exact=exact,
            error=error,
            null=("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"),
        ),
    ),
)
