"""``--method auto``: merge by several methods, and keep the one whose tests come out best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.community.patch.candidate import next_version, write_candidate
from modpkg.community.patch.merge import ConflictMethod, MergePlan, MergeResult, run_merge
from modpkg.core.progress import Progress
from modpkg.core.report import Report, TestResult
from modpkg.store.store import Store

METHODS = ("mean", "ties", "task-arithmetic", "model-stock")
"""The methods that compete; of equally good ones the first wins."""
Score = Callable[[Path], Report]
"""Runs the tests of the module project in a folder."""


class MethodScore(Struct, frozen=True):
    """How one method did in the tests."""

    method: str
    report: Report
    failed: int
    gain: float
    """Relative improvement over the first method, as a mean over the tests."""


def merge_by_tests(
    merge: MergePlan, store: Store, scratch: Path, progress: Progress, score: Score
) -> tuple[MergeResult, list[MethodScore]]:
    """Return the merge by the best of `METHODS`, and all scores, the best one first.

    Args:
        merge: What is merged, with nothing left to choose but the method.
        store: Where composed tensors go.
        scratch: A folder for the candidates.
        progress: Who shows progress.
        score: Runs the tests of a candidate.

    Raises:
        What merging, writing a candidate and its tests can raise.
    """
    base = merge.base
    results, folders = {}, {}
    for method in METHODS:
        folder = scratch / method
        folder.mkdir()
        results[method] = run_merge(merge, ConflictMethod(name=method), store, folder, progress)
        folders[method] = folder / "candidate"
        write_candidate(
            base,
            results[method].tensors,
            results[method].files,
            folders[method],
            name=base.name,
            version=next_version(base.version),
            origins=[],
        )
    scores = rank_methods({method: score(folder) for method, folder in folders.items()})
    return results[scores[0].method], scores


def rank_methods(reports: Mapping[str, Report]) -> list[MethodScore]:
    """Return a score per method, the best one first: fewest failed tests, then highest gain."""
    first = next(iter(reports.values()))
    scores = [
        MethodScore(
            method,
            report,
            sum(not result.passed for result in report.results),
            _gain(first, report),
        )
        for method, report in reports.items()
    ]
    return sorted(scores, key=lambda score: (score.failed, -score.gain))


def _gain(first: Report, report: Report) -> float:
    before = {(result.suite, result.test): result for result in first.results}
    gains = [_improvement(before[result.suite, result.test], result) for result in report.results]
    return sum(gains) / max(len(gains), 1)


def _improvement(before: TestResult, after: TestResult) -> float:
    change = (after.value - before.value) / max(abs(before.value), 1e-12)
    return change if after.better == "higher" else -change
