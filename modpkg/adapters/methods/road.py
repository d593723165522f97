"""RoAd: rotates and scales pairs of a layer's outputs.

    delta = R W − W        y₀ = α cos θ · x₀ − α sin θ · x₁,  y₁ = α sin θ · x₀ + α cos θ · x₁

for pairs from the two halves of each group of outputs, the bias included. ``road_2`` has an angle
and a scale for each output, ``road_4`` for each element of R. Liao & Monz 2024,
https://arxiv.org/abs/2409.00119.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.peft_config import check_keys, choice, positive
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_SIZES = {"road_1": (1, 2), "road_2": (1, 1), "road_4": (2, 1)}
"""By variant, how many angles there are for how many outputs."""


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the changes to each site's weight and bias."""
    check_keys(adapter, reads=("variant", "group_size"), ignores=("init_weights",))
    variant = choice(adapter, "variant", "road_1", _SIZES)
    group = positive(adapter, "group_size", 64)
    if group % 2:
        raise adapter.refuse(f"its group_size is {group}, which is not even")
    changes: list[TensorChange] = []
    for site in sites:
        require(adapter, site, "theta", "alpha")
        out, _ = linear_shape(adapter, site)
        angles, outputs = _SIZES[variant]
        for tensor in site.roles.values():
            adapter.expect(tensor, site.target, (out * angles // outputs,))
        if out % group:
            raise adapter.refuse(
                f"its group_size {group} does not divide the rows of {site.target!r}"
            )
        targets = (site.target,) if site.bias is None else (site.target, site.bias)
        changes += [
            TensorChange(
                target=target,
                op="road",
                inputs=dict(site.roles),
                parameters={"variant": variant, "group": group},
            )
            for target in targets
        ]
    return changes


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors of an output itself, and of the other of its pair."""
    theta, alpha = inputs["theta"], inputs["alpha"]
    half = term.parameters["group"] // 2
    variant = term.parameters["variant"]
    if variant == "road_1":
        theta, alpha = (x.reshape(-1, 1, half).repeat(2, 1).reshape(-1) for x in (theta, alpha))
    if variant == "road_4":
        theta, alpha = (x.reshape(-1, 2, 2 * half).swapaxes(0, 1) for x in (theta, alpha))
        own, other = alpha[0] * np.cos(theta[0]), alpha[1] * np.sin(theta[1])
    else:
        own, other = alpha * np.cos(theta), alpha * np.sin(theta)
    other = other.reshape(-1, 2, half) * np.array([[-1.0], [1.0]])
    return {"own": own.reshape(-1), "other": other.reshape(-1)}


def delta(
    inputs: Mapping[str, Array], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · (R W − W)."""
    group = term.parameters["group"]
    first, last = start // group * group, -(-stop // group) * group
    rows = np.array(source.peek(first, last))
    turned = rows.reshape(-1, 2, group // 2, rows.shape[1])[:, ::-1].reshape(rows.shape)
    rows, turned = rows[start - first : stop - first], turned[start - first : stop - first]
    own, other = inputs["own"][start:stop, None], inputs["other"][start:stop, None]
    change: Array = ((own - 1.0) * rows + other * turned) * term.weight
    return change


ROAD = PeftMethod(
    peft_type="ROAD",
    operator="road",
    keys={"road_theta": "theta", "road_alpha": "alpha"},
    bind=bind,
    formulas=(Formula(name="road", delta=delta, prepare=prepare, arrays=True, multiplies=True),),
)
