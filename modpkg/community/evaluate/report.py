"""Comparing reports, and showing them: as text and as JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct

from modpkg.community.evaluate.protocol import TestOutcome
from modpkg.core.report import Report, TestResult

ROUNDING = 1e-9
"""Float error allowed in the difference of two values."""


class TestRun(Struct, frozen=True):
    """A report, with the outcomes that it summarizes."""

    report: Report
    outcomes: list[TestOutcome]
    """Of the report's results, in their order."""
    seconds: list[float]
    """Duration of each test; 0 where its outcome was cached."""


# Comparing -------------------------------------------------------------------------------------


class Regression(Struct, frozen=True):
    """A test that got worse."""

    suite: str
    test: str
    metric: str
    before: float | None
    after: float | None
    """None where the test is no longer run."""
    reason: str
    """A clause that can end a sentence."""


def loss(before: TestResult, after: TestResult) -> float:
    """Return by how much the value got worse; negative where it got better.

    For a test with both bounds, this is the change of the distance from the range.
    """
    if before.at_least is not None and before.at_most is not None:
        low, high = before.at_least, before.at_most
        return _distance(after.value, low, high) - _distance(before.value, low, high)
    drop = before.value - after.value
    return drop if before.better == "higher" else -drop


def _distance(value: float, low: float, high: float) -> float:
    return max(low - value, value - high, 0.0)


def regressions(before: Report, after: Report) -> list[Regression]:
    """Return the tests of ``before`` at which ``after`` is worse by more than their tolerance.

    A test that is gone, or is defined differently (cases, metric or bounds), is a regression only
    if it passed before and does not pass now.
    """
    by_name = {(result.suite, result.test): result for result in after.results}
    regressed = []
    for old in before.results:
        new = by_name.get((old.suite, old.test))
        if reason := _regression(old, new):
            value = None if new is None else new.value
            regressed.append(Regression(old.suite, old.test, old.metric, old.value, value, reason))
    return regressed


def _regression(old: TestResult, new: TestResult | None) -> str:
    """Return why a test regressed, as a clause; empty if it did not."""
    if new is None:
        return "passed before, is no longer run" if old.passed else ""
    if old.passed and not new.passed:
        redefined = " (its definition changed)" if new.digest != old.digest else ""
        return f"passed before, fails now{redefined}"
    if new.digest == old.digest and loss(old, new) > old.tolerance + ROUNDING:
        return f"dropped by {loss(old, new):.4g} (tolerance {old.tolerance:g})"
    return ""


# Showing ---------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def describe_result(result: TestResult) -> str:
    """Return one line for people: value, interval, bounds and number of cases."""
    bounds = []
    if result.at_least is not None:
        bounds.append(f"at least {result.at_least:g}")
    if result.at_most is not None:
        bounds.append(f"at most {result.at_most:g}")
    required = f", {' and '.join(bounds)}" if bounds else ""
    return (
        f"{result.metric} {result.value:.4g} ({result.low:.4g} to {result.high:.4g}){required}, "
        f"{result.cases} case{'s' * (result.cases != 1)}"
    )


def junit_xml(runs: Sequence[TestRun]) -> str:
    """Return JUnit XML, with a ``testsuite`` per report and a ``testcase`` per test."""
    suites = "".join(map(_suite_xml, runs))
    return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites>\n{suites}</testsuites>\n'


def _suite_xml(run: TestRun) -> str:
    report = run.report
    failures = sum(not result.passed for result in report.results)
    name = f"{report.subject.name} {report.subject.version}"
    lines = [
        f"  <testsuite name={_quoted(name)} tests={_quoted(str(len(report.results)))} "
        f'failures="{failures}" time="{sum(run.seconds):.3f}">'
    ]
    for result, seconds in zip(report.results, run.seconds, strict=True):
        case = (
            f"    <testcase classname={_quoted(result.suite)} name={_quoted(result.test)} "
            f'time="{seconds:.3f}"'
        )
        text = describe_result(result)
        if result.passed:
            lines.append(f"{case}><system-out>{_escaped(text)}</system-out></testcase>")
        else:
            lines.append(f"{case}><failure message={_quoted(text)}/></testcase>")
    return "\n".join([*lines, "  </testsuite>"]) + "\n"


def _escaped(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _quoted(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))
