"""GLoRA: scales and shifts a weight, and its bias, by trained matrices.

    delta = W ⊙ A + B        and on the bias  b ⊙ D + E + W C

A and B are low-rank, a factor per row, or one number; C is a vector, in two factors or one.
Chavan et al. 2023, https://arxiv.org/abs/2306.07967.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    LEAST,
    BaseRows,
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
    gamma,
)
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape
from modpkg.adapters.peft_config import check_keys

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_PARTS = ("Xd", "Xu", "X", "zeros")
_TRAINING = ("r", "config_A_B", "config_C", "config_D_E", "init_weights", "bias")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the changes to each site's weight and bias."""
    check_keys(adapter, ignores=_TRAINING)
    changes = []
    for site in sites:
        out, inner = linear_shape(adapter, site)
        for path, extents in (
            ("A", (out, inner)),
            ("B", (out, inner)),
            ("C", (inner, 1)),
            ("D", (out,)),
            ("E", (out,)),
        ):
            _check(adapter, site, path, extents)
        roles = {role: name for role, name in site.roles.items() if role[0] in "AB"}
        changes.append(TensorChange(target=site.target, op="glora", inputs=roles))
        others = {role: name for role, name in site.roles.items() if role[0] in "CDE"}
        if site.bias is None:
            if trained := [name for role, name in others.items() if not role.endswith("zeros")]:
                raise adapter.refuse(
                    f"tensor {min(trained)!r} changes a bias, but {adapter.base_name} has none "
                    f"beside {site.target!r}"
                )
            # They are zeros, and PEFT ignores them.
            changes[-1].inputs.update(others)
            continue
        changes.append(
            TensorChange(
                target=site.bias, op="glora-bias", inputs=others, reads={"weight": site.target}
            )
        )
    return changes


def _check(adapter: Adapter, site: Site, path: str, extents: tuple[int, ...]) -> None:
    """Check the tensors of one of a site's matrices, which PEFT writes in four ways."""
    roles = {part: site.roles[f"{path}{part}"] for part in _PARTS if f"{path}{part}" in site.roles}
    if roles.keys() == {"zeros"}:
        adapter.expect(roles["zeros"], site.target, extents)
    elif roles.keys() == {"X"}:
        shape = adapter.shape(roles["X"])
        column = (extents[0], *(1 for _ in extents[1:]))
        if shape not in ((1,), column):
            raise adapter.misfit(roles["X"], site.target, column)
    elif roles.keys() == {"Xd", "Xu"} and len(extents) == 2:
        _, rank = matrix_shape(adapter, roles["Xd"])
        adapter.expect(roles["Xd"], site.target, (extents[0], rank))
        adapter.expect(roles["Xu"], site.target, (rank, extents[1]))
    else:
        tensor = min(site.roles.values())
        raise adapter.unbound(tensor, f"its tensors of glora_{path} do not go together")


def _rows(inputs: Mapping[str, Array], path: str, start: int, stop: int) -> Array | float:
    """Return rows of one of the matrices, or a number for all."""
    if f"{path}Xd" in inputs:
        product: Array = inputs[f"{path}Xd"][start:stop] @ inputs[f"{path}Xu"]
        return product
    if f"{path}X" in inputs:
        values = inputs[f"{path}X"]
        return float(values[0]) if values.shape == (1,) else values[start:stop]
    return 0.0


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · (W ⊙ A + B)."""
    change: Array = source.peek(start, stop) * _rows(inputs, "A", start, stop)
    return (change + _rows(inputs, "B", start, stop)) * term.weight


def exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    change = elements.base * _at(inputs, "A", elements) + _at(inputs, "B", elements)
    return change * term.weight


def _at(inputs: Mapping[str, Any], path: str, elements: Elements) -> Any:
    """Return one of the matrices at single elements."""
    number, row = elements.number, elements.row
    if f"{path}Xd" in inputs:
        down, up = inputs[f"{path}Xd"][row], inputs[f"{path}Xu"][:, elements.column].T
        return (number(down) * number(up)).sum()
    if f"{path}X" in inputs:
        values = inputs[f"{path}X"].reshape(-1)
        return number(values[row if len(values) > 1 else 0 * row])
    return number(0.0 * row)


def error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`."""
    total, count, under = 0.0, 8, 1 + abs(term.weight)
    for path, factor in (("A", sizes.base), ("B", 1.0)):
        parts = [inputs[role] for role in (f"{path}Xd", f"{path}Xu", f"{path}X") if role in inputs]
        rank = max(parts[0].shape[1], 1) if len(parts) == 2 else 1
        size = rank * math.prod(part.largest for part in parts) if parts else 0.0
        total, count = total + factor * size, count + rank
        under *= (1 + factor) * math.prod(1 + part.largest for part in parts) * (1 + rank)
    return Error(gamma(count) * abs(term.weight) * total + LEAST * under)


def bias_delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · (b ⊙ D + E + W C)."""
    bias = source.peek(start, stop).reshape(-1)
    change: Array = bias * _rows(inputs, "D", start, stop) + _rows(inputs, "E", start, stop)
    vector = _rows(inputs, "C", 0, inputs["weight"].shape[1])
    if not isinstance(vector, float):
        change = change + (inputs["weight"][start:stop] @ vector).reshape(-1)
    return change * term.weight


GLORA = PeftMethod(
    peft_type="GLORA",
    operator="glora",
    keys={f"glora_{path}.{part}": f"{path}{part}" for path in "ABCDE" for part in _PARTS},
    bind=bind,
    formulas=(
        Formula(name="glora", delta=delta, exact=exact, error=error, arrays=True, multiplies=True),
        Formula(name="glora-bias", delta=bias_delta, arrays=True, multiplies=True),
    ),
)
