"""Verdicts: whether a candidate may be released, and why, in one sentence. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from modpkg.community.evaluate.protocol import TestOutcome, ValueChange
from modpkg.community.evaluate.report import ROUNDING, loss
from modpkg.core.records import DigestText
from modpkg.core.report import Report, Subject, TestResult

VET_SPEC = 1
REPORT_PRECISION = 1e-4
"""Relative error allowed between a reported and a measured value: machines round differently."""

Decision = Literal["accept", "reject", "needs-a-person"]
ReportClaim = Literal["none", "holds", "other composition", "does not hold"]
DependantState = Literal["tested", "no tests", "not allowed", "not tested", "broken"]


class TestChange(Struct, frozen=True, kw_only=True):
    """The results of one test before and after."""

    before: TestResult
    after: TestResult
    difference: ValueChange
    """After less before."""
    judged: bool
    """Whether each case is right or wrong; if not, cases cannot flip."""
    negative: int
    """Number of cases that were right before and are wrong now."""
    positive: int
    """Number of cases that were wrong before and are right now."""
    current: bool = True
    """Whether the candidate still declares this exact test."""

    @property
    def label(self) -> str:
        """The test's name and owner."""
        return f"test {self.after.test!r} of {self.after.suite}"

    @property
    def broken(self) -> bool:
        """Whether it passed before and fails now."""
        return self.before.passed and not self.after.passed

    @property
    def worse(self) -> bool:
        """Whether it got worse by more than its tolerance."""
        return loss(self.before, self.after) > self.after.tolerance + ROUNDING

    @property
    def certain(self) -> bool:
        """Whether the loss exceeds the tolerance over its whole 95 % interval."""
        higher = self.after.better == "higher"
        least = -self.difference.high if higher else self.difference.low
        return least > self.after.tolerance + ROUNDING


class DependantResult(Struct, frozen=True, kw_only=True):
    """The result of one dependant."""

    name: str
    version: str
    kind: str
    state: DependantState
    """``broken``: it ran with the earlier release and cannot run with the candidate."""
    reason: str = ""
    """Why it was not tested, or how it broke."""
    changes: list[TestChange] = []


class VetReport(Struct, frozen=True, kw_only=True):
    """The result of vetting; without times, hosts or paths: equal inputs give equal bytes."""

    spec: int = VET_SPEC
    candidate: Subject
    composition: DigestText
    against: Subject | None
    """None if there is no earlier release."""
    against_composition: DigestText | None
    engine: str
    verdict: Decision
    reason: str
    """One sentence."""
    claim: ReportClaim
    """Whether the report inside the candidate agrees with what was measured."""
    changes: list[TestChange]
    """The candidate's tests, then those that the earlier release declares differently."""
    dependants: list[DependantResult]
    """The dependants that were considered, most relevant first."""
    dependants_found: int | None
    """How many there are; None if the registry cannot list its names."""


def correct_cases(outcome: TestOutcome, result: TestResult) -> list[bool] | None:
    """Return which cases were right: by the metric, or else by the test's own bound.

    With a metric of degree, a case is right if it alone would pass; None where there are two
    bounds or none, or a case has no value by itself.
    """
    if outcome.right is not None:
        return outcome.right
    if any(len(row) != 1 for row in outcome.rows):
        return None
    if result.at_least is not None and result.at_most is None:
        return [row[0] >= result.at_least for row in outcome.rows]
    if result.at_most is not None and result.at_least is None:
        return [row[0] <= result.at_most for row in outcome.rows]
    return None


def count_flips(before: list[bool] | None, after: list[bool] | None) -> tuple[int, int] | None:
    """Return how many cases turned wrong and how many turned right; None if they are not judged."""
    if before is None or after is None:
        return None
    pairs = list(zip(before, after, strict=True))
    return sum(was and not now for was, now in pairs), sum(now and not was for was, now in pairs)


def report_mismatch(reported: Report, measured: Report) -> str:
    """Return a sentence on where a report contradicts a measured one; empty if it does not."""
    by_test = {(r.suite, r.test, r.digest): r for r in measured.results}
    for result in reported.results:
        actual = by_test.get((result.suite, result.test, result.digest))
        test = f"test {result.test!r} of {result.suite}"
        if actual is None:
            return f"Its report lists {test}, which it does not declare."
        if abs(actual.value - result.value) > REPORT_PRECISION * max(1.0, abs(actual.value)):
            return (
                f"Its report gives {result.metric} {result.value:.4g} for {test}, but "
                f"{actual.value:.4g} was measured."
            )
    return ""


def verdict(
    changes: list[TestChange],
    dependants: list[DependantResult],
    *,
    earlier: bool,
    mismatch: str,
    listed: bool = True,
) -> tuple[Decision, str]:
    """Return the decision and its reason.

    A candidate is rejected if its report is contradicted (``mismatch``), if a dependant cannot
    run with it, or if a test that it (or a dependant) declares fails and passed before, or is
    certainly worse than tolerated. A person decides where nothing can be compared or tested, where
    a loss is within the margin of error, where the lost test is one that only the earlier release
    declares, and where a test failed before already.
    """
    if mismatch:
        return "reject", mismatch
    if not earlier:
        failed = [change for change in changes if not change.after.passed]
        if failed:
            return "reject", f"It fails {failed[0].label}{_more(failed)}."
        return "needs-a-person", "There is no earlier release to compare it with."
    every = [("", change) for change in changes]
    for dependant in dependants:
        label = f"{dependant.name} {dependant.version}"
        if dependant.state == "broken":
            return "reject", f"{label} {dependant.reason}."
        every += [(label, change) for change in dependant.changes]
    lost = [(who, c) for who, c in every if c.broken or c.worse]
    sure = [(who, c) for who, c in lost if c.current and (c.broken or c.certain)]
    if sure:
        return "reject", f"{_describe_loss(*sure[0])}{_more(sure)}."
    if lost:
        current = lost[0][1].current
        why = "within the margin of error" if current else "only the earlier release declares it"
        return "needs-a-person", f"{_describe_loss(*lost[0])} ({why}){_more(lost)}."
    if not every:
        return "needs-a-person", "Neither the module nor its dependants have tests."
    failing = [(who, change) for who, change in every if not change.after.passed]
    if failing:
        who, change = failing[0]
        return "needs-a-person", f"{who or 'It'} fails {change.label}, as before{_more(failing)}."
    untested = [dependant for dependant in dependants if dependant.state == "not tested"]
    if untested:
        first = untested[0]
        text = f"{first.name} {first.version} could not be tested ({first.reason})"
        return "needs-a-person", f"{text}{_more(untested)}."
    if not listed:
        return "needs-a-person", "The registry cannot list its modules, so dependants are unknown."
    return "accept", _describe_success(changes, dependants, every)


def _describe_success(
    changes: list[TestChange],
    dependants: list[DependantResult],
    every: list[tuple[str, TestChange]],
) -> str:
    tested = sum(dependant.state == "tested" for dependant in dependants)
    parts = [_counted(len(changes), "test")] if changes else []
    parts += [_counted(tested, "dependant")] if tested else []
    flips = sum(change.negative for _, change in every)
    cases = f"; {_counted(flips, 'case')} turned wrong" if flips else ""
    return f"No regressions in {' and '.join(parts)}{cases}."


def _describe_loss(who: str, change: TestChange) -> str:
    name = f"With it, {who}" if who else "It"
    before, after = change.before, change.after
    how = "fails" if change.broken else "is worse at"
    return (
        f"{name} {how} {change.label}: {after.metric} went from {before.value:.4g} to "
        f"{after.value:.4g}"
    )


def _more(items: Sequence[object]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
