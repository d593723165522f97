"""What one test says of two models: how far its value moved, and which cases flipped."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from modpkg.community.evaluate.protocol import Difference, Outcome
from modpkg.community.evaluate.report import ROUNDING, Result, loss
from modpkg.community.evaluate.test_runner import Bench, SuiteTest, Tried


class Change(Struct, frozen=True, kw_only=True):
    """One test, before and after."""

    before: Result
    after: Result
    difference: Difference
    """Of the values, after less before, with its 95 % interval over pairs of cases."""
    judged: bool
    """Whether each case is right or wrong; if not, nothing flips."""
    negative: int
    """Cases that were right and are wrong now."""
    positive: int
    """Cases that were wrong and are right now."""
    current: bool = True
    """Whether the candidate still declares the test as it is here."""

    @property
    def label(self) -> str:
        """The test's name, and whose it is."""
        return f"{self.after.test!r} of {self.after.suite}"

    @property
    def broken(self) -> bool:
        """Whether it passed before and fails now."""
        return self.before.passed and not self.after.passed

    @property
    def lost(self) -> float:
        """By how much the value got worse; negative where it got better."""
        return loss(self.before, self.after)

    @property
    def worse(self) -> bool:
        """Whether it got worse by more than the test tolerates."""
        return self.lost > self.after.tolerance + ROUNDING

    @property
    def certain(self) -> bool:
        """Whether the loss is beyond the tolerance over all of its interval."""
        higher = self.after.better == "higher"
        least = -self.difference.high if higher else self.difference.low
        return least > self.after.tolerance + ROUNDING


def changes(
    bench: Bench, tests: Sequence[SuiteTest], before: Tried, after: Tried, current: Sequence[bool]
) -> list[Change]:
    """Return what each test says of two models that it ran on."""
    found = []
    for number, test in enumerate(tests):
        one, two = before.outcomes[number], after.outcomes[number]
        result = after.report.results[number]
        right = _right(one, result), _right(two, result)
        judged = right[0] is not None and right[1] is not None
        pairs = list(zip(right[0] or [], right[1] or [], strict=True)) if judged else []
        found.append(
            Change(
                before=before.report.results[number],
                after=result,
                difference=bench.compare(test, after.report.subject.name, one, two),
                judged=judged,
                negative=sum(was and not now for was, now in pairs),
                positive=sum(now and not was for was, now in pairs),
                current=current[number],
            )
        )
    return found


def _right(outcome: Outcome, result: Result) -> list[bool] | None:
    """Return which cases were right: by the metric, or else by the test's own bound.

    A case of a metric of degree is right where it alone would pass; one with rows of several
    numbers has no value alone.
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
