"""Disjoint merges by bits, against Python's fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from modpkg.compose.arrays import in_double
from modpkg.compose.kept_values import both_kept, kept_values
from modpkg.compose.narrow_floats import LAYOUTS
from modpkg.compose.reducers.bitmap import Bitmap
from modpkg.compose.reducers.single import NARROW, ThresholdCut, disjoint_merge
from modpkg.compose.reducers.trimming import threshold_cuts
from tests.compose.test_exact import nearest

LAYOUT = LAYOUTS["BF16"]


def _values(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Return bits of a base and three fine-tunes of it, near or of any kind."""
    base = rng.integers(0, 1 << 16, count)
    near = rng.choice([1, 1, 1, 2, 3, 40, 1 << 7, 1 << 11], (3, count))
    others = base + near * rng.choice([-1, 1], near.shape)
    others = np.where(rng.random(near.shape) < 0.1, rng.integers(0, 1 << 16, near.shape), others)
    return [each.astype(np.uint16) for each in (base, *others)]


@pytest.mark.parametrize("votes", ["weighted", "total"])
@pytest.mark.parametrize(
    "weights", [(1.0, 1.0), (0.5, 0.5), (0.5, 0.25), (0.75, 0.25), (0.7, 0.4), (1e-3, 30.0)]
)
def test_two_kept_values(weights: tuple[float, float], votes: str) -> None:
    single = disjoint_merge(NARROW["BF16"], weights, threshold_cuts, votes=votes, divide="weights")
    assert single is not None
    assert single.alone
    assert single.pair is not None
    models = _values(np.random.default_rng(1), 8000)[:3]
    differ = np.flatnonzero((models[0] != models[1]) & (models[0] != models[2]))
    models = [each.take(differ) for each in models]
    result = np.empty(differ.size, np.uint16)
    with np.errstate(all="ignore"):
        wide = np.empty((3, differ.size), np.float32)
        bounds = (LAYOUT.small, LAYOUT.large)
        doubt = both_kept(single.pair, models, wide, result, bounds)
    certain = np.flatnonzero(~doubt)
    assert certain.size > 800
    columns = [in_double(each.take(certain)).tolist() for each in (result, *models)]
    own = [Fraction(weight) for weight in weights]
    voting = own if votes == "weighted" else [Fraction(1)] * 2
    kinds = set()
    for got, start, *ends in zip(*columns, strict=True):
        changes = [Fraction(end) - Fraction(start) for end in ends]
        vote = sum(weight * change for weight, change in zip(voting, changes, strict=True))
        agreeing = [(change > 0) == (vote >= 0) for change in changes]
        kinds.add((*agreeing, vote == 0))
        chosen = [w for w, agrees in zip(own, agreeing, strict=True) if agrees]
        total = sum(
            weight * change
            for weight, change, agrees in zip(own, changes, agreeing, strict=True)
            if agrees
        )
        assert got == nearest(Fraction(start) + total / sum(chosen), "BF16")
    assert {(True, True, False), (False, True, False)} <= kinds
    if weights[0] == weights[1] or votes == "total":
        assert {(True, False, True), (False, True, True)} <= kinds


@pytest.mark.parametrize("count", [1, 8, 1003])
def test_values_of_which_one_or_none_is_kept(count: int) -> None:
    rng = np.random.default_rng(count)
    models = [each & 0x3FFF for each in _values(rng, count)]
    masks = [rng.random(count) < share for share in (0.1, 0.4, 0.5)]
    cuts = []
    for mask in masks:
        kept = Bitmap(count + 8)
        kept.add(8, mask)
        cuts.append(ThresholdCut(1.0, first=8, kept=kept))
    result = np.empty(count, np.uint16)
    several = kept_values(models[0], models[1:], cuts, LAYOUT.infinity, result)
    assert several is not None
    counted = np.sum(masks, axis=0)
    assert several.places.tolist() == np.flatnonzero(counted > 1).tolist()
    for mask, own in zip(masks, several.kept, strict=True):
        assert own.tolist() == mask[several.places].tolist()
    expected = models[0].copy()
    for mask, other in zip(masks, models[1:], strict=True):
        expected = np.where(mask, other, expected)
    alone = counted < 2
    assert (result[alone] == expected[alone]).all()
    assert kept_values(models[0], models[1:], cuts, int(models[2].max()), result) is None
    negative = [models[0], models[1] | np.uint16(1 << 15)]
    assert kept_values(negative[0], negative[1:], cuts[:1], int(models[1].max()), result) is None
    unknown = [cuts[0]._replace(first=4), *cuts[1:]]
    assert kept_values(models[0], models[1:], unknown, LAYOUT.infinity, result) is None
