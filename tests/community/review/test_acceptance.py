"""When a candidate may be accepted."""

from __future__ import annotations

from modpkg.community.review.acceptance import (
    approvers,
    check_acceptance,
    failing_reports,
    latest_reports,
)
from modpkg.community.review.overlap import changed_differently
from modpkg.core.candidates import CandidateLine, CandidateReport, CandidateVerdict, ThreadEntry
from modpkg.core.records import IndexLine, TensorEntry
from tests.raising import raises

AT = "2026-11-28T00:00:00Z"
LINE = IndexLine(name="words", version="1.1", kind="suite", release="sha256:" + "0" * 64)
ONE = CandidateLine(number=7, line=LINE, by="ada", at=AT)


def report(by: str, verdict: CandidateVerdict, reason: str = "") -> ThreadEntry:
    made = CandidateReport(tool="vet", verdict=verdict, reason=reason)
    return ThreadEntry(kind="report", by=by, at=AT, report=made)


def approval(by: str) -> ThreadEntry:
    return ThreadEntry(kind="approval", by=by, at=AT)


def accept(*thread: ThreadEntry, reviewers: tuple[str, ...] = (), anyway: str = "") -> None:
    check_acceptance(ONE, thread, anyway=bool(anyway), reason=anyway, reviewers=reviewers)


def test_the_last_report_of_each_counts() -> None:
    thread = [report("bob", "reject", "Worse."), report("eve", "accept"), report("bob", "accept")]
    assert latest_reports(thread) == thread[1:]
    assert failing_reports(thread) == []
    accept(*thread)
    accept(report("bob", "needs-a-person"))
    failing = report("bob", "reject", "It is worse.")
    with raises("M471", match=r"vet by bob says reject: It is worse\. Run 'modpkg accept words#7"):
        accept(failing)
    with raises("M471", match=r"\(and 1 more\)"):
        accept(failing, report("eve", "reject"))
    accept(failing, anyway="by less than a hair")
    with raises("M471"):
        check_acceptance(ONE, [failing], anyway=True, reason=" ")


def test_a_reviewer_has_to_approve() -> None:
    thread = [approval("bob"), approval("eve"), approval("bob")]
    assert approvers(thread) == ["bob", "eve"]
    accept(*thread, reviewers=("eve", "mary"))
    with raises("M472", match=r"\(mary\).*modpkg approve words#7"):
        accept(*thread, reviewers=("mary",))
    with raises("M472"):  # not by himself
        accept(approval("ada"), reviewers=("ada",))


def test_overlaps_are_what_both_change_to_something_else() -> None:
    def tensors(**values: int) -> dict[str, TensorEntry]:
        return {
            name: TensorEntry(
                dtype="F32",
                shape=[1],
                digest=f"sha256:{value:064}",
                pack="sha256:" + "1" * 64,
                offset=0,
                length=4,
            )
            for name, value in values.items()
        }

    base = tensors(a=0, b=0, c=0, d=0, e=0)
    one = tensors(a=1, b=1, c=0, d=1, f=1)
    two = tensors(a=2, b=1, c=2, f=2, e=0)
    # b alike, c by one only, d changed and removed, e removed by one only, f added by both
    assert changed_differently(base, one, two) == ["a", "d", "f"]
