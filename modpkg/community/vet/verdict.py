"""Verdicts: whether a candidate may be released, and why, in one sentence."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from modpkg.community.evaluate.report import Subject
from modpkg.community.vet.change import Change
from modpkg.core.records import DigestText

VET_SPEC = 1

Word = Literal["accept", "reject", "needs-a-person"]
Claim = Literal["none", "holds", "other composition", "does not hold"]
State = Literal["tested", "no tests", "not allowed", "not tested", "broken"]


class Tested(Struct, frozen=True, kw_only=True):
    """One dependant."""

    name: str
    version: str
    kind: str
    state: State
    """``broken``: it ran with the release before, and cannot with the candidate."""
    reason: str = ""
    """Why it was not tested, or what broke."""
    changes: list[Change] = []


class Vetting(Struct, frozen=True, kw_only=True):
    """What vetting found. No time, host or path is in it: the same inputs give the same bytes."""

    spec: int = VET_SPEC
    candidate: Subject
    composition: DigestText
    against: Subject | None
    """None where there is no earlier release."""
    against_composition: DigestText | None
    engine: str
    verdict: Word
    reason: str
    """One sentence."""
    claim: Claim
    """What became of the report that the candidate brings."""
    changes: list[Change]
    """Of the candidate's tests, then of those that the earlier release had otherwise."""
    dependants: list[Tested]
    """Those that were looked at, the most relevant first."""
    dependants_found: int | None
    """How many there are; None where the registry cannot list its names."""


def verdict(
    changes: list[Change],
    dependants: list[Tested],
    *,
    earlier: bool,
    lie: str,
    listed: bool = True,
) -> tuple[Word, str]:
    """Return the verdict and its reason.

    Rejected is what brings a report that does not hold, what fails a test that passed (its own,
    or a dependant's), and what is worse at one by more than it tolerates, beyond chance. A person
    decides where nothing can be compared or tested, where a loss may be chance, where a test that
    the candidate no longer declares so is lost, and where a test failed before already.
    """
    if lie:
        return "reject", lie
    if not earlier:
        failed = [change for change in changes if not change.after.passed]
        if failed:
            return "reject", f"It fails its own test {failed[0].label}{_more(len(failed))}."
        return "needs-a-person", "There is no earlier release to compare it with."
    whole = [("", change) for change in changes]
    for tested in dependants:
        if tested.state == "broken":
            return "reject", f"{tested.name} {tested.version} {tested.reason}."
        whole += [(f"{tested.name} {tested.version}", change) for change in tested.changes]
    lost = [(who, c) for who, c in whole if c.current and (c.broken or (c.worse and c.certain))]
    if lost:
        return "reject", _lost(*lost[0]) + _more(len(lost)) + "."
    doubts = [_lost(who, c) for who, c in whole if c.broken or c.worse]
    if doubts:
        tail = ", as the release before declares it" if _dropped(whole) else ", which may be chance"
        return "needs-a-person", doubts[0] + tail + _more(len(doubts)) + "."
    if not whole:
        return "needs-a-person", "Neither it nor anything that depends on it has a test."
    failing = [(who, change) for who, change in whole if not change.after.passed]
    if failing:
        who, change = failing[0]
        name = f"{who} fails" if who else "It fails"
        text = f"{name} {change.label}, as it did before{_more(len(failing))}."
        return "needs-a-person", text
    untested = [tested for tested in dependants if tested.state == "not tested"]
    if untested:
        first = untested[0]
        text = f"{first.name} {first.version} could not be tested ({first.reason})"
        return "needs-a-person", text + _more(len(untested)) + "."
    if not listed:
        return "needs-a-person", "The registry cannot list what depends on it."
    ran = sum(tested.state == "tested" for tested in dependants)
    tail = f", nor is any of {ran} dependants that were tested" if ran else ""
    flips = sum(change.negative for _, change in whole)
    cases = f"; {flips} single cases got worse" if flips else ""
    return "accept", f"It is worse at none of {len(changes)} tests{tail}{cases}."


def _lost(who: str, change: Change) -> str:
    name = f"With it, {who}" if who else "It"
    before, after = change.before, change.after
    how = "fails" if change.broken else "is worse at"
    return (
        f"{name} {how} {change.label}: {after.metric} was {before.value:.4g} and is "
        f"{after.value:.4g}"
    )


def _dropped(whole: list[tuple[str, Change]]) -> bool:
    return next(not c.current for _, c in whole if c.broken or c.worse)


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""
