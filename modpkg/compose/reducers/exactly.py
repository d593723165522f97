"""The methods whose results are sums of products, and quotients of these, without rounding.

Each function computes what the method of its name does, see `weighted` and `sparsified`, on exact
numbers of single elements. Weights and other parameters are float64, and taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from modpkg.compose.reducers.reducer import Contribution, ExactMethod, Reach
from modpkg.compose.reducers.stream import uniform_at
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.exact_numbers import Exact
    from modpkg.compose.reducers.trimming import Bounds, TrimBounds

Contributions = Sequence[Contribution]
"""Of which `Contribution.delta` is an `Exact`."""


def _added(numbers: Sequence[Exact]) -> Exact:
    total = numbers[0]
    for each in numbers[1:]:
        total = total + each
    return total


def _weighted(numbers: Sequence[Exact], contributions: Contributions) -> Exact:
    pairs = zip(numbers, contributions, strict=True)
    return _added([number * contribution.weight for number, contribution in pairs])


def _deltas(contributions: Contributions) -> list[Exact]:
    return [_delta(contribution) for contribution in contributions]


def _delta(contribution: Contribution) -> Exact:
    delta: Any = contribution.delta
    return cast("Exact", delta)


def weights_of(contributions: Contributions) -> Fraction:
    """Return the sum of the weights."""
    return sum((Fraction(contribution.weight) for contribution in contributions), Fraction(0))


def divisor_of(contributions: Contributions) -> Fraction:
    """Return what to divide by, see `weighted.divisor`."""
    weights = weights_of(contributions)
    return usable_divisor(weights)


def usable_divisor(weights: Fraction) -> Fraction:
    """Return a sum of weights, or 1 if they cancel."""
    return weights if abs(weights) >= Fraction(1e-8) else Fraction(1)


def summed(base: Exact, contributions: Contributions) -> Exact:
    """``sum``."""
    return _added([base, *_deltas(contributions)])


def task_arithmetic(
    base: Exact, contributions: Contributions, *, normalize: bool, lambda_: float
) -> Exact:
    """``task-arithmetic``."""
    return base + _normalised(_deltas(contributions), contributions, normalize) * lambda_


def _normalised(numbers: Sequence[Exact], contributions: Contributions, normalize: bool) -> Exact:
    total = _weighted(numbers, contributions)
    return total / divisor_of(contributions) if normalize else total


def linear(
    base: Exact, contributions: Contributions, *, normalize: bool, base_weight: float
) -> Exact:
    """``linear``."""
    delta = _weighted(_deltas(contributions), contributions)
    weights = Fraction(base_weight) + weights_of(contributions)
    return base + delta / weights if normalize else base * weights + delta


def mean(base: Exact, contributions: Contributions, *, with_base: bool) -> Exact:
    """``mean``."""
    delta = _weighted(_deltas(contributions), contributions)
    return base + delta / (len(contributions) + with_base)


def passthrough(base: Exact, contributions: Contributions, *, scale: float) -> Exact:
    """``passthrough``."""
    return base * scale


def fisher(base: Exact, contributions: Contributions, *, base_importance: float) -> Exact:
    """``fisher``: the importances are `Exact` too, or a number."""
    ones = base.ones()
    importances = [_importance(contribution, ones) for contribution in contributions]
    weights = [contribution.weight for contribution in contributions]
    factors = [each * weight for each, weight in zip(importances, weights, strict=True)]
    pairs = zip(_deltas(contributions), factors, strict=True)
    above = _added([delta * factor for delta, factor in pairs])
    below = _added([*factors, ones * base_importance])
    nothing = below.sign() == 0
    plain = _normalised(_deltas(contributions), contributions, True)
    mean_ = above.where(~nothing) / (below + ones.where(nothing))
    return base + mean_ + plain.where(nothing)


def _importance(contribution: Contribution, ones: Exact) -> Exact:
    importance: Any = contribution.importance
    return ones * importance if isinstance(importance, float) else cast("Exact", importance)


def nearswap(base: Exact, contributions: Contributions, *, t: float) -> Exact:
    """``nearswap``."""
    delta = _delta(contributions[0])
    most, sign = delta.ones() * t, delta.sign()
    over = (abs(delta) - most).sign() > 0
    near = delta.where(~over)
    return base + near + most.where(over & (sign > 0)) - most.where(over & (sign < 0))


def ram(base: Exact, contributions: Contributions) -> Exact:
    """``ram``."""
    return base + _shared(contributions, [Fraction(1)] * len(contributions))


def ram_plus(
    base: Exact,
    contributions: Contributions,
    counts: Sequence[Sequence[int]],
    *,
    r: float,
    alpha: float,
) -> Exact:
    """``ram-plus``, and ``ramplus-tl``."""
    return base + _shared(contributions, boosts_of(counts, r, alpha))


def boosts_of(counts: Sequence[Sequence[int]], r: float, alpha: float) -> list[Fraction]:
    """Return each delta's factor where no other has changes: 1 + r · min(shared / alone, alpha)."""
    return [
        1 + Fraction(r) * min(Fraction(shared, max(alone, 1)), Fraction(alpha))
        for shared, alone in counts
    ]


