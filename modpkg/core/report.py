"""Test reports (``report.json``): the format, without anything that runs or compares tests."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import TestError
from modpkg.core.records import DigestText, canonical_json

REPORT_SPEC = 1

Better = Literal["higher", "lower"]
"""Which values of a metric are better."""


class Subject(Struct, frozen=True):
    """The model that was tested; a label, never used to look anything up."""

    name: str
    version: str
    kind: str
    """A kind of module, or ``app`` for an app's own assembly."""


class TestResult(Struct, frozen=True, kw_only=True):
    """The result of one test."""

    test: str
    suite: str
    """The module (or app) that declares the test."""
    digest: DigestText
    """Of the test's definition and the bytes of its cases."""
    metric: str
    better: Better
    """Whether a higher or a lower value is better."""
    value: float
    low: float
    """Lower end of the value's 95 % confidence interval."""
    high: float
    """Upper end of the value's 95 % confidence interval."""
    cases: int
    """Number of cases."""
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    """How much worse the value may become before that counts as a regression."""
    passed: bool
    outcomes: DigestText
    """Of the outcome of each case."""


class Report(Struct, frozen=True, kw_only=True):
    """``report.json``; without times, hosts or paths, so that equal inputs give equal bytes."""

    spec: int = REPORT_SPEC
    subject: Subject
    composition: DigestText
    """Of the model that ran: tensors, config, tokenizer and task."""
    engine: str
    """The versions of composing, testing, torch and transformers, which affect values."""
    results: list[TestResult]
    """In suite order: the subject's own tests, then those of its suites."""

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return all(result.passed for result in self.results)


def report_bytes(report: Report) -> bytes:
    """Return the bytes of ``report.json``: canonical JSON and a line break."""
    return canonical_json(report) + b"\n"


def parse_report(data: bytes, what: str) -> Report:
    """Return the report in ``data``; errors call it ``what``.

    Raises:
        TestError: `data` is not a report of a known spec, lists a test twice, or contradicts
            itself about whether a test passed.
    """
    try:
        report = msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TestError("M710", what=what, reason=decoding_reason(error)) from None
    if report.spec > REPORT_SPEC:
        reason = f"it uses spec {report.spec}, newer than {REPORT_SPEC}; update modpkg"
        raise TestError("M710", what=what, reason=reason)
    seen: set[tuple[str, str]] = set()
    for result in report.results:
        if (result.suite, result.test) in seen:
            raise TestError("M710", what=what, reason=f"test {result.test!r} is listed twice")
        seen.add((result.suite, result.test))
        if result.passed != within_bounds(result.value, result.at_least, result.at_most):
            status = "passed" if result.passed else "failed"
            reason = f"test {result.test!r} is marked as {status} at {result.value:g}"
            raise TestError("M710", what=what, reason=reason)
    return report


def within_bounds(value: float, at_least: float | None, at_most: float | None) -> bool:
    """Return whether a value meets its test's bounds; NaN meets none."""
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
