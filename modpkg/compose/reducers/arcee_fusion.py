"""Arcee Fusion: only the changes that stand out of a tensor's are taken over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from modpkg.compose.reducers.reducer import Blocks, Contribution, reducer
from modpkg.compose.reducers.selection import computed_magnitudes, kth_largest, sampled
from modpkg.compose.reducers.weighted import add_scaled
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

_LEAST = 1e-8
"""Added to every probability."""


class Salience(NamedTuple):
    """What is measured over a tensor."""

    width: int
    """Elements of a vector of the tensor's last dimension."""
    whole: float | None
    """The divergence of a tensor that is one vector; None: each block has whole vectors."""
    threshold: float
    """The smallest importance of a change that is taken over."""


def divergence(base: Array, model: Array) -> Array:
    """Return KL(softmax(model) ‖ softmax(base)) of each row of two matrices, [rows, 1]."""
    p, q = (_softmax(each) + _LEAST for each in (model, base))
    found: Array = np.maximum((p * np.log(p / q)).sum(axis=1, keepdims=True), 0.0)
    return found


def _softmax(rows: Array) -> Array:
    powers: Array = np.exp(rows - rows.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _divergence_of_vector(blocks: Blocks) -> float:
    """Return `divergence` of a tensor that is one vector, read in blocks."""

    def pairs() -> Iterator[tuple[Array, Array]]:
        return ((base, base + changes[0].delta) for base, changes in blocks())

    top = [-np.inf, -np.inf]
    for pair in pairs():
        top = [max(most, float(each.max())) for most, each in zip(top, pair, strict=True)]
    total = [0.0, 0.0]
    for pair in pairs():
        for number, each in enumerate(pair):
            total[number] += float(np.exp(each - top[number]).sum())
    found = 0.0
    for pair in pairs():
        q, p = (
            np.exp(each - most) / below + _LEAST
            for each, most, below in zip(pair, top, total, strict=True)
        )
        found += float((p * np.log(p / q)).sum())
    return max(found, 0.0)


def importance(base: Array, delta: Array, width: int, whole: float | None) -> Array:
    """Return |delta| times the divergence of the vector that it is in, shaped like the rows."""
    size = np.abs(delta)
    if whole is not None:
        return size * whole
    rows = base.reshape(-1, width)
    return (size.reshape(-1, width) * divergence(rows, rows + delta.reshape(-1, width))).reshape(
        base.shape
    )


def salience(blocks: Blocks) -> Salience:
    """Return the threshold of a tensor: the median + 1.5 · (q₃ − q₁) of its importances."""
    width = blocks.shape[-1] if len(blocks.shape) > 1 else blocks.count
    if not blocks.count:
        return Salience(width, None, 0.0)
    whole = _divergence_of_vector(blocks) if width == blocks.count else None

    def importances() -> Iterator[Array]:
        return (
            importance(base, changes[0].delta, width, whole).reshape(-1)
            for base, changes in blocks()
        )

    sample = np.concatenate([sampled(block, blocks.count) for block in importances()])
    approximate = computed_magnitudes(importances)

    def quantile(share: float) -> float:
        """Return the value at a share of the ascending order, the lower one of two."""
        rank = blocks.count - int(share * (blocks.count - 1))
        return kth_largest(approximate, importances, sample, rank, blocks.count).value

    threshold = quantile(0.5) + 1.5 * (quantile(0.75) - quantile(0.25))
    return Salience(width, whole, threshold)


@reducer("arcee-fusion", steps=(1, 1), relative="sce", weighted=False, measure=salience)
def arcee_fusion(base: Array, contributions: Sequence[Contribution], measured: Salience) -> Array:
    """``arcee-fusion``: the step's values where their importance is an outlier of the tensor's.

        |delta| · KL(softmax(x) ‖ softmax(base)) >= median + 1.5 · (q₃ − q₁)

    Each vector of the last dimension has its divergence, 1e-8 being added to all probabilities;
    the quantiles are those of all importances of the tensor. Goddard 2025,
    https://github.com/arcee-ai/mergekit.
    """
    delta = contributions[0].delta
    chosen = importance(base, delta, measured.width, measured.whole) >= measured.threshold
    return add_scaled(base, delta * chosen)
