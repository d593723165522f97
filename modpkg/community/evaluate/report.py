"""Reports: what tests gave on a composition, in a form that is the same wherever it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from modpkg.core.errors import TestError
from modpkg.core.records import DigestText, canonical_json

REPORT_SPEC = 1
MAX_REPORT = 16 << 20

ROUNDING = 1e-9
"""What float arithmetic may add to a difference of two values."""

Better = Literal["higher", "lower"]


class Subject(Struct, frozen=True):
    """What was tested, by name; nothing is looked up by it."""

    name: str
    version: str
    kind: str
    """A kind of module, or ``app`` for an app's own assembly."""


class Result(Struct, frozen=True, kw_only=True):
    """What one test gave."""

    test: str
    suite: str
    """The module (or app) that declares the test."""
    digest: DigestText
    """Of the test's definition and the bytes of its cases; see `definition_digest`."""
    metric: str
    better: Better
    """Which way the value is better."""
    value: float
    low: float
    """Lower end of the value's 95 % interval."""
    high: float
    cases: int
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    """How much worse the value may become before it counts."""
    passed: bool
    outcomes: DigestText
    """Of what each case gave."""


class Report(Struct, frozen=True, kw_only=True):
    """``report.json``: no time, host or path is in it, so that the same inputs give its bytes."""

    spec: int = REPORT_SPEC
    subject: Subject
    composition: DigestText
    """Of what was run: tensors, config, tokenizer and task; see `composition_digest`."""
    engine: str
    """The versions of composing and testing that decide a value."""
    results: list[Result]
    """In the order of the suite: the subject's own tests, then those of its suites."""

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return all(result.passed for result in self.results)


def report_bytes(report: Report) -> bytes:
    """Return a report as the file has it: canonical JSON and a line break."""
    return canonical_json(report) + b"\n"


def parse_report(data: bytes, what: str) -> Report:
    """Return the report in ``data``.

    Raises:
        TestError: it is none, it has a test twice, or a value outside its own interval.
    """
    try:
        report = msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TestError("M710", what=what, reason=str(error)) from None
    if report.spec > REPORT_SPEC:
        raise TestError("M710", what=what, reason=f"it follows spec {report.spec}; update modpkg")
    names = [(result.suite, result.test) for result in report.results]
    for number, result in enumerate(report.results):
        if names.index(names[number]) != number:
            raise TestError("M710", what=what, reason=f"test {result.test!r} is in it twice")
        if result.passed != within(result.value, result.at_least, result.at_most):
            raise TestError(
                "M710",
                what=what,
                reason=f"test {result.test!r} gave {result.value:g}, and is said to have "
                f"{'passed' if result.passed else 'failed'}",
            )
    return report


def read_report(path: Path) -> Report | None:
    """Return the report in a file; None when there is no file.

    Raises:
        TestError: it is none.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_REPORT + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_REPORT:
        raise TestError("M710", what=path, reason=f"it is over {MAX_REPORT >> 20} MiB")
    return parse_report(data, str(path))


def within(value: float, at_least: float | None, at_most: float | None) -> bool:
    """Say whether a value is what its test asks for."""
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


class Worse(Struct, frozen=True):
    """A test that got worse."""

    suite: str
    test: str
    metric: str
    before: float | None
    after: float | None
    """None: the test is gone."""
    reason: str
    """A clause that a sentence can end with."""


def loss(before: Result, after: Result) -> float:
    """Return by how much the value got worse; negative where it got better.

    Of a test with both bounds, it is how much farther from the range the value lies.
    """
    if before.at_least is not None and before.at_most is not None:
        return _outside(after.value, before) - _outside(before.value, before)
    fall = before.value - after.value
    return fall if before.better == "higher" else -fall


def _outside(value: float, result: Result) -> float:
    low, high = result.at_least, result.at_most
    assert low is not None and high is not None  # noqa: S101, PT018
    return max(low - value, value - high, 0.0)


def worse(before: Report, after: Report) -> list[Worse]:
    """Return the tests of ``before`` that ``after`` is worse at, beyond each test's tolerance.

    A test that is gone, or that is another now (other cases, metric or bounds), counts as worse
    only if it passed: nobody can tell any more that it does.
    """
    found = []
    now = {(result.suite, result.test): result for result in after.results}
    for old in before.results:
        new = now.get((old.suite, old.test))
        if new is None:
            if old.passed:
                found.append(_worse(old, None, "it passed, and is not run any more"))
        elif new.digest != old.digest:
            if old.passed and not new.passed:
                found.append(_worse(old, new, "it passed, and it fails as it is defined now"))
        elif old.passed and not new.passed:
            found.append(_worse(old, new, "it passed, and fails now"))
        elif loss(old, new) > old.tolerance + ROUNDING:
            limit = f"its tolerance of {old.tolerance:g}" if old.tolerance else "nothing"
            found.append(
                _worse(old, new, f"it lost {loss(old, new):.4g}, and {limit} is what it may lose")
            )
    return found


def _worse(old: Result, new: Result | None, reason: str) -> Worse:
    return Worse(
        old.suite, old.test, old.metric, old.value, None if new is None else new.value, reason
    )
