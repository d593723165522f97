"""The search between two locks for the module versions that break a command, by trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.bisect.lock_diff import Names
from modpkg.community.bisect.lock_mixes import LockMixes, Mix, Unresolvable
from modpkg.community.bisect.minimize import Smallest, Units, Verdict, boundary, smallest_bad
from modpkg.community.bisect.trials import TrialResult, Trials
from modpkg.core.errors import BisectError
from modpkg.environment.plan import VersionChange

_NAMED = 3
"""A label lists the names of at most this many changes."""


class Culprit(Struct, frozen=True, kw_only=True):
    """A module that breaks the command, by itself or together with others."""

    name: str
    old: str | None
    """Its version in the old lock; None if the project did not require it."""
    new: str | None
    good: str | None
    """The last version with which the command passes; None if its version did not change."""
    bad: str | None
    """The first version with which it fails."""
    untested: list[str] = []
    """Versions between `good` and `bad` that could not be tried."""
    along: list[VersionChange] = []
    """Modules that change only together with it, or that its first bad version needs."""


class HeldModule(Struct, frozen=True, kw_only=True):
    """A module that stays below its newest version, because tests fail with it."""

    name: str
    version: str
    """The version that it stays at."""
    newest: str
    """The version that an update without tests would take."""
    bad: str
    """The first version with which the tests fail."""
    together: list[str]
    """Other modules that have to be updated too for the tests to fail."""


class SkippedMix(Struct, frozen=True):
    """A mix that could not be tried."""

    mix: str
    reason: str


class CulpritSearch:
    """A search between an old lock, with which a command passes, and a failing new one."""

    def __init__(self, mixes: LockMixes, trials: Trials, report: Callable[[str], None]) -> None:
        self._mixes = mixes
        self._trials = trials
        self._report = report
        self.skipped: list[SkippedMix] = []

    # Sets ----------------------------------------------------------------------------------

    def smallest(self) -> Smallest:
        """Return a smallest set of changes that breaks the command, as units of the `LockDiff`."""
        diff = self._mixes.diff
        total = len(diff.names)
        known: dict[Units, Verdict] = {}

        def test(units: Units) -> Verdict:
            if units not in known:
                names = diff.names_of(units)
                label = f"{len(names)} of {total} changes"
                if len(names) <= _NAMED:
                    label += f" ({', '.join(sorted(names))})"
                known[units] = self._verdict(self._mixes.mix(names), label)
            return known[units]

        return smallest_bad(diff.needs, test)

    # Versions ------------------------------------------------------------------------------

    def leaders(self, smallest: Smallest) -> list[str]:
        """Return of each culprit the name whose versions are searched, last visited first.

        What the resolver visits first has priority, so the last visited is narrowed first.
        """
        diff = self._mixes.diff
        place = {name: number for number, name in enumerate(diff.names)}
        names = (diff.units[unit][-1] for unit in smallest.culprits)
        return sorted(names, key=lambda name: -place[name])

    def narrowed(self, smallest: Smallest, *, only_first: bool = False) -> list[Culprit]:
        """Return the last good and the first bad version of each culprit.

        The first culprit is narrowed with the others as in the new lock, each further one with
        the previous ones at their first bad version: the result fails together.
        """
        diff = self._mixes.diff
        leaders = self.leaders(smallest)
        versioned = sorted(name for name in leaders if self._has_versions(name))
        moved = frozenset(leaders) - frozenset(versioned)
        at = {name: diff.version(name, moved=True) for name in versioned}
        culprits = []
        for number, name in enumerate(leaders[:1] if only_first else leaders):
            if name in moved:
                change = diff.change(name)
                culprits.append(
                    Culprit(
                        name=name,
                        old=change.before,
                        new=change.after,
                        good=None,
                        bad=None,
                        along=self._along(smallest, name, None),
                    )
                )
                continue
            versions = self._mixes.between(name)
            test = self._test_of(name, versions, at, moved)
            low, high = boundary(len(versions) - 1, test)
            if number > 0 and low == 0 and test(0) is Verdict.BAD:
                at[name] = versions[0]  # not needed to fail, with the others at bad versions
                continue
            at[name] = versions[high]
            culprits.append(
                Culprit(
                    name=name,
                    old=str(versions[0]),
                    new=str(versions[-1]),
                    good=str(versions[low]),
                    bad=str(versions[high]),
                    untested=[str(version) for version in versions[low + 1 : high]],
                    along=self._along(smallest, name, self._mixes.mix_at(at, moved)),
                )
            )
        return culprits

    def _test_of(
        self, name: str, versions: list[Version], at: Mapping[str, Version], moved: Names
    ) -> Callable[[int], Verdict]:
        """Return a test of the versions of a name, with other names ``at`` theirs."""

        def test(place: int) -> Verdict:
            chosen = {**at, name: versions[place]}
            label = ", ".join(f"{other} {version}" for other, version in chosen.items())
            return self._verdict(self._mixes.mix_at(chosen, moved), label)

        return test

    def _has_versions(self, name: str) -> bool:
        change = self._mixes.diff.change(name)
        return None not in (change.before, change.after) and change.before != change.after

    def _along(
        self, smallest: Smallest, name: str, mix: Mix | Unresolvable | None
    ) -> list[VersionChange]:
        """Return what else changes in a mix, of what a culprit changes with or needs."""
        diff = self._mixes.diff
        unit = next(unit for unit in smallest.culprits if name in diff.units[unit])
        leaders = set(self.leaders(smallest))
        others = sorted(diff.names_of({unit, *diff.needs[unit]}) - leaders)
        if not isinstance(mix, Mix):
            return [diff.change(other) for other in others]
        moves = []
        for other in others:
            before = diff.change(other).before
            module = mix.lock.find(other)
            after = module.version if module is not None else None
            if before != after:
                moves.append(VersionChange(other, before, after))
        return moves

    # Trying --------------------------------------------------------------------------------

    def _verdict(self, mix: Mix | Unresolvable, label: str) -> Verdict:
        result = self._trials.result(mix, label)
        if result.verdict is Verdict.UNKNOWN:
            skipped = SkippedMix(label, result.reason)
            if skipped not in self.skipped:
                self.skipped.append(skipped)
                if not result.ran:
                    self._report(f"Skipped: {label}: {result.reason.splitlines()[0]}")
        return result.verdict


def try_end(trials: Trials, mix: Mix | Unresolvable, label: str) -> TrialResult:
    """Return the result of an end of a search.

    Raises:
        BisectError: Its verdict is unknown.
    """
    result = trials.result(mix, label)
    if result.verdict is Verdict.UNKNOWN:
        raise BisectError("M793", command=trials.command.shown, end=label, reason=result.reason)
    return result


def check_good(trials: Trials, mix: Mix | Unresolvable, label: str, remedy: str) -> None:
    """Check that the command passes at the good end of a search.

    Raises:
        BisectError: It fails, or passes in some of its runs only.
    """
    result = try_end(trials, mix, label)
    if result.verdict is Verdict.GOOD:
        return
    if isinstance(mix, Mix) and 0 in trials.exits(mix):
        raise BisectError(
            "M796", command=trials.command.shown, end=label, how=result.reason, log=result.log
        )
    raise BisectError(
        "M791",
        command=trials.command.shown,
        end=label,
        how=result.reason,
        remedy=remedy,
        log=result.log,
    )


def held_below(mixes: LockMixes, one: Culprit) -> SpecifierSet:
    """Return a range that excludes the bad versions of a module."""
    versions = mixes.between(one.name)
    if versions[0] > versions[-1]:
        return SpecifierSet(f"=={one.good}")
    return SpecifierSet(f"<={one.good}" if one.untested else f"<{one.bad}")
