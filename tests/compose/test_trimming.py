"""Which of several equal magnitudes are kept: those that are drawn, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from modpkg.compose.arrays import Array
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.reducers import selection
from modpkg.compose.reducers.bitmap import Bitmap
from modpkg.compose.reducers.ranking import ranks_among, sorted_vectors
from modpkg.compose.reducers.reducer import ApproximateMagnitudes, Contribution
from modpkg.compose.reducers.selection import ALL_DRAWS, RankedMagnitude, draw
from modpkg.compose.reducers.sparsified import drop_by_rank
from modpkg.compose.reducers.stream import draws_at
from modpkg.compose.reducers.trimming import TrimBounds, bounds_of, trimmed
from tests.compose.hard_tensors import Inputs

SHAPE = (400, 250)
METHODS = {"ties-mergekit": None, "ties-peft": None, "breadcrumbs": 0.05}


def fine_tune(folder: Path, dtype: str = "BF16") -> ComputedTensor:
    """Return a fine-tune like real ones: its changes are a few units in the last place."""
    rng = np.random.default_rng(5)
    start = rng.standard_normal(SHAPE) * 0.05
    end = start + rng.standard_normal(SHAPE) * 4e-4
    inputs = Inputs(folder)
    refs = [inputs.tensor(each, dtype) for each in (start, end)]
    term = Term(op="dense", weight=1.0, inputs={"values": refs[1]})
    return ComputedTensor(source=refs[0], dtype=dtype, terms=(term,), reducer="ties-mergekit")


def kept_of(computed: ComputedTensor, density: float, gamma: float | None) -> tuple[Array, Any]:
    """Return the magnitudes of a delta, and a mask of those that are kept."""
    with TensorBlocks("m", "t", computed) as blocks:
        bounds = bounds_of(blocks, 0, density, gamma)
        delta = np.concatenate(list(blocks.deltas(0)))
        got = trimmed(Contribution(delta=delta, weight=1.0), bounds)
    return np.abs(delta), got != 0


@pytest.mark.parametrize("gamma", [None, 0.05])
@pytest.mark.parametrize("density", [0.1, 0.2, 0.5])
def test_no_rows_or_columns_are_preferred(tmp_path: Path, density: float, gamma: Any) -> None:
    size, kept = kept_of(fine_tune(tmp_path), density, gamma)
    assert np.count_nonzero(kept) == int(density * size.size)
    least = size[kept].min()
    tied = size == least
    assert np.count_nonzero(tied) > 500
    assert not kept[tied].all()  # something is decided by draw
    for axis in (0, 1):
        shares = [part.mean() for part in np.array_split(kept, 4, axis=axis)]
        assert max(shares) - min(shares) < 0.01
    # Each of the tied ones has the same chance: the variance of sums over rows is binomial.
    counts, wins = tied.sum(1), (kept & tied).sum(1)
    some = counts > 0
    counts, wins = counts[some], wins[some]
    chance = wins.sum() / counts.sum()
    deviations = (wins - chance * counts) / np.sqrt(counts * chance * (1 - chance))
    assert abs(deviations.mean()) < 0.2
    assert 0.8 < deviations.std() < 1.2


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_is_drawn_depends_on_no_block(tmp_path: Path, dtype: str) -> None:
    computed = fine_tune(tmp_path, dtype)
    with TensorBlocks("m", "t", computed) as blocks:
        *whole, kept = bounds_of(blocks, 0, 0.3)
        assert kept is not None
        assert len(kept.places()) == int(0.3 * blocks.count)
        with mock.patch.object(selection, "KEPT_BITS", 2):
            assert bounds_of(blocks, 0, 0.3) == (*whole, None)
        with mock.patch("modpkg.compose.blocks.SINGLE_ELEMENTS", 977):
            *again, others = bounds_of(blocks, 0, 0.3)
        assert again == whole
        assert others is not None
        assert others.places().tolist() == kept.places().tolist()


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5])
def test_what_is_kept_is_what_the_bounds_keep(tmp_path: Path, density: float) -> None:
    with TensorBlocks("m", "t", fine_tune(tmp_path)) as blocks:
        bounds = bounds_of(blocks, 0, density)
        delta = np.concatenate(list(blocks.deltas(0)))
    got = trimmed(Contribution(delta=delta, weight=1.0), bounds)
    assert bounds.inside is not None
    inside = np.flatnonzero(got)
    assert bounds.inside.places().tolist() == inside.tolist()
    masks = bounds.inside.all_bits(0, delta.size)
    assert masks.tolist() == [-int(each) for each in (got.reshape(-1) != 0).tolist()]


def test_other_tensors_and_models_draw_others(tmp_path: Path) -> None:
    computed = fine_tune(tmp_path)
    found = []
    for tensor in ("one", "two"):
        with TensorBlocks("m", tensor, computed) as blocks:
            found.append(bounds_of(blocks, 0, 0.2))
    assert found[0].low == found[1].low
    assert found[0].stream != found[1].stream


def test_zeros_are_not_drawn_for(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    start = np.ones((10, 10))
    end = start.copy()
    end[3, 4] = 2.0
    refs = [inputs.tensor(each, "BF16") for each in (start, end)]
    term = Term(op="dense", weight=1.0, inputs={"values": refs[1]})
    computed = ComputedTensor(source=refs[0], dtype="BF16", terms=(term,), reducer="ties-mergekit")
    with TensorBlocks("m", "t", computed) as blocks:
        assert bounds_of(blocks, 0, 0.5) == TrimBounds()


@pytest.mark.parametrize("number", [100, 500, 39_000])
@pytest.mark.parametrize("unlikely", [False, True])
def test_the_limit_needs_no_places_in_memory(number: int, unlikely: bool) -> None:
    values = np.repeat([1.0, 2.0], 40_000)

    def blocks(_: float) -> Iterator[ApproximateMagnitudes]:
        for first in range(0, values.size, 1000):
            part = values[first : first + 1000]
            yield ApproximateMagnitudes(first, part.copy(), part.__getitem__)

    places = np.flatnonzero(values == 2.0)
    draws = np.sort(draws_at(3, places))
    if unlikely:  # a wrong guess of where the limit is costs another pass
        with mock.patch("modpkg.compose.reducers.selection.math.isqrt", return_value=-2):
            limit = draw(blocks, RankedMagnitude(2.0, 0, 40_000), number, 3).limit
    else:
        limit = draw(blocks, RankedMagnitude(2.0, 0, 40_000), number, 3).limit
    assert limit == int(draws[number - 1]) + 1
    bitmap = Bitmap(values.size)
    bitmap.add_at(places)
    known = draw(blocks, RankedMagnitude(2.0, 0, 40_000, bitmap), number, 3)
    assert known.limit == limit
    assert known.dropped is not None
    dropped = places[draws_at(3, places) >= np.uint64(limit)]
    assert known.dropped.places().tolist() == dropped.tolist()
    assert draw(blocks, RankedMagnitude(2.0, 0, 40_000), 40_000, 3).limit == ALL_DRAWS
    assert draw(blocks, RankedMagnitude(2.0, 0, 40_000), 0, 3).limit == 0


def test_equal_values_of_a_row_are_dropped_equally_often() -> None:
    delta = np.ones((4000, 8)) * [1, 1, 1, 1, 2, 2, 2, 3]
    parameters = {"density": 0.5, "epsilon": 0.4}
    change = Contribution(delta=delta, weight=1.0, parameters=parameters, key=b"x")
    shares = (drop_by_rank(change, 0, rescale=False) != 0).mean(0)
    wanted = 0.1 + 0.8 * np.array([1.5] * 4 + [5.0] * 3 + [7.0]) / 7
    assert np.abs(shares - wanted).max() < 0.03
    single = Contribution(delta=np.ones((4000, 1)), weight=1.0, parameters=parameters, key=b"y")
    assert abs((drop_by_rank(single, 0, rescale=False) != 0).mean() - 0.5) < 0.03


def test_a_vector_is_one_row_of_ranks(tmp_path: Path) -> None:
    inputs, rng = Inputs(tmp_path), np.random.default_rng(4)
    end = np.round(rng.standard_normal(60) * 4)  # some are equal
    refs = [inputs.tensor(each, "F32") for each in (np.zeros(60), end)]
    term = Term(op="dense", weight=1.0, inputs={"values": refs[1]})
    computed = ComputedTensor(source=refs[0], dtype="F32", terms=(term,), reducer="della")
    with TensorBlocks("m", "t", computed) as blocks:
        (order,) = sorted_vectors(blocks) or ()
        delta = np.concatenate(list(blocks.deltas(0)))

    def dropped(values: Array, first: int, ascending: Array | None) -> list[float]:
        parameters = {"density": 0.5, "epsilon": 0.4}
        change = Contribution(values, 1.0, parameters, b"x", first)
        return drop_by_rank(change, 0, ascending, rescale=True).reshape(-1).tolist()

    whole = dropped(delta.reshape(1, -1), 0, None)
    assert [x for n in range(0, 60, 7) for x in dropped(delta[n : n + 7], n, order)] == whole
    assert ranks_among(np.ones(1), np.ones(1)).tolist() == [0.5]
