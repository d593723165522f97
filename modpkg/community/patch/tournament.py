"""Choosing a method of merging by what the tests say of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.core.report import Report, TestResult

METHODS = ("mean", "ties", "task-arithmetic", "model-stock")
"""Those that are tried, in this order: of equally good ones the first is taken."""
Score = Callable[[Path], Report]
"""Runs the tests of the module project in a folder."""


class Attempt(Struct, frozen=True):
    """What the tests said of one method."""

    method: str
    report: Report
    failed: int
    gain: float
    """Mean over the tests of how much better than with the first method the value is, as a share
    of it."""


def choose(candidates: Mapping[str, Path], score: Score) -> list[Attempt]:
    """Return an attempt for each method's candidate, the best one first.

    The best has the fewest failed tests, and of those the highest gain.
    """
    reports = {method: score(folder) for method, folder in candidates.items()}
    first = next(iter(reports.values()))
    attempts = [
        Attempt(
            method,
            report,
            sum(not result.passed for result in report.results),
            _gain(first, report),
        )
        for method, report in reports.items()
    ]
    return sorted(attempts, key=lambda attempt: (attempt.failed, -attempt.gain))


def _gain(first: Report, report: Report) -> float:
    before = {(result.suite, result.test): result for result in first.results}
    gains = [_better(before[result.suite, result.test], result) for result in report.results]
    return sum(gains) / max(len(gains), 1)


def _better(before: TestResult, after: TestResult) -> float:
    moved = (after.value - before.value) / max(abs(before.value), 1e-12)
    return moved if after.better == "higher" else -moved
