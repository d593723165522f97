"""Reports: equal bytes for equal inputs, and which tests regressed."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modpkg.community.evaluate.protocol import TestOutcome
from modpkg.community.evaluate.report import (
    ROUNDING,
    TestRun,
    describe_result,
    junit_xml,
    loss,
    regressions,
)
from modpkg.core.report import (
    Report,
    Subject,
    TestResult,
    parse_report,
    report_bytes,
    within_bounds,
)
from tests.raising import raises

SUM = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64


def result(value: float = 0.9, test: str = "t", **more: Any) -> TestResult:
    bounds = more.get("at_least"), more.get("at_most")
    fields: dict[str, Any] = {
        "suite": "own",
        "digest": SUM,
        "metric": "accuracy",
        "better": "higher",
        "low": value,
        "high": value,
        "cases": 10,
        "passed": within_bounds(value, *bounds),
        "outcomes": SUM,
    }
    return TestResult(test=test, value=value, **(fields | more))


def report(*results: TestResult) -> Report:
    return Report(
        subject=Subject("m", "1.0", "base"), composition=SUM, engine="1", results=list(results)
    )


numbers = st.floats(-1e6, 1e6)
bounds = st.one_of(st.none(), numbers)
results = st.builds(
    lambda value, name, least, most: result(value, name, at_least=least, at_most=most),
    numbers,
    st.text(max_size=5),
    bounds,
    bounds,
)


@given(st.lists(results, max_size=5, unique_by=lambda one: one.test))
def test_reports_round_trip(found: list[TestResult]) -> None:
    one = report(*found)
    assert parse_report(report_bytes(one), "r") == one
    assert report_bytes(parse_report(report_bytes(one), "r")) == report_bytes(one)
    assert regressions(one, one) == []


@given(numbers, numbers, st.sampled_from(["higher", "lower"]), st.floats(0, 1e6))
def test_worse_is_a_loss_beyond_the_tolerance(
    old: float, new: float, better: Any, tolerance: float
) -> None:
    before = report(result(old, better=better, tolerance=tolerance))
    after = report(result(new, better=better, tolerance=tolerance))
    lost = old - new if better == "higher" else new - old
    if abs(lost - tolerance) > 1e-6:
        assert bool(regressions(before, after)) == (lost > tolerance)


def test_a_test_that_fails_now_is_worse_whatever_it_tolerates() -> None:
    before = report(result(0.9, at_least=0.85, tolerance=1.0))
    [one] = regressions(before, report(result(0.84, at_least=0.85, tolerance=1.0)))
    assert (one.before, one.after, one.reason) == (0.9, 0.84, "passed before, fails now")
    # It failed already: that it fails is no news.
    assert regressions(report(result(0.8, at_least=0.9)), report(result(0.8, at_least=0.9))) == []


def test_a_removed_or_redefined_test_regresses_if_it_passed() -> None:
    before = report(result(0.9, at_least=0.8), result(0.1, "failing", at_least=0.8))
    [one] = regressions(before, report())
    assert (one.test, one.after) == ("t", None)
    easier = result(0.7, at_least=0.6, digest=OTHER)
    assert regressions(report(before.results[0]), report(easier)) == []
    [one] = regressions(report(before.results[0]), report(replace(easier, passed=False)))
    assert one.reason == "passed before, fails now (its definition changed)"


def test_a_change_between_two_bounds_is_no_regression() -> None:
    def of(value: float) -> Report:
        return report(result(value, at_least=0.4, at_most=0.6))

    assert regressions(of(0.45), of(0.59)) == []
    assert regressions(of(0.7), of(0.65)) == []
    assert regressions(of(0.7), of(0.75))[0].reason == "dropped by 0.05 (tolerance 0)"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a valid report"),
        (b"{}", "has no "),
        (report_bytes(report(result(), result())), "test 't' is listed twice"),
        (
            report_bytes(report(result(0.1, at_least=0.5, passed=True))),
            "test 't' is marked as passed at 0.1",
        ),
        (
            report_bytes(report(result(0.9, at_least=0.5, passed=False))),
            "test 't' is marked as failed at 0.9",
        ),
        (report_bytes(replace(report(), spec=9)), "it uses spec 9, newer than 1; update modpkg"),
        (report_bytes(report(result())).replace(b"0.9", b"NaN"), "not a valid report"),
        (report_bytes(replace(report(), composition="x")), "not a valid report"),
        (b'{"unknown":' + b"[" * 100_000, "not a valid report"),
        (report_bytes(report(result())).replace(b'"own"', b'"\xff"'), "not a valid report"),
    ],
)
def test_an_invalid_report_is_refused(data: bytes, reason: str) -> None:
    with raises("M710", match=reason):
        parse_report(data, "report.json")


def test_nan_is_within_no_bounds() -> None:
    assert within_bounds(math.nan, None, None)
    assert not within_bounds(math.nan, 0.0, None)
    assert not within_bounds(math.nan, None, 0.0)


@pytest.mark.parametrize(
    ("value", "at_least", "at_most", "expected"),
    [
        (0.5, 0.5, None, True),
        (0.4, 0.5, None, False),
        (0.5, None, 0.5, True),
        (0.6, None, 0.5, False),
        (0.5, 0.4, 0.6, True),
        (0.7, 0.4, 0.6, False),
        (0.3, 0.4, 0.6, False),
        (9.0, None, None, True),
    ],
)
def test_bounds_are_inclusive(
    value: float, at_least: float | None, at_most: float | None, expected: bool
) -> None:
    assert within_bounds(value, at_least, at_most) is expected


def test_report_passes_if_every_test_does() -> None:
    good, bad = result(0.9, "a", at_least=0.5), result(0.1, "b", at_least=0.5)
    assert report().passed
    assert report(good).passed
    assert not report(good, bad).passed


def test_loss_has_the_sign_of_its_metric() -> None:
    assert loss(result(0.9), result(0.8)) == pytest.approx(0.1)
    assert loss(result(0.9, better="lower"), result(0.8, better="lower")) == pytest.approx(-0.1)


def test_loss_of_a_range_is_the_distance_gained() -> None:
    def of(before: float, after: float) -> float:
        bounds = {"at_least": 0.4, "at_most": 0.6}
        return loss(result(before, **bounds), result(after, **bounds))

    assert of(0.3, 0.1) == pytest.approx(0.2)
    assert of(0.7, 0.9) == pytest.approx(0.2)
    assert of(0.9, 0.5) == pytest.approx(-0.3)
    assert of(0.3, 0.7) == pytest.approx(0.0)


def test_rounding_is_no_regression_and_a_little_more_is() -> None:
    def regressed(lost: float) -> bool:
        return regressions(report(result(1.0)), report(result(1.0 - lost))) != []

    assert not regressed(ROUNDING / 2)
    assert regressed(ROUNDING * 3)


def test_regression_names_the_test_and_its_values() -> None:
    before = report(result(0.9, "a"), result(0.8, "b"))
    after = report(result(0.9, "a"), result(0.5, "b"))
    [one] = regressions(before, after)
    assert (one.suite, one.test, one.metric) == ("own", "b", "accuracy")
    assert (one.before, one.after) == (0.8, 0.5)
    assert one.reason == "dropped by 0.3 (tolerance 0)"


def test_rounding_itself_is_no_regression() -> None:
    assert regressions(report(result(ROUNDING)), report(result(0.0))) == []


@pytest.mark.parametrize(("old", "new"), [(SUM, OTHER), (OTHER, SUM)])
def test_redefined_test_has_another_digest(old: str, new: str) -> None:
    before = report(result(0.9, digest=old, at_least=0.8))
    assert regressions(before, report(result(0.85, digest=new, at_least=0.8))) == []
    [one] = regressions(before, report(result(0.7, digest=new, at_least=0.8)))
    assert one.reason == "passed before, fails now (its definition changed)"


def test_regression_beyond_a_tolerance_and_its_rounding() -> None:
    def regressed(lost: float, digest: str = SUM) -> bool:
        before = report(result(1.0, tolerance=0.25))
        return regressions(before, report(result(1.0 - lost, digest=digest))) != []

    assert not regressed(0.25)
    assert not regressed(0.25 + ROUNDING / 2)
    assert regressed(0.25 + ROUNDING * 3)
    assert not regressed(0.5, OTHER)  # another definition: the values cannot be compared


def test_test_of_another_suite_is_another_test() -> None:
    before = report(result(0.9, suite="a", at_least=0.5), result(0.8, suite="b", at_least=0.5))
    [one] = regressions(before, report(before.results[0]))
    assert (one.suite, one.test, one.after) == ("b", "t", None)
    assert one.reason == "passed before, is no longer run"


# Showing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "accuracy 0.9 (0.8 to 0.95), 10 cases"),
        ({"cases": 1}, "accuracy 0.9 (0.8 to 0.95), 1 case"),
        ({"cases": 0}, "accuracy 0.9 (0.8 to 0.95), 0 cases"),
        ({"at_least": 0.5}, "accuracy 0.9 (0.8 to 0.95), at least 0.5, 10 cases"),
        ({"at_most": 2.0}, "accuracy 0.9 (0.8 to 0.95), at most 2, 10 cases"),
        (
            {"at_least": 0.5, "at_most": 2.0},
            "accuracy 0.9 (0.8 to 0.95), at least 0.5 and at most 2, 10 cases",
        ),
    ],
)
def test_line_of_a_result(fields: dict[str, Any], expected: str) -> None:
    assert describe_result(result(0.9, low=0.8, high=0.95, **fields)) == expected


def run(*results: TestResult, seconds: list[float]) -> TestRun:
    outcome = TestOutcome(value=0.0, low=0.0, high=0.0, better="higher", rows=[])
    return TestRun(report(*results), [outcome] * len(results), seconds)


def test_junit_xml_has_a_suite_per_report_and_a_case_per_test() -> None:
    good = result(0.9, "good")
    bad = result(0.1, "bad", at_least=0.5, suite="other")
    worse = result(0.2, "worse", at_least=0.5)
    text = junit_xml([run(good, bad, worse, seconds=[0.25, 1.5, 0.0]), run(seconds=[])])
    assert text == (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        "<testsuites>\n"
        '  <testsuite name="m 1.0" tests="3" failures="2" time="1.750">\n'
        '    <testcase classname="own" name="good" time="0.250">'
        "<system-out>accuracy 0.9 (0.9 to 0.9), 10 cases</system-out></testcase>\n"
        '    <testcase classname="other" name="bad" time="1.500">'
        '<failure message="accuracy 0.1 (0.1 to 0.1), at least 0.5, 10 cases"/></testcase>\n'
        '    <testcase classname="own" name="worse" time="0.000">'
        '<failure message="accuracy 0.2 (0.2 to 0.2), at least 0.5, 10 cases"/></testcase>\n'
        "  </testsuite>\n"
        '  <testsuite name="m 1.0" tests="0" failures="0" time="0.000">\n'
        "  </testsuite>\n"
        "</testsuites>\n"
    )


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_junit_xml_is_well_formed_whatever_names_hold(name: str, metric: str, good: bool) -> None:
    one = result(0.9, name, suite=name, metric=metric, at_least=0.5 if good else 1.0)
    [suite] = ElementTree.fromstring(junit_xml([run(one, seconds=[0.0])]))
    [case] = suite
    assert case.get("name") == case.get("classname")
    assert (case.find("failure") is None) is good


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('a "b" <c> & d', 'a "b" <c> & d'),
        ("tab\tline\nreturn\r", "tab\tline\nreturn\r"),
        ("\x00\x0b\x1f", "\ufffd\ufffd\ufffd"),
        ("\ud800\udfff\ufffe\uffff", "\ufffd\ufffd\ufffd\ufffd"),
        ("\ue000\ufffd\U00010000\U0010ffff", "\ue000\ufffd\U00010000\U0010ffff"),
    ],
)
def test_characters_that_xml_cannot_hold_are_replaced(name: str, shown: str) -> None:
    text = junit_xml([run(result(0.9, name), seconds=[0.0])])
    case = ElementTree.fromstring(text)[0][0]
    assert case.get("name") == shown


def test_run_has_a_duration_per_result() -> None:
    with pytest.raises(ValueError, match="shorter"):
        junit_xml([run(result(), seconds=[])])