def changed(delta: Exact, epsilon: float) -> Any:
    """Return a mask of the values larger than ``epsilon`` in magnitude."""
    return (abs(delta) - delta.ones() * epsilon).sign() > 0


def _shared(contributions: Contributions, boosts: Sequence[Fraction]) -> Exact:
    """Return the mean of the changes of each value, times their delta's boost if it is one."""
    deltas = _deltas(contributions)
    masks = [
        changed(delta, contribution.parameters["epsilon"])
        for delta, contribution in zip(deltas, contributions, strict=True)
    ]
    count = sum(mask.astype(np.int64) for mask in masks)
    alone, ones = count == 1, deltas[0].ones()
    total = _added(
        [
            delta.where(mask & ~alone) + delta.where(mask & alone) * boost
            for delta, mask, boost in zip(deltas, masks, boosts, strict=True)
        ]
    )
    below = _added([ones.where(mask) for mask in masks]) + ones.where(count == 0)
    return total / below


# Sparsified -----------------------------------------------------------------------------------


def trimmed(contribution: Contribution, kept: TrimBounds) -> Exact:
    """Return the delta with all values outside of the bounds set to 0."""
    delta = _delta(contribution)
    size, ones = abs(delta), delta.ones()
    inside = np.ones(delta.shape, np.bool_)
    if kept.low == float("inf"):
        inside[:] = False
    else:
        low = kept.low if kept.low_exact is None else kept.low_exact
        beside = (size - ones * low).sign()
        inside &= beside >= 0
        if kept.low_draws is not None:
            inside &= (beside > 0) | kept.drawn(contribution.places, kept.low_draws)
    if kept.high_draws is not None:
        high = kept.high if kept.high_exact is None else kept.high_exact
        beside = (size - ones * high).sign()
        drawn = kept.drawn(contribution.places, kept.high_draws)
        inside &= (beside < 0) | ((beside == 0) & drawn)
    part = delta.where(inside)
    return part * kept.factor if kept.factor != 1.0 else part


def _trimmed(contributions: Contributions, bounds: Bounds) -> list[Exact]:
    return [trimmed(*each) for each in zip(contributions, bounds, strict=True)]


def _dropped(contributions: Contributions, seed: int, rescale: bool) -> list[Exact]:
    parts = []
    for contribution in contributions:
        density, delta = contribution.parameters["density"], _delta(contribution)
        if density < 1:
            draws = uniform_at(seed, contribution.key, contribution.places)
            delta = delta.where(draws < density)
            if rescale and density > 0:
                delta = delta / density
        parts.append(delta)
    return parts


