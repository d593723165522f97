"""LoKr: a Kronecker product.

    delta = alpha / rank · W1 ⊗ W2

each factor whole or as a low-rank product. Yeh et al. 2023 (LyCORIS),
https://arxiv.org/abs/2309.14859.
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

_ROLES = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
_READ = ("r", "alpha", "rank_pattern", "alpha_pattern", "use_effective_conv2d", "decompose_factor")
_TRAINING = ("rank_dropout", "module_dropout", "rank_dropout_scale", "decompose_both")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING)
    scaling = scaling_of(adapter, alpha="alpha")
    changes = []
    for site in sites:
        _, weight = scaling.at(site.path)
        shape = adapter.target_shape(site.target)
        first, second = _first_shape(adapter, site), _second_shape(adapter, site)
        if len(second) < 2:
            raise adapter.misfit(min(site.roles.values()), site.target, shape)
        rows, columns = first[0] * second[0], first[1] * math.prod(second[1:])
        if rows != shape[0] or columns != math.prod(shape[1:]):
            raise adapter.misfit(min(site.roles.values()), site.target, shape, [rows, columns])
        changes.append(
            TensorChange(target=site.target, op="lokr", inputs=dict(site.roles), weight=weight)
        )
    return changes


def _first_shape(adapter: Adapter, site: Site) -> tuple[int, ...]:
    if "w1" in site.roles:
        shape = adapter.shape(site.roles["w1"])
        if len(shape) != 2 or "w1_a" in site.roles or "w1_b" in site.roles:
            raise adapter.refuse(
                f"{site.roles['w1']!r} is not the only first factor, or not a matrix"
            )
        return shape
    require(adapter, site, "w1_a", "w1_b")
    return _low_rank_shape(adapter, site, "w1_a", "w1_b")


def _second_shape(adapter: Adapter, site: Site) -> tuple[int, ...]:
    if "w2" in site.roles:
        if {"w2_a", "w2_b", "t2"} & site.roles.keys():
            raise adapter.refuse(f"{site.roles['w2']!r} is not the only second factor")
        return adapter.shape(site.roles["w2"])
    require(adapter, site, "w2_a", "w2_b")
    if "t2" not in site.roles:
        return _low_rank_shape(adapter, site, "w2_a", "w2_b")
    core = adapter.shape(site.roles["t2"])
    a, b = adapter.shape(site.roles["w2_a"]), adapter.shape(site.roles["w2_b"])
    if len(core) != 4 or (len(a), len(b)) != (2, 2) or (a[0], b[0]) != core[:2]:
        wanted = [*a[:1], *b[:1], *core[2:]]
        raise adapter.misfit(site.roles["t2"], site.roles["w2_a"], wanted)
    return (a[1], b[1], *core[2:])


def _low_rank_shape(adapter: Adapter, site: Site, one: str, other: str) -> tuple[int, ...]:
    a, b = adapter.shape(site.roles[one]), adapter.shape(site.roles[other])
    if (len(a), len(b)) != (2, 2) or a[1] != b[0]:
        raise adapter.misfit(site.roles[one], site.roles[other], [*a[:1], *b[:1]])
    return a[0], b[1]


def prepare(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> Mapping[str, Tensor]:
    """Return both factors as whole matrices, which are small."""
    first = inputs["w1"] if "w1" in inputs else inputs["w1_a"] @ inputs["w1_b"]
    if "w2" in inputs:
        second = inputs["w2"]
    elif "t2" in inputs:
        core, a, b = inputs["t2"], inputs["w2_a"], inputs["w2_b"]
        inner = (core.flatten(2).transpose(1, 2) @ b).transpose(1, 2)
        second = (a.t() @ inner.flatten(1)).reshape(a.shape[1], b.shape[1], *core.shape[2:])
    else:
        second = inputs["w2_a"] @ inputs["w2_b"]
    return {"first": first, "second": second}


def delta(
    inputs: Mapping[str, Tensor], term: Coefficients, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · W1 ⊗ W2."""
    first, second = inputs["first"], inputs["second"]
    if second.ndim == 3:
        # PEFT pairs the axes of a three-dimensional factor from the last one on.
        whole = first.unsqueeze(0).kron(second).reshape(source.shape[0], -1)
        return whole[start:stop] * term.weight
    height = second.shape[0]
    rows = range(start, stop)
    left = first[[row // height for row in rows]]
    right = second.flatten(1)[[row % height for row in rows]]
    return (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1).mul_(term.weight)


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    length, *rest = _second_extents(inputs)
    if len(rest) == 2:  # see `delta`
        height = inputs["w1" if "w1" in inputs else "w1_a"].shape[0]
        inner = elements.columns * elements.shape[0] // length
        place, at = divmod(elements.flat, inner)
        row, column = divmod(at, inner // (height * rest[0]))
        outer, other = divmod(row, rest[0])
        left, right = column // rest[1], other * rest[1] + column % rest[1]
    else:
        outer, place = divmod(elements.row, length)
        left, right = divmod(elements.column, math.prod(rest))
    return _first_at(inputs, outer, left, elements) * (
        _second_at(inputs, place, right, elements) * term.weight
    )


def _second_extents(inputs: Mapping[str, Any]) -> tuple[int, ...]:
    if "w2" in inputs:
        shape: tuple[int, ...] = inputs["w2"].shape
        return shape
    a, b = inputs["w2_a"], inputs["w2_b"]
    if "t2" in inputs:
        return (a.shape[1], b.shape[1], *inputs["t2"].shape[2:])
    return a.shape[0], b.shape[1]


def _first_at(inputs: Mapping[str, Any], row: Any, column: Any, elements: Elements) -> Any:
    if "w1" in inputs:
        return elements.number(inputs["w1"][row, column])
    a, b = inputs["w1_a"][row], inputs["w1_b"][:, column].T
    return (elements.number(a) * elements.number(b)).sum()


def _second_at(inputs: Mapping[str, Any], row: Any, column: Any, elements: Elements) -> Any:
    number = elements.number
    if "w2" in inputs:
        second = inputs["w2"]
        return number(second.reshape(len(second), -1)[row, column])
    a, b = inputs["w2_a"], inputs["w2_b"]
    if "t2" not in inputs:
        return (number(a[row]) * number(b[:, column].T)).sum()
    core = inputs["t2"].reshape(*inputs["t2"].shape[:2], -1)
    channel, place = divmod(column, core.shape[2])
    cores = core[:, :, place].transpose(2, 0, 1)
    inner = (number(cores) * number(b[:, channel].T[:, None, :])).sum()
    return (number(a[:, row].T) * inner).sum()


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    total, count, under = abs(term.weight), 16, 1 + abs(term.weight)
    for which in "12":
        rank = max(inputs[f"w{which}_b"].shape[0] if f"w{which}_b" in inputs else 1, 1)
        if f"t{which}" in inputs:
            rank *= max(inputs[f"w{which}_a"].shape[0], 1)
        factors = [
            inputs[role].largest
            for role in (f"w{which}", f"w{which}_a", f"w{which}_b", f"t{which}")
            if role in inputs
        ]
        size = rank * math.prod(factors)
        total, count = total * size, count + 2 * rank
        under *= (1 + size) * math.prod(1 + each for each in factors) * count
    return Error(gamma(count) * total + LEAST * under)


LOKR = PeftMethod(
    peft_type="LOKR",
    operator="lokr",
    keys={f"lokr_{role}": role for role in _ROLES},
    bind=bind,
    formulas=(
        Formula(
            name="lokr",
            delta=delta,
            prepare=prepare,
            prepare_rounds=True,
            exact=exact,
            error=error,
            null=_ROLES,
        ),
    ),
)
