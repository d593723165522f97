"""``modpkg bisect``: the smallest set of module changes between two locks that breaks a command."""

from __future__ import annotations

from msgspec import Struct

from modpkg.community.bisect.lock_mixes import Mixes
from modpkg.community.bisect.minimize import Verdict
from modpkg.community.bisect.search import Blamed, Search, Skipped, check_good, held_below, try_end
from modpkg.community.bisect.session import Session
from modpkg.community.bisect.trials import Trials
from modpkg.core.errors import BisectError
from modpkg.resolve.lock import Lock


class Keeping(Struct, frozen=True, kw_only=True):
    """A constraint that keeps what breaks the command out."""

    name: str
    specifier: str
    enough: bool | None
    """Whether the command passes with the new lock but for this; None when it cannot be tried."""
    reason: str = ""
    """How the command ended with it, or why it cannot be tried."""


class Bisection(Struct, frozen=True, kw_only=True):
    """What a bisection found."""

    command: str
    old: str
    new: str
    changes: int
    """Modules that differ between the two locks."""
    blamed: list[Blamed]
    """With all of them at their first bad version the command fails; with any one left at its last
    good version, as far as that could be tried, it passes."""
    unproved: list[str]
    """Those among them of which it could not be tried whether the rest fails without them."""
    keep: Keeping | None
    skipped: list[Skipped]
    runs: int
    """Runs of the command that this rests on."""
    earlier: int
    """How many of them were made by an earlier command."""


def bisect(
    session: Session,
    before: Lock,
    after: Lock,
    *,
    old: str = "the old lock",
    new: str = "the new lock",
) -> Bisection:
    """Find what breaks a command between two locks, which errors call ``old`` and ``new``.

    After the two ends, with n changed modules and k of them to blame, each with v versions, there
    are about k·(log2 n + 2 + log2 v) runs, and one to see whether the remedy is enough; see
    `minimize` for the exact bound.

    Raises:
        BisectError: there is nothing
            to search. BisectError, and what installing can raise; the search can be gone on with.
    """
    trials, mixes = session.trials, session.mixes(before, after)
    changes = mixes.changes
    if not changes.names:
        raise BisectError("M790", old=old, new=new)
    remedy = "name an older lock, with which it passes"
    check_good(trials, mixes.mix(()), old, remedy)
    if try_end(trials, mixes.mix(changes.names), new).verdict is Verdict.GOOD:
        raise BisectError("M792", command=trials.command.shown, end=new)
    search = Search(mixes, trials, session.tell)
    found = search.smallest()
    blamed = search.narrowed(found)
    keep = _keeping(mixes, trials, blamed, new)
    unproved = changes.names_of(found.unproved)
    trials.end()
    return Bisection(
        command=trials.command.shown,
        old=old,
        new=new,
        changes=len(changes.names),
        blamed=blamed,
        unproved=[one.name for one in blamed if one.name in unproved],
        keep=keep,
        skipped=search.skipped,
        runs=trials.made + trials.remembered,
        earlier=trials.remembered,
    )


def _keeping(mixes: Mixes, trials: Trials, blamed: list[Blamed], new: str) -> Keeping | None:
    """Return what to do about it, tried."""
    first = next((one for one in blamed if one.good is not None), None)
    if first is None:
        return None
    specifier = held_below(mixes, first)
    mix = mixes.with_bound(first.name, specifier)
    outcome = trials.outcome(mix, f"{new} with {first.name}{specifier}")
    enough = None if outcome.verdict is Verdict.UNKNOWN else outcome.verdict is Verdict.GOOD
    return Keeping(
        name=first.name,
        specifier=str(specifier),
        enough=enough,
        reason="" if enough else outcome.reason,
    )
