"""Spherical methods, and others whose result is a linear combination of whole tensors.

They depend only on the tensors' norms and angles. A first pass computes the inner products of base
and deltas, a few coefficients follow from these, and a second pass computes each row as a weighted
sum: memory is that of a few rows, whatever the tensor's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modpkg.compose.parameter import REQUIRED
from modpkg.compose.reducers import together
from modpkg.compose.reducers.reducer import Blocks, Contribution, reducer
from modpkg.compose.reducers.weighted import add_scaled
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

Products = list[list[float]]
_NEARLY_ONE = 0.9995


def products(blocks: Blocks, **_: object) -> Products:
    """Return the inner products of [base, delta_1, …] over the whole tensor."""
    inner: Products = []
    for base, contributions in blocks():
        flat = [base, *(contribution.delta for contribution in contributions)]
        inner = inner or [[0.0] * len(flat) for _ in flat]
        for row, one in enumerate(flat):
            for column in range(row, len(flat)):
                # Not np.dot: BLAS would split the sum by the number of cores.
                inner[row][column] += float((one * flat[column]).sum())
                inner[column][row] = inner[row][column]
    return inner


def models(inner: Products) -> Products:
    """Return the inner products of the models [base, base + delta_1, …]."""
    own = inner[0][0]
    size = range(len(inner))

    def of(row: int, column: int) -> float:
        value = own
        if row:
            value += inner[row][0]
        if column:
            value += inner[0][column]
        if row and column:
            value += inner[row][column]
        return value

    return [[of(row, column) for column in size] for row in size]


def length(inner: Products, index: int) -> float:
    return math.sqrt(max(inner[index][index], 0.0))


def cosine(inner: Products, one: int, other: int, least: float = 0.0) -> float:
    """Return the cosine between two; a vector shorter than ``least`` is divided by 1 instead."""
    lengths = [length(inner, index) for index in (one, other)]
    lengths = [value if value > least else 1.0 for value in lengths]
    return max(-1.0, min(1.0, inner[one][other] / (lengths[0] * lengths[1])))


def arc(cos: float, t: float, *, straight: bool) -> tuple[float, float]:
    """Return the coefficients of an arc's two ends at ``t``; of a line's if ``straight``."""
    if straight:
        return 1 - t, t
    theta = math.acos(cos)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def combined(base: Array, contributions: Sequence[Contribution], factors: Sequence[float]) -> Array:
    """Return factors[0] · base + Σ factors[i] · delta_i."""
    base *= factors[0]
    for contribution, factor in zip(contributions, factors[1:], strict=True):
        base += contribution.delta * factor
    return base


def of_models(factors: Sequence[float]) -> list[float]:
    """Return the factors of [base, delta_1, …] for those of the models."""
    return [math.fsum(factors), *factors[1:]]


@reducer("slerp", steps=(1, 1), relative="nuslerp", weighted=False, measure=products)
def slerp(
    base: Array, contributions: Sequence[Contribution], inner: Products, *, t: float = REQUIRED
) -> Array:
    """``slerp``: from the base (t = 0) to the step's model (t = 1) along the arc between them.

        sin((1 − t)θ) / sin θ · base + sin(tθ) / sin θ · x

    θ is the angle between the tensors as vectors; linear where |cos θ| > 0.9995.
    Shoemake 1985, https://doi.org/10.1145/325334.325242.
    """
    cos = cosine(models(inner), 0, 1, least=1e-8)
    return combined(base, contributions, of_models(arc(cos, t, straight=abs(cos) > _NEARLY_ONE)))


@reducer("multislerp", check=together.multislerp, bounds={"eps": (1e-30, 1.0)}, measure=products)
def multislerp(
    base: Array,
    contributions: Sequence[Contribution],
    inner: Products,
    *,
    from_base: bool = True,
    base_weight: float = 1.0,
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Array:
    """``multislerp``: a weighted mean on a sphere, in the tangent space at the normalised mean.

    Of the deltas if from_base, else of the models (the base with base_weight):

        u_i = x_i / |x_i|;  m = Σ w_i u_i / |Σ w_i u_i|;  v = Σ w_i (u_i − (u_i·m) m)
        result = (Σ w_i |x_i|) · (cos|v| · m + sin|v| · v/|v|)

    Two that cancel are interpolated linearly. Goddard 2025,
    https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """
    weights = [contribution.weight for contribution in contributions]
    table = [row[1:] for row in inner[1:]]
    if not from_base:
        weights, table = [base_weight, *weights], models(inner)
    if len(weights) == 1:
        return combined(base, contributions, [1.0, 1.0])
    if normalize_weights:
        weights = [weight / sum(weights) for weight in weights]
    factors = _around(table, weights, eps)
    return combined(base, contributions, [1.0, *factors] if from_base else of_models(factors))


def _around(table: Products, weights: Sequence[float], eps: float) -> list[float]:
    """Return the factors of the vectors in their mean on the sphere."""
    size = range(len(weights))
    lengths = [length(table, index) for index in size]
    unit = [[table[i][j] / ((lengths[i] + eps) * (lengths[j] + eps)) for j in size] for i in size]
    norm = math.sqrt(max(sum(weights[i] * weights[j] * unit[i][j] for i in size for j in size), 0))
    if norm < eps and (len(weights) == 2 or not any(lengths)):
        return list(weights)
    if norm < eps:
        raise ValueError("its vectors cancel each other; use other weights")
    mean = [weight / norm for weight in weights]
    dots = [sum(unit[i][j] * mean[j] for j in size) for i in size]
    slope = sum(weights[i] * dots[i] for i in size)
    tangent = [weights[i] - slope * mean[i] for i in size]
    far = sum(tangent[i] * tangent[j] * unit[i][j] for i in size for j in size)
    angle = math.sqrt(max(far, 0)) + eps
    reach = sum(weights[i] * lengths[i] for i in size)
    return [
        reach
        * (mean[i] * math.cos(angle) + tangent[i] * math.sin(angle) / angle)
        / (lengths[i] + eps)
        for i in size
    ]


@reducer(
    "karcher",
    weighted=False,
    relative="multislerp",
    bounds={"max_iter": (0, 10_000), "tol": (1e-15, 1.0)},
    measure=products,
)
def karcher(
    base: Array,
    contributions: Sequence[Contribution],
    inner: Products,
    *,
    with_base: bool = True,
    max_iter: int = 10,
    tol: float = 1e-5,
) -> Array:
    """``karcher``: the Karcher mean of the models' directions, scaled to their mean norm.

    Each round the mean moves to cos|v| · m + sin|v| · v/|v| with v = Σ α_i θ_i / sin θ_i · (u_i −
    cos θ_i · m), until |v| < tol or max_iter rounds. Karcher 1977,
    https://doi.org/10.1002/cpa.3160300502.
    """
    table = models(inner)
    if not with_base:
        table = [row[1:] for row in table[1:]]
    if len(table) == 1:
        return combined(base, contributions, [1.0, 1.0])
    factors = _karcher(table, max_iter, tol)
    return combined(base, contributions, of_models(factors if with_base else [0.0, *factors]))


def _karcher(table: Products, rounds: int, tol: float) -> list[float]:
    lengths = [length(table, index) for index in range(len(table))]
    valid = [index for index, value in enumerate(lengths) if value > tol]
    if not valid:
        return [0.0] * len(table)
    unit = {i: {j: table[i][j] / (lengths[i] * lengths[j]) for j in valid} for i in valid}
    alpha = 1 / len(valid)

    def size(v: dict[int, float]) -> float:
        return math.sqrt(max(sum(v[i] * v[j] * unit[i][j] for i in valid for j in valid), 0))

    mean = dict.fromkeys(valid, alpha)
    if (norm := size(mean)) < tol:
        mean = {index: float(index == valid[0]) for index in valid}
    else:
        mean = {index: value / norm for index, value in mean.items()}
    for _ in range(rounds):
        tangent = dict.fromkeys(valid, 0.0)
        for i in valid:
            dot = max(-1.0, min(1.0, sum(mean[j] * unit[i][j] for j in valid)))
            theta = math.acos(dot)
            if theta < tol:
                continue
            pull = alpha * theta / math.sin(theta)
            for j in valid:
                tangent[j] += pull * ((i == j) - dot * mean[j])
        if (norm := size(tangent)) < tol:
            break
        mean = {j: math.cos(norm) * mean[j] + math.sin(norm) * tangent[j] / norm for j in valid}
        if (norm := size(mean)) > tol:
            mean = {j: value / norm for j, value in mean.items()}
    reach = sum(lengths) / len(lengths)
    return [reach * mean[i] / lengths[i] if i in mean else 0.0 for i in range(len(lengths))]


@reducer("model-stock", steps=(2, None), relative="slerp", weighted=False, measure=products)
def model_stock(
    base: Array,
    contributions: Sequence[Contribution],
    inner: Products,
    *,
    filter_wise: bool = False,
) -> Array:
    """``model-stock``: between the base and the mean of n models, by the angle of their deltas.

        t = n cos θ / (1 + (n − 1) cos θ);  result = t · mean + (1 − t) · base

    θ is the mean angle between the deltas, per tensor, or per row if filter_wise (a vector is one
    row). Jang et al. 2024, https://arxiv.org/abs/2403.19522.
    """
    count = len(contributions)
    mean = contributions[0].delta.copy()
    for contribution in contributions[1:]:
        mean += contribution.delta
    mean /= count
    if filter_wise and base.shape[1] > 1:
        cos = _row_cosines(contributions)
        below = 1 + (count - 1) * cos
        flat = np.abs(below) < 1e-6
        below[flat] = 1.0
        mean *= np.where(flat, 0.0, count * cos / below)
        return add_scaled(base, mean)
    pairs = [(i, j) for i in range(1, count + 1) for j in range(i + 1, count + 1)]
    angle = sum(
        max(-1, min(1, inner[i][j] / max(length(inner, i) * length(inner, j), 1e-6)))
        for i, j in pairs
    ) / len(pairs)
    below_ = 1 + (count - 1) * angle
    return add_scaled(base, mean, 0.0 if abs(below_) < 1e-6 else count * angle / below_)


def _row_cosines(contributions: Sequence[Contribution]) -> Array:
    """Return the mean cosine between the deltas of each row, [rows, 1]."""
    lengths = [
        np.sqrt((contribution.delta * contribution.delta).sum(axis=1))
        for contribution in contributions
    ]
    cosines = np.zeros(len(contributions[0].delta))
    for position, one in enumerate(contributions):
        for second in range(position + 1, len(contributions)):
            inner = (one.delta * contributions[second].delta).sum(axis=1)
            both = np.maximum(lengths[position] * lengths[second], 1e-6)
            cosines += np.clip(inner / both, -1, 1)
    cosines /= len(contributions) * (len(contributions) - 1) / 2
    return cosines[:, np.newaxis]
