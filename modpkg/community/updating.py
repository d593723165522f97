"""``modpkg update --test``: the newest set of versions with which the tests pass.

Everything newest is tried first. Where that fails, what breaks it is found (as `bisect` does),
the one of its modules that is visited last when resolving is held below its first bad version, and
everything newest beside that is tried, and so on: each turn holds one module lower, so it ends, at
the latest with what is locked now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from modpkg.community.blame import Blamed, Search, Skipped, check_good, held_below, try_end
from modpkg.community.minimize import Verdict
from modpkg.community.mixes import Mixes
from modpkg.community.trials import Trials
from modpkg.environment.locking import make_lock
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.lock import Lock
from modpkg.manifest import Dependency, Manifest
from modpkg.names import ModuleName


class Held(Struct, frozen=True, kw_only=True):
    """A module that is not taken at its newest, since tests fail with that."""

    name: str
    version: str
    """What it is held at."""
    newest: str
    """What an update without tests would take."""
    bad: str
    """The first version with which the tests fail."""
    together: list[str]
    """Other modules that have to be new for the tests to fail."""


class TestedUpdate(Struct, frozen=True, kw_only=True):
    """What a tested update takes."""

    lock: Lock
    """The tests pass on exactly this."""
    held: list[Held]
    skipped: list[Skipped]
    runs: int
    earlier: int


def tested_update(
    project: Project,
    text: str,
    manifest: Manifest,
    current: Lock,
    registries: Registries,
    trials: Trials,
    tell: Callable[[str], None],
    *,
    upgrade: Iterable[str] | None,
) -> TestedUpdate:
    """Find the newest set of versions with which the tests pass; nothing is switched.

    ``project`` and ``text`` are of the trials, ``manifest`` is the user's, with what the command
    line puts in its place. ``current`` answers it. ``upgrade`` are the modules to take anew; None
    means all.

    Raises:
        GoodEndFails: the tests fail with what is locked now already. EndNotTested, CommandWavers,
            CommandEnded, and what resolving and installing can raise.
    """
    wanted = list(upgrade) if upgrade is not None else None
    bounds: dict[str, SpecifierSet] = {}
    blamed: dict[str, tuple[Blamed, list[str]]] = {}
    skipped: list[Skipped] = []
    newest: Lock | None = None
    while True:
        target = _newest(manifest, registries, current, wanted, bounds)
        newest = newest or target
        if target.module == current.module:
            break
        mixes = Mixes(project, text, current, target, registries)
        label = "everything newest" if not bounds else f"everything newest but {', '.join(bounds)}"
        if try_end(trials, mixes.mix(mixes.changes.names), label).verdict is Verdict.GOOD:
            break
        if not bounds:
            remedy = "mend what fails first, or name tests that pass"
            check_good(trials, mixes.mix(()), "what is locked now", remedy)
        search = Search(mixes, trials, tell)
        found = search.smallest()
        leaders = search.leaders(found)
        (one,) = search.narrowed(found, only_first=True)
        bounds[one.name] = held_below(mixes, one)
        blamed[one.name] = one, [name for name in leaders if name != one.name]
        skipped += search.skipped
        tell(f"{one.name} is held below {one.bad}")
    trials.end()
    held = [
        Held(
            name=name,
            version=_version(target, name),
            newest=_version(newest, name),
            bad=one.bad or "",
            together=together,
        )
        for name, (one, together) in blamed.items()
    ]
    return TestedUpdate(
        lock=target,
        held=held,
        skipped=skipped,
        runs=trials.made + trials.remembered,
        earlier=trials.remembered,
    )


def _newest(
    manifest: Manifest,
    registries: Registries,
    current: Lock,
    upgrade: list[str] | None,
    bounds: dict[str, SpecifierSet],
) -> Lock:
    """Return what an update would lock with some modules held in ranges."""
    constraints = {bound.name: bound for bound in manifest.constraints}
    for name, bound in bounds.items():
        old = constraints.get(ModuleName(name))
        both = bound & old.requirement.specifier if old is not None else bound
        constraints[ModuleName(name)] = Dependency(Requirement(f"{name}{both}"), where="the tests")
    narrowed = msgspec.structs.replace(
        manifest, constraints=tuple(constraints[name] for name in sorted(constraints))
    )
    lock = make_lock(narrowed, registries, current, upgrade=upgrade).lock
    return msgspec.structs.replace(lock, constraints=current.constraints)


def _version(lock: Lock, name: str) -> str:
    module = lock.find(name)
    return module.version if module is not None else "absent"
