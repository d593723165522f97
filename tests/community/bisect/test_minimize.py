"""The search for a smallest failing set: laws over random failing sets, orders and gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.community.bisect.minimize import Smallest, Units, Verdict, boundary, smallest_bad

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.UNKNOWN


class Counted:
    """A test that remembers, and counts what it had to find out."""

    def __init__(self, needs: Sequence[Units], answer: Callable[[Units], Verdict]) -> None:
        self.needs = needs
        self.answer = answer
        self.known: dict[Units, Verdict] = {}

    def __call__(self, units: Units) -> Verdict:
        assert units, "that nothing fails by itself is given"
        assert units != frozenset(range(len(self.needs))), "that all fail together is given"
        for unit in units:
            assert self.needs[unit] <= units, "a set without what its units need was tested"
        if units not in self.known:
            self.known[units] = self.answer(units)
        return self.known[units]


def closed(needs: Sequence[Units], units: Units) -> Units:
    return units.union(*(needs[unit] for unit in units))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Units], list[Units]]:
    """What each unit needs, and the smallest failing sets (closed, none inside another)."""
    count = draw(st.integers(1, 24))
    needs: list[Units] = []
    for unit in range(count):
        direct = draw(st.sets(st.integers(0, unit - 1), max_size=2)) if unit else set()
        sparse = direct if draw(st.integers(0, 3)) == 0 else set()
        needs.append(closed(needs, frozenset(sparse)))
    sets = st.frozensets(st.integers(0, count - 1), min_size=1, max_size=3)
    failing = {closed(needs, units) for units in draw(st.lists(sets, min_size=1, max_size=3))}
    smallest = [units for units in failing if not any(other < units for other in failing)]
    return needs, smallest


@settings(max_examples=80)
@given(problems())
def test_where_failing_is_monotone_the_set_is_minimal_and_found_in_few_tests(
    problem: tuple[list[Units], list[Units]],
) -> None:
    needs, failing = problem
    test = Counted(needs, lambda units: BAD if any(f <= units for f in failing) else GOOD)
    found = smallest_bad(needs, test)
    assert found.units in failing
    assert found.unproved == frozenset()
    assert closed(needs, found.culprits) == found.units
    logarithm = math.ceil(math.log2(len(needs)))
    assert len(test.known) <= len(found.culprits) * (logarithm + 2)
    if len(found.units) == 1:
        assert len(test.known) <= logarithm + 1


def check_truthful(needs: Sequence[Units], test: Counted, found: Smallest) -> None:
    everything = frozenset(range(len(needs)))
    assert found.units == everything or test.known[found.units] is BAD
    for unit in found.culprits:
        without = found.units - {unit}
        expected = UNKNOWN if unit in found.unproved else GOOD
        assert without == frozenset() or test.known[without] is expected
    assert len(test.known) <= len(needs) * (3 * len(needs) + 1)


@settings(max_examples=60)
@given(problems(), st.randoms(use_true_random=False))
def test_any_answers_end_in_a_truthful_result(
    problem: tuple[list[Units], list[Units]], rng: object
) -> None:
    needs, _ = problem
    test = Counted(needs, lambda units: rng.choice([GOOD, BAD, UNKNOWN]))  # type: ignore[attr-defined]
    check_truthful(needs, test, smallest_bad(needs, test))


@settings(max_examples=60)
@given(problems(), st.data())
def test_a_failing_set_is_found_despite_untestable_sets(
    problem: tuple[list[Units], list[Units]], data: st.DataObject
) -> None:
    needs, failing = problem
    blocker = data.draw(st.integers(0, len(needs) - 1))

    def answer(units: Units) -> Verdict:
        if blocker in units:
            return UNKNOWN
        return BAD if any(f <= units for f in failing) else GOOD

    test = Counted(needs, answer)
    found = smallest_bad(needs, test)
    check_truthful(needs, test, found)
    if found.units != frozenset(range(len(needs))):
        assert found.units in failing


@given(st.integers(1, 2000), st.data())
def test_a_boundary_is_found_in_the_logarithm(length: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, length))
    asked: list[int] = []

    def test(place: int) -> Verdict:
        asked.append(place)
        return BAD if place >= first else GOOD

    assert boundary(length, test) == (first - 1, first)
    assert len(asked) <= math.ceil(math.log2(length))
    assert len(set(asked)) == len(asked)


@given(st.integers(1, 60), st.data())
def test_a_boundary_with_gaps_is_as_narrow_as_they_allow(length: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, length))
    gaps = data.draw(st.sets(st.integers(0, length)))
    asked: list[int] = []

    def test(place: int) -> Verdict:
        asked.append(place)
        return UNKNOWN if place in gaps else BAD if place >= first else GOOD

    low, high = boundary(length, test)
    assert low < first <= high
    assert all(place in gaps for place in range(low + 1, high))
    assert 0 not in asked
    assert length not in asked
    assert len(set(asked)) == len(asked)


def test_a_pair_and_a_third_that_a_member_needs() -> None:
    needs = [frozenset[int]()] * 9 + [frozenset({2})]
    test = Counted(needs, lambda units: BAD if {5, 9} <= units else GOOD)
    found = smallest_bad(needs, test)
    assert found == Smallest(frozenset({2, 5, 9}), frozenset({5, 9}), frozenset())


@pytest.mark.parametrize(
    ("length", "first", "gaps", "expected", "places"),
    [
        (1, 1, (), (0, 1), []),
        (2, 1, (), (0, 1), [1]),
        (2, 2, (), (1, 2), [1]),
        (2, 2, (1,), (0, 2), [1]),
        (3, 2, (), (1, 2), [1, 2]),
        (8, 6, (), (5, 6), [4, 6, 5]),
        (10, 7, (5, 6), (4, 7), [5, 2, 7, 3, 4, 6]),
        (9, 9, (4,), (8, 9), [4, 6, 7, 8]),
        (9, 1, (4,), (0, 1), [4, 6, 2, 1]),
        (4, 2, (1, 2, 3), (0, 4), [2, 1, 3]),
    ],
)
def test_places_asked_for_a_boundary(
    length: int, first: int, gaps: tuple[int, ...], expected: tuple[int, int], places: list[int]
) -> None:
    """The widest gap is halved; of equal ones the first."""
    asked: list[int] = []

    def test(place: int) -> Verdict:
        asked.append(place)
        return UNKNOWN if place in gaps else BAD if place >= first else GOOD

    assert boundary(length, test) == expected
    assert asked == places


FREE = frozenset[int]()


def searched(
    needs: Sequence[Units], answer: Callable[[Units], Verdict]
) -> tuple[Smallest, list[list[int]]]:
    """Return what is found, and the sets that were tested, in order."""
    test = Counted(needs, answer)
    found = smallest_bad(needs, test)
    return found, [sorted(units) for units in test.known]


def only(*units: int, unproved: Sequence[int] = (), needed: Sequence[int] = ()) -> Smallest:
    return Smallest(frozenset({*units, *needed}), frozenset(units), frozenset(unproved))


def test_sets_tested_for_one_culprit() -> None:
    found, tested = searched([FREE] * 8, lambda units: BAD if 5 in units else GOOD)
    assert found == only(5)
    assert tested == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [5]]


def test_sets_tested_for_two_culprits() -> None:
    found, tested = searched([FREE] * 4, lambda units: BAD if {1, 3} <= units else GOOD)
    assert found == only(1, 3)
    assert tested == [[0, 1], [0, 1, 2], [3], [0, 3], [0, 1, 3], [1, 3], [1]]


def test_all_units_together_need_no_test() -> None:
    found, tested = searched([FREE] * 2, lambda units: GOOD)
    assert found == only(0, 1)
    assert tested == [[0], [1]]
    assert searched([FREE], lambda units: GOOD) == (only(0), [])


def test_what_a_culprit_needs_is_kept_and_is_no_culprit() -> None:
    needs = [FREE, FREE, frozenset({0}), FREE]
    found, tested = searched(needs, lambda units: BAD if 2 in units else GOOD)
    assert found == only(2, needed=[0])
    assert tested == [[0, 1], [0, 1, 2], [0, 2], [0]]


def test_culprit_without_which_nothing_can_be_tested_is_unproved() -> None:
    """Without 2, the rest is unknown; without 0, it passes."""

    def answer(units: Units) -> Verdict:
        if 0 in units and 2 not in units:
            return UNKNOWN
        return BAD if {0, 2} <= units else GOOD

    found, tested = searched([FREE] * 3, answer)
    assert found == only(0, 2, unproved=[2])
    assert tested == [[0], [0, 1], [2], [1, 2], [0, 2]]


def test_backwards_order_has_what_a_unit_needs_before_it() -> None:
    """Every set that has unit 0 is unknown, so that forwards nothing is found."""
    needs = [FREE, FREE, frozenset({1}), FREE]

    def answer(units: Units) -> Verdict:
        return UNKNOWN if 0 in units else BAD if 2 in units else GOOD

    found, tested = searched(needs, answer)
    assert found == only(2, needed=[1])
    assert tested == [[0, 1], [0], [0, 1, 2], [1, 3], [1, 2, 3], [1, 2], [1]]


def test_gap_of_the_one_order_is_closed_by_the_other() -> None:
    """Forwards, 1 or 2 breaks it, as 0 and 1 alone are unknown; backwards, it is 1."""

    def answer(units: Units) -> Verdict:
        return UNKNOWN if units == {0, 1} else BAD if 1 in units else GOOD

    found, tested = searched([FREE] * 4, answer)
    assert found == only(1)
    assert tested == [[0, 1], [0], [0, 1, 2], [0, 2], [1]]


def test_superfluous_unit_is_left_out() -> None:
    """All sets of neighbours are unknown, so that both orders end with everything."""
    found, tested = searched([FREE] * 3, lambda units: BAD if units == {0, 2} else UNKNOWN)
    assert found == only(0, 2, unproved=[0, 2])
    assert tested == [[0], [0, 1], [2], [1, 2], [0, 2]]


def test_proof_starts_again_after_a_unit_was_left_out() -> None:
    """That 3 is needed could not be tested with 1, and that 2 is was; both are tested again."""
    answers = {frozenset({0, 2, 3}): BAD}
    answers |= dict.fromkeys(map(frozenset, ((0, 1, 3), (0, 2), (0, 3))), GOOD)
    found, tested = searched([FREE] * 4, lambda units: answers.get(units, UNKNOWN))
    assert found == only(0, 2, 3, unproved=[0])
    assert tested[:6] == [[0, 1], [0], [0, 1, 2], [2, 3], [3], [1, 2, 3]]
    assert tested[6:] == [[0, 1, 3], [0, 2, 3], [0, 2], [0, 3]]
