"""Whether a candidate may be accepted: what was reported of it, and who has approved it.

Pure rules, without I/O; a server goes by the same ones as a command does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from modpkg.core.candidates import CandidateLine, CandidateReport, ThreadEntry
from modpkg.core.errors import PublishError


def latest_reports(entries: Iterable[ThreadEntry]) -> list[ThreadEntry]:
    """Return the last report of each person and tool, the oldest first."""
    found: dict[tuple[str, str], ThreadEntry] = {}
    for entry in entries:
        if entry.report is not None:
            key = (entry.by, entry.report.tool)
            found.pop(key, None)
            found[key] = entry
    return [*found.values()]


def failing_reports(entries: Iterable[ThreadEntry]) -> list[ThreadEntry]:
    """Return those of the `latest_reports` that advise against a candidate."""
    return [
        entry
        for entry in latest_reports(entries)
        if entry.report is not None and entry.report.verdict == "reject"
    ]


def approvers(entries: Iterable[ThreadEntry]) -> list[str]:
    """Return who has approved a candidate, the first first."""
    return [*dict.fromkeys(entry.by for entry in entries if entry.kind == "approval")]


def report_clause(by: str, report: CandidateReport) -> str:
    """Return what a report says, as a clause."""
    reason = f": {report.reason.rstrip('.')}" if report.reason else ""
    return f"{report.tool} by {by} says {report.verdict}{reason}"


def check_acceptance(
    one: CandidateLine,
    entries: Sequence[ThreadEntry],
    *,
    anyway: bool,
    reason: str,
    reviewers: Collection[str] = (),
) -> None:
    """Check that a candidate can be accepted after what was said about it.

    Args:
        one: The candidate.
        entries: Its thread.
        anyway: Whether a failing report is to be overruled, which needs a reason.
        reason: Why it is accepted.
        reviewers: Whose approval is needed, of any one of them who has not submitted it; with none,
            it is not.

    Raises:
        PublishError: A report fails, or no reviewer has approved it.
    """
    failing = failing_reports(entries)
    if failing and not (anyway and reason.strip()):
        reported = [report_clause(entry.by, entry.report) for entry in failing if entry.report]
        more = f" (and {len(reported) - 1} more)" if len(reported) > 1 else ""
        raise PublishError("M471", label=one.label, facts=reported[0] + more)
    if reviewers and not {*approvers(entries)} & {*reviewers} - {one.by}:
        named = ", ".join(sorted(reviewers)[:5])
        raise PublishError("M472", label=one.label, name=one.line.name, reviewers=named)