def _disjoint(
    parts: Sequence[Exact],
    contributions: Contributions,
    *,
    votes: str = "weighted",
    divide: str = "",
) -> Exact:
    """Return `sparsified.disjoint_merge`."""
    weights = [contribution.weight for contribution in contributions]
    pairs = zip(parts, weights, strict=True)
    if votes == "weighted":
        parts = [part * weight for part, weight in pairs]
    signs = [part.sign() for part in parts]
    vote = sum(signs) if votes == "frequency" else _added(parts).sign()
    elected = np.where(vote >= 0, 1, -1)
    agreeing = [sign == elected for sign in signs]
    chosen = [part.where(mask) for part, mask in zip(parts, agreeing, strict=True)]
    if votes != "weighted":
        chosen = [part * weight for part, weight in zip(chosen, weights, strict=True)]
    total = _added(chosen)
    if not divide:
        return total
    ones = parts[0].ones()
    each = weights if divide == "weights" else [1.0] * len(weights)
    below = _added([ones.where(m) * w for m, w in zip(agreeing, each, strict=True)])
    return total / (below + ones.where(below.sign() == 0))


def ties_mergekit(
    base: Exact,
    contributions: Contributions,
    bounds: Bounds,
    *,
    normalize: bool,
    rescale: bool,
    lambda_: float,
) -> Exact:
    """``ties-mergekit``, and ``breadcrumbs-ties``."""
    parts = _trimmed(contributions, bounds)
    delta = _disjoint(parts, contributions, divide="weights" if normalize else "")
    return base + delta * lambda_


def ties_peft(
    base: Exact, contributions: Contributions, bounds: Bounds, *, majority_sign: str
) -> Exact:
    """``ties-peft``."""
    parts = _trimmed(contributions, bounds)
    return base + _disjoint(parts, contributions, votes=majority_sign, divide="count")


def ties(base: Exact, contributions: Contributions, bounds: Bounds, *, lambda_: float) -> Exact:
    """``ties``."""
    parts = _trimmed(contributions, bounds)
    return base + _disjoint(parts, contributions, votes="total", divide="count") * lambda_


def breadcrumbs(
    base: Exact,
    contributions: Contributions,
    bounds: Bounds,
    *,
    normalize: bool,
    rescale: bool,
    lambda_: float,
) -> Exact:
    """``breadcrumbs``."""
    return base + _normalised(_trimmed(contributions, bounds), contributions, normalize) * lambda_


def dare_linear(
    base: Exact,
    contributions: Contributions,
    *,
    seed: int,
    normalize: bool,
    rescale: bool,
    lambda_: float,
) -> Exact:
    """``dare-linear``."""
    parts = _dropped(contributions, seed, rescale)
    return base + _normalised(parts, contributions, normalize) * lambda_


def dare_ties(
    base: Exact,
    contributions: Contributions,
    *,
    seed: int,
    normalize: bool,
    rescale: bool,
    lambda_: float,
) -> Exact:
    """``dare-ties``."""
    parts = _dropped(contributions, seed, rescale)
    delta = _disjoint(parts, contributions, divide="weights" if normalize else "")
    return base + delta * lambda_


# How far results are from their parts -----------------------------------------------------------

Parameters = Mapping[str, Any]


def _over(divisor: Fraction | float) -> float:
    """Return 1 / |divisor|, rounded up; infinity if it is 0."""
    return float(abs(1 / Fraction(divisor))) * (1 + 1e-9) if divisor else math.inf


def _alone(contributions: Contributions, _: Any, parameters: Parameters) -> Reach:
    return Reach(1.0, [1.0] * len(contributions))


def _scaled(contributions: Contributions, measured: Any, parameters: Parameters) -> Reach:
    """Return the reach of base + lambda · Σ weight · factor · delta [/ Σ weight]."""
    scale = abs(parameters["lambda_"])
    if parameters["normalize"]:
        scale *= _over(divisor_of(contributions))
    factors = [bounds.factor for bounds in measured or ()] or [1.0] * len(contributions)
    pairs = zip(contributions, factors, strict=True)
    return Reach(1.0, [scale * abs(each.weight * factor) for each, factor in pairs])


def _of_mean(contributions: Contributions, _: Any, parameters: Parameters) -> Reach:
    share = _over(len(contributions) + parameters["with_base"])
    return Reach(1.0, [share * abs(each.weight) for each in contributions])


def _of_linear(contributions: Contributions, _: Any, parameters: Parameters) -> Reach:
    weights = Fraction(parameters["base_weight"]) + weights_of(contributions)
    if parameters["normalize"]:
        share = _over(weights)
        return Reach(1.0, [share * abs(each.weight) for each in contributions])
    return Reach(abs(float(weights)), [abs(each.weight) for each in contributions])


