"""The rules of the verdict, each by itself."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from modpkg.community.evaluate.protocol import TestOutcome, ValueChange
from modpkg.community.vet.verdict import (
    VET_SPEC,
    DependantResult,
    TestChange,
    correct_cases,
    count_flips,
    report_mismatch,
    verdict,
)
from modpkg.core.report import Report, Subject, TestResult, within_bounds

SUM = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64


def result(value: float, **more: Any) -> TestResult:
    fields: dict[str, Any] = {
        "test": "t",
        "suite": "m",
        "digest": SUM,
        "metric": "accuracy",
        "better": "higher",
        "low": value,
        "high": value,
        "cases": 10,
        "passed": within_bounds(value, more.get("at_least"), more.get("at_most")),
        "outcomes": SUM,
    }
    return TestResult(value=value, **(fields | more))


def change(
    before: float,
    after: float,
    *,
    spread: float = 0.0,
    negative: int = 0,
    current: bool = True,
    **more: Any,
) -> TestChange:
    """Return a change whose interval reaches ``spread`` to both sides."""
    moved = after - before
    return TestChange(
        before=result(before, **more),
        after=result(after, **more),
        difference=ValueChange(moved, moved - spread, moved + spread),
        judged=True,
        negative=negative,
        positive=0,
        current=current,
    )


SAME = change(0.9, 0.9)


def dependant(*changes: TestChange, state: Any = "tested", reason: str = "") -> DependantResult:
    return DependantResult(
        name="d", version="1.0", kind="head", state=state, reason=reason, changes=list(changes)
    )


def decide(
    *changes: TestChange,
    dependants: tuple[DependantResult, ...] = (),
    earlier: bool = True,
    mismatch: str = "",
    listed: bool = True,
) -> tuple[str, str]:
    return verdict(
        list(changes), list(dependants), earlier=earlier, mismatch=mismatch, listed=listed
    )


def test_change_is_of_a_current_test_by_default() -> None:
    fields = {name: getattr(SAME, name) for name in SAME.__struct_fields__ if name != "current"}
    assert TestChange(**fields).current


def test_report_format_has_version_1() -> None:
    assert VET_SPEC == 1


# One change ------------------------------------------------------------------------------------


def test_loss_beyond_the_tolerance_is_worse() -> None:
    assert not change(0.9, 0.8, tolerance=0.1).worse
    assert change(0.9, 0.79, tolerance=0.1).worse
    assert not change(0.9, 0.95).worse
    assert change(0.5, 0.6, better="lower").worse
    assert not change(0.5, 0.4, better="lower").worse


@pytest.mark.parametrize(("before", "after", "better"), [(0.9, 0.7, "higher"), (0.7, 0.9, "lower")])
def test_loss_is_certain_if_its_whole_interval_is_beyond_the_tolerance(
    before: float, after: float, better: str
) -> None:
    def certain(spread: float, tolerance: float = 0.0) -> bool:
        return change(before, after, spread=spread, better=better, tolerance=tolerance).certain

    assert certain(0.19)
    assert not certain(0.21)
    assert certain(0.05, tolerance=0.14)
    assert not certain(0.05, tolerance=0.16)


def test_loss_of_exactly_the_tolerance_is_neither_worse_nor_certain() -> None:
    exact = change(0.5, 0.25, tolerance=0.25)
    assert not exact.worse
    assert not exact.certain


def test_gain_is_never_certain_to_be_a_loss() -> None:
    assert not change(0.7, 0.9).certain
    assert not change(0.9, 0.7, better="lower").certain


def test_broken_is_passed_before_and_failing_now() -> None:
    assert change(0.9, 0.7, at_least=0.8).broken
    assert not change(0.7, 0.6, at_least=0.8).broken
    assert not change(0.7, 0.9, at_least=0.8).broken
    assert not SAME.broken


# The rules, in order ---------------------------------------------------------------------------


def test_contradicted_report_is_rejected_before_anything_else() -> None:
    assert decide(SAME, earlier=False, mismatch="It is wrong.") == ("reject", "It is wrong.")


def test_first_release_is_rejected_if_it_fails_its_own_tests() -> None:
    failing = change(0.5, 0.5, at_least=0.8)
    other = change(0.5, 0.5, at_least=0.8, test="x")
    assert decide(SAME, failing, earlier=False) == ("reject", "It fails test 't' of m.")
    assert decide(failing, other, other, earlier=False) == (
        "reject",
        "It fails test 't' of m (and 2 more).",
    )
    assert decide(SAME, earlier=False)[0] == "needs-a-person"


def test_broken_dependant_is_rejected() -> None:
    broken = dependant(state="broken", reason="cannot run with it")
    assert decide(SAME, dependants=(broken,)) == ("reject", "d 1.0 cannot run with it.")


def test_test_that_fails_now_is_rejected_even_within_the_margin_of_error() -> None:
    word, reason = decide(change(0.9, 0.7, spread=0.5, at_least=0.8))
    assert (word, reason) == (
        "reject",
        "It fails test 't' of m: accuracy went from 0.9 to 0.7.",
    )


def test_certain_loss_is_rejected() -> None:
    word, reason = decide(change(0.9, 0.7, spread=0.1))
    assert (word, reason) == (
        "reject",
        "It is worse at test 't' of m: accuracy went from 0.9 to 0.7.",
    )


def test_uncertain_loss_needs_a_person() -> None:
    word, reason = decide(change(0.9, 0.7, spread=0.3))
    assert word == "needs-a-person"
    assert "(within the margin of error)" in reason


def test_a_regression_of_a_dependant_counts() -> None:
    word, reason = decide(SAME, dependants=(dependant(change(0.9, 0.7)),))
    assert (word, reason) == (
        "reject",
        "With it, d 1.0 is worse at test 't' of m: accuracy went from 0.9 to 0.7.",
    )


@pytest.mark.parametrize(
    "lost", [change(0.9, 0.7, current=False), change(0.9, 0.7, at_least=0.8, current=False)]
)
def test_loss_at_a_test_of_the_earlier_release_only_needs_a_person(lost: TestChange) -> None:
    word, reason = decide(SAME, lost)
    assert word == "needs-a-person"
    assert "(only the earlier release declares it)" in reason
    assert decide(lost, change(0.9, 0.6))[0] == "reject"


def test_losses_are_counted() -> None:
    lost = change(0.9, 0.7), change(0.9, 0.6, test="x")
    assert decide(*lost)[1] == (
        "It is worse at test 't' of m: accuracy went from 0.9 to 0.7 (and 1 more)."
    )
    unsure = change(0.9, 0.7, spread=0.3), change(0.9, 0.7, test="x", current=False)
    assert decide(*unsure, unsure[1])[1] == (
        "It is worse at test 't' of m: accuracy went from 0.9 to 0.7 (within the margin of error) "
        "(and 2 more)."
    )


def test_tolerated_loss_is_accepted() -> None:
    assert decide(change(0.9, 0.85, tolerance=0.1))[0] == "accept"


def test_without_any_test_a_person_decides() -> None:
    assert decide() == ("needs-a-person", "Neither the module nor its dependants have tests.")


def test_test_that_failed_before_needs_a_person() -> None:
    failing = change(0.5, 0.5, at_least=0.8)
    assert decide(SAME, failing) == ("needs-a-person", "It fails test 't' of m, as before.")
    word, reason = decide(
        SAME, dependants=(dependant(failing, change(0.5, 0.5, at_least=0.8, test="x")),)
    )
    assert (word, reason) == (
        "needs-a-person",
        "d 1.0 fails test 't' of m, as before (and 1 more).",
    )


def test_untested_dependant_needs_a_person() -> None:
    skipped = dependant(state="not tested", reason="timed out")
    other = dependant(state="not tested", reason="crashed")
    assert decide(SAME, dependants=(skipped, other)) == (
        "needs-a-person",
        "d 1.0 could not be tested (timed out) (and 1 more).",
    )


@pytest.mark.parametrize("state", ["no tests", "not allowed"])
def test_dependant_without_tests_or_out_of_range_is_no_obstacle(state: str) -> None:
    assert decide(SAME, dependants=(dependant(state=state),))[0] == "accept"


def test_unlisted_dependants_need_a_person() -> None:
    assert decide(SAME, listed=False)[0] == "needs-a-person"
    assert verdict([SAME], [], earlier=True, mismatch="")[0] == "accept"


def test_success_counts_tests_dependants_and_flips() -> None:
    assert decide(SAME) == ("accept", "No regressions in 1 test.")
    assert decide(dependants=(dependant(SAME),)) == ("accept", "No regressions in 1 dependant.")
    flipped = change(0.9, 0.9, negative=2)
    untested = dependant(state="no tests")
    assert decide(
        SAME, flipped, dependants=(dependant(replace(flipped, negative=1)), untested)
    ) == (
        "accept",
        "No regressions in 2 tests and 1 dependant; 3 cases turned wrong.",
    )


# Cases -----------------------------------------------------------------------------------------


def outcome(*rows: list[float], right: list[bool] | None = None) -> TestOutcome:
    return TestOutcome(value=0.5, low=0.5, high=0.5, better="higher", rows=list(rows), right=right)


def test_metric_decides_which_cases_are_right() -> None:
    judged = outcome([0.0], [0.0], right=[True, False])
    assert correct_cases(judged, result(0.5, at_least=0.9)) == [True, False]


def test_bound_decides_which_cases_of_a_metric_of_degree_are_right() -> None:
    rows = outcome([0.4], [0.5], [0.6])
    assert correct_cases(rows, result(0.5, at_least=0.5)) == [False, True, True]
    assert correct_cases(rows, result(0.5, at_most=0.5)) == [True, True, False]
    assert correct_cases(rows, result(0.5, at_least=0.4, at_most=0.6)) is None
    assert correct_cases(rows, result(0.5)) is None
    assert correct_cases(outcome([0.4, 1.0]), result(0.5, at_least=0.5)) is None
    assert correct_cases(outcome([]), result(0.5, at_least=0.5)) is None


def test_flips_are_counted_both_ways() -> None:
    before, after = [True, True, True, True, False], [False, True, True, True, True]
    assert count_flips(before, after) == (1, 1)
    assert count_flips([True, True, True], [False, False, True]) == (2, 0)
    with pytest.raises(ValueError, match="shorter"):
        count_flips([True, True], [True])
    assert count_flips(None, [True]) is None
    assert count_flips([True], None) is None


# Reports ---------------------------------------------------------------------------------------


def report(*results: TestResult) -> Report:
    return Report(
        subject=Subject("m", "1.0", "base"), composition=SUM, engine="1", results=list(results)
    )


def test_report_agrees_up_to_rounding() -> None:
    measured = report(result(0.9))
    assert report_mismatch(measured, measured) == ""
    assert report_mismatch(report(), measured) == ""
    assert report_mismatch(report(result(0.90009)), measured) == ""
    assert report_mismatch(report(result(0.9002)), measured) == (
        "Its report gives accuracy 0.9002 for test 't' of m, but 0.9 was measured."
    )
    assert report_mismatch(report(result(0.00009)), report(result(0.0))) == ""
    assert report_mismatch(report(result(500.04)), report(result(500.0))) == ""
    assert report_mismatch(report(result(500.06)), report(result(500.0))) != ""


@pytest.mark.parametrize("field", [{"digest": OTHER}, {"suite": "x"}, {"test": "x"}])
def test_report_of_another_test_is_a_mismatch(field: dict[str, str]) -> None:
    reported = report(replace(result(0.9), **field))
    assert "which it does not declare" in report_mismatch(reported, report(result(0.9)))
