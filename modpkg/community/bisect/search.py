"""Which versions of which modules are to blame: the search between two locks, by trials."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.bisect.lock_mixes import Impossible, Mix, Mixes
from modpkg.community.bisect.minimize import Smallest, Units, Verdict, boundary, smallest_bad
from modpkg.community.bisect.trials import Outcome, Trials
from modpkg.core.errors import BisectError
from modpkg.environment.plan import Change

_FEW = 3
"""Changes that are named one by one in a label."""


class Blamed(Struct, frozen=True, kw_only=True):
    """One module that is to blame, by itself or together with others."""

    name: str
    old: str | None
    """Its version in the old lock; None when the project did not ask for it."""
    new: str | None
    good: str | None
    """The last version with which the command passes; None when it has no two versions."""
    bad: str | None
    """The first version with which it fails."""
    untested: list[str] = []
    """Versions between these two that could not be tried."""
    along: list[Change] = []
    """Modules that only move together with it, or that its first bad version needs."""


class Skipped(Struct, frozen=True):
    """A mix that could not be judged."""

    mix: str
    reason: str


class Search:
    """A search between an old lock, with which a command passes, and a new one, with which not."""

    def __init__(self, mixes: Mixes, trials: Trials, tell: Callable[[str], None]) -> None:
        self._mixes = mixes
        self._trials = trials
        self._tell = tell
        self.skipped: list[Skipped] = []

    # Sets ----------------------------------------------------------------------------------

    def smallest(self) -> Smallest:
        """Return a smallest set of changes that breaks the command, as units of the changes."""
        changes = self._mixes.changes
        total = len(changes.names)
        known: dict[Units, Verdict] = {}

        def test(units: Units) -> Verdict:
            if units not in known:
                names = changes.names_of(units)
                label = f"{len(names)} of {total} changes"
                if len(names) <= _FEW:
                    label += f" ({', '.join(sorted(names))})"
                known[units] = self._verdict(self._mixes.mix(names), label)
            return known[units]

        return smallest_bad(changes.needs, test)

    # Versions ------------------------------------------------------------------------------

    def leaders(self, found: Smallest) -> list[str]:
        """Return of each culprit the name whose versions are searched, the last one first.

        The last of the names, breadth first, comes first: where names have to give way to each
        other, those visited first have the say, as when resolving.
        """
        units = self._mixes.changes.units
        place = {name: number for number, name in enumerate(self._mixes.changes.names)}
        return sorted((units[unit][-1] for unit in found.culprits), key=lambda name: -place[name])

    def narrowed(self, found: Smallest, *, only_first: bool = False) -> list[Blamed]:
        """Return of each culprit the last good and the first bad version.

        The first culprit is searched with the others as in the new lock, each further one with
        those before it at their first bad version: what comes out fails together.
        """
        changes = self._mixes.changes
        leaders = self.leaders(found)
        whole = frozenset(name for name in leaders if self._has_versions(name))
        moved = frozenset(leaders) - whole
        at = {name: changes.version(name, moved=True) for name in whole}
        blamed = []
        for number, name in enumerate(leaders[:1] if only_first else leaders):
            if name not in whole:
                change = changes.change(name)
                along = self._along(found, name, None)
                blamed.append(
                    Blamed(
                        name=name,
                        old=change.before,
                        new=change.after,
                        good=None,
                        bad=None,
                        along=along,
                    )
                )
                continue
            versions = self._mixes.between(name)
            mixes: dict[int, Mix | Impossible] = {}

            def test(
                place: int,
                name: str = name,
                versions: list[Version] = versions,
                mixes: dict[int, Mix | Impossible] = mixes,
            ) -> Verdict:
                mixes[place] = self._mixes.mix_at(at | {name: versions[place]}, moved)
                label = ", ".join(f"{n} {v}" for n, v in (at | {name: versions[place]}).items())
                return self._verdict(mixes[place], label)

            low, high = boundary(len(versions) - 1, test)
            if number > 0 and low == 0 and test(0) is Verdict.BAD:
                at[name] = versions[0]  # with the others where they are, it is not needed
                continue
            at[name] = versions[high]
            if high not in mixes:
                mixes[high] = self._mixes.mix_at(at, moved)
            blamed.append(
                Blamed(
                    name=name,
                    old=str(versions[0]),
                    new=str(versions[-1]),
                    good=str(versions[low]),
                    bad=str(versions[high]),
                    untested=[str(version) for version in versions[low + 1 : high]],
                    along=self._along(found, name, mixes[high]),
                )
            )
        return blamed

    def _has_versions(self, name: str) -> bool:
        change = self._mixes.changes.change(name)
        return None not in (change.before, change.after) and change.before != change.after

    def _along(self, found: Smallest, name: str, mix: Mix | Impossible | None) -> list[Change]:
        """Return what else is moved in a mix, of what moves together or is needed."""
        changes = self._mixes.changes
        unit = next(unit for unit in found.culprits if name in changes.units[unit])
        leaders = set(self.leaders(found))
        others = sorted(changes.names_of({unit, *changes.needs[unit]}) - leaders)
        if not isinstance(mix, Mix):
            return [changes.change(other) for other in others]
        moves = []
        for other in others:
            before = changes.change(other).before
            module = mix.lock.find(other)
            after = module.version if module is not None else None
            if before != after:
                moves.append(Change(other, before, after))
        return moves

    # Trying --------------------------------------------------------------------------------

    def _verdict(self, mix: Mix | Impossible, label: str) -> Verdict:
        outcome = self._trials.outcome(mix, label)
        if outcome.verdict is Verdict.UNKNOWN:
            skipped = Skipped(label, outcome.reason)
            if skipped not in self.skipped:
                self.skipped.append(skipped)
                if not outcome.ran:
                    self._tell(f"Skipped: {label}: {outcome.reason.splitlines()[0]}")
        return outcome.verdict


def try_end(trials: Trials, mix: Mix | Impossible, label: str) -> Outcome:
    """Try what has to be judged for a search to begin.

    Raises:
        BisectError: it cannot be.
    """
    outcome = trials.outcome(mix, label)
    if outcome.verdict is Verdict.UNKNOWN:
        raise BisectError("M793", command=trials.command.shown, end=label, reason=outcome.reason)
    return outcome


def check_good(trials: Trials, mix: Mix | Impossible, label: str, remedy: str) -> None:
    """Check that the command passes where a search begins.

    Raises:
        BisectError. BisectError: it passes in some of its runs only.
    """
    outcome = try_end(trials, mix, label)
    if outcome.verdict is Verdict.GOOD:
        return
    wavers = isinstance(mix, Mix) and 0 in trials.exits(mix)
    if wavers:
        raise BisectError(
            "M796", command=trials.command.shown, end=label, how=outcome.reason, log=outcome.log
        )
    raise BisectError(
        "M791",
        command=trials.command.shown,
        end=label,
        how=outcome.reason,
        remedy=remedy,
        log=outcome.log,
    )


def held_below(mixes: Mixes, one: Blamed) -> SpecifierSet:
    """Return the range that keeps a module out of its bad versions."""
    versions = mixes.between(one.name)
    if versions[0] > versions[-1]:
        return SpecifierSet(f"=={one.good}")
    return SpecifierSet(f"<={one.good}" if one.untested else f"<{one.bad}")