def _of_passthrough(_: Contributions, __: Any, parameters: Parameters) -> Reach:
    return Reach(abs(parameters["scale"]), [])


_TINY = 2.0**-200
"""Positive factors from here on have products that do not underflow."""


def _of_fisher(contributions: Contributions, _: Any, parameters: Parameters) -> Reach | None:
    """Return a reach of 1, as of any mean with non-negative weights; else none is known."""
    if parameters["base_importance"] < 0:
        return None
    for each in contributions:
        importance = np.asarray(each.importance)
        if each.weight < _TINY or not bool(np.all((importance == 0) | (importance >= _TINY))):
            return None
    return Reach(1.0, [1.0] * len(contributions))


def _disjoint_reach(
    contributions: Contributions, measured: Any, scale: float, divide: str
) -> Reach | None:
    """Return the reach of base + scale · `_disjoint`; none is known if divisors may cancel."""
    weights = [each.weight for each in contributions]
    if divide == "weights" and min(weights) < 0:
        return None
    factors = [bounds.factor for bounds in measured or ()] or [1.0] * len(contributions)
    shares = [1.0 if divide == "weights" else abs(weight) for weight in weights]
    return Reach(1.0, [1.001 * scale * s * abs(f) for s, f in zip(shares, factors, strict=True)])


def _of_ties_mergekit(c: Contributions, measured: Any, parameters: Parameters) -> Reach | None:
    divide = "weights" if parameters["normalize"] else ""
    return _disjoint_reach(c, measured, abs(parameters["lambda_"]), divide)


def _of_ties(c: Contributions, measured: Any, parameters: Parameters) -> Reach | None:
    return _disjoint_reach(c, measured, abs(parameters.get("lambda_", 1.0)), "count")


def _of_dare(
    reach: Callable[[Contributions, Any, Parameters], Reach | None],
) -> Callable[[Contributions, Any, Parameters], Reach | None]:
    """Return the reach of a method whose deltas were divided by their density."""

    def dropped(contributions: Contributions, _: Any, parameters: Parameters) -> Reach | None:
        own = reach(contributions, None, parameters)
        if own is None or not parameters["rescale"]:
            return own
        densities = [each.parameters["density"] or 1.0 for each in contributions]
        pairs = zip(own.deltas, densities, strict=True)
        return Reach(own.base, [each * _over(density) for each, density in pairs])

    return dropped


def _of_ram_plus(
    contributions: Contributions, measured: Any, parameters: Parameters
) -> Reach | None:
    """Return the reach of a mean, of deltas times their boosts."""
    boosts = boosts_of(measured, parameters["r"], parameters["alpha"])
    return Reach(1.0, [max(1.0, float(abs(boost)) * 1.001) for boost in boosts])


def _rescales(parameters: Parameters) -> bool:
    return bool(parameters["rescale"])


SUM = ExactMethod(summed, _alone)
TASK_ARITHMETIC = ExactMethod(task_arithmetic, _scaled)
LINEAR = ExactMethod(linear, _of_linear)
MEAN = ExactMethod(mean, _of_mean)
PASSTHROUGH = ExactMethod(passthrough, _of_passthrough)
NEARSWAP = ExactMethod(nearswap, _alone)
RAM = ExactMethod(ram, _alone, True)
RAM_PLUS = ExactMethod(ram_plus, _of_ram_plus, True)
FISHER = ExactMethod(fisher, _of_fisher)
TIES_MERGEKIT = ExactMethod(ties_mergekit, _of_ties_mergekit, True, _rescales)
TIES_PEFT = ExactMethod(ties_peft, _of_ties, True)
TIES = ExactMethod(ties, _of_ties, True)
BREADCRUMBS = ExactMethod(breadcrumbs, _scaled, True, _rescales)
DARE_LINEAR = ExactMethod(dare_linear, _of_dare(_scaled))
DARE_TIES = ExactMethod(dare_ties, _of_dare(_of_ties_mergekit), True)
