"""``modpkg bisect``: the smallest set of module changes between two locks that breaks a command."""

from __future__ import annotations

from msgspec import Struct

from modpkg.community.bisect.lock_mixes import LockMixes
from modpkg.community.bisect.minimize import Verdict
from modpkg.community.bisect.search import (
    Culprit,
    CulpritSearch,
    SkippedMix,
    check_good,
    held_below,
    try_end,
)
from modpkg.community.bisect.session import TrialSession
from modpkg.community.bisect.trials import Trials
from modpkg.core.errors import BisectError
from modpkg.resolve.lock import Lock


class Remedy(Struct, frozen=True, kw_only=True):
    """A constraint that excludes a culprit's bad versions."""

    name: str
    specifier: str
    enough: bool | None
    """Whether the command passes with the new lock under it; None if that could not be tried."""
    reason: str = ""
    """How the command ended with it, or why it could not be tried."""


class Bisection(Struct, frozen=True, kw_only=True):
    """The result of a bisection."""

    command: str
    old: str
    new: str
    changes: int
    """Number of modules that differ between the two locks."""
    blamed: list[Culprit]
    """The command fails with all of them at their first bad version, and passes with any one at its
    last good version, as far as that could be tried."""
    unproved: list[str]
    """Culprits without which the rest could not be tried."""
    keep: Remedy | None
    skipped: list[SkippedMix]
    runs: int
    """Number of runs of the command that were used."""
    earlier: int
    """Number of those that an earlier command made."""


def bisect(
    session: TrialSession,
    before: Lock,
    after: Lock,
    *,
    old: str = "the old lock",
    new: str = "the new lock",
) -> Bisection:
    """Find what breaks a command between two locks; errors call them ``old`` and ``new``.

    With n changed modules and k culprits with v versions each, this takes the two ends, about
    k·(log2 n + 2 + log2 v) runs, and one for the remedy; `minimize` has the exact bound.

    Raises:
        BisectError: The locks are equal, or the command does not pass with the old one and fail
            with the new one.
        ModpkgError: A mix cannot be installed; calling it again continues the search.
    """
    trials, mixes = session.trials, session.mixes(before, after)
    diff = mixes.diff
    if not diff.names:
        raise BisectError("M790", old=old, new=new)
    check_good(trials, mixes.mix(()), old, "name an older lock, with which it passes")
    if try_end(trials, mixes.mix(diff.names), new).verdict is Verdict.GOOD:
        raise BisectError("M792", command=trials.command.shown, end=new)
    search = CulpritSearch(mixes, trials, session.report)
    smallest = search.smallest()
    blamed = search.narrowed(smallest)
    keep = _remedy(mixes, trials, blamed, new)
    unproved = diff.names_of(smallest.unproved)
    trials.finish()
    return Bisection(
        command=trials.command.shown,
        old=old,
        new=new,
        changes=len(diff.names),
        blamed=blamed,
        unproved=[one.name for one in blamed if one.name in unproved],
        keep=keep,
        skipped=search.skipped,
        runs=trials.made + trials.remembered,
        earlier=trials.remembered,
    )


def _remedy(mixes: LockMixes, trials: Trials, blamed: list[Culprit], new: str) -> Remedy | None:
    """Return a constraint on the first culprit that has a good version, tried."""
    first = next((one for one in blamed if one.good is not None), None)
    if first is None:
        return None
    specifier = held_below(mixes, first)
    mix = mixes.with_bound(first.name, specifier)
    result = trials.result(mix, f"{new} with {first.name}{specifier}")
    enough = None if result.verdict is Verdict.UNKNOWN else result.verdict is Verdict.GOOD
    return Remedy(
        name=first.name,
        specifier=str(specifier),
        enough=enough,
        reason="" if enough else result.reason,
    )
