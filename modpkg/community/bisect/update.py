"""``modpkg update --test``: the newest set of versions with which the tests pass.

Everything newest is tried first. Where that fails, what breaks it is found (as `bisect` does),
the one of its modules that is visited last when resolving is held below its first bad version, and
everything newest beside that is tried, and so on: each turn holds one module lower, so it ends, at
the latest with what is locked now.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from modpkg.community.bisect.minimize import Verdict
from modpkg.community.bisect.search import Blamed, Search, Skipped, check_good, held_below, try_end
from modpkg.community.bisect.session import Session
from modpkg.core.errors import BisectError
from modpkg.core.names import ModuleName
from modpkg.environment.locking import current_lock, make_lock
from modpkg.environment.policy import recorded, with_flags
from modpkg.environment.registries import Registries
from modpkg.manifest.schema import Dependency, Manifest
from modpkg.resolve.lock import Lock, read_lock


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


def tested_update(session: Session) -> TestedUpdate:
    """Find the newest set of versions with which the tests pass; nothing is switched.

    The session's request has the modules to take anew, and what the command line puts in the
    manifest's place.

    Raises:
        LockError: there is no lock to begin from.
        BisectError: the tests fail with what is locked now already.
        BisectError: as for bisecting.
        BisectError: somebody changed manifest or lock meanwhile.
        What resolving and installing can raise.
    """
    project, request, trials = session.project, session.request, session.trials
    before = project.text()
    plain = project.parse(before)
    current = current_lock(project, plain, read_lock(project.lock_path))
    manifest = with_flags(plain, strategy=request.strategy, exclude_newer=request.exclude_newer)
    wanted = list(request.upgrade) if request.upgrade is not None else None
    bounds: dict[str, SpecifierSet] = {}
    blamed: dict[str, tuple[Blamed, list[str]]] = {}
    skipped: list[Skipped] = []
    newest: Lock | None = None
    while True:
        target = _newest(manifest, session.registries, current, wanted, bounds)
        newest = newest or target
        if target.module == current.module:
            break
        mixes = session.mixes(current, target)
        label = "everything newest" if not bounds else f"everything newest but {', '.join(bounds)}"
        if try_end(trials, mixes.mix(mixes.changes.names), label).verdict is Verdict.GOOD:
            break
        if not bounds:
            remedy = "mend what fails first, or name tests that pass"
            check_good(trials, mixes.mix(()), "what is locked now", remedy)
        search = Search(mixes, trials, session.tell)
        found = search.smallest()
        leaders = search.leaders(found)
        (one,) = search.narrowed(found, only_first=True)
        bounds[one.name] = held_below(mixes, one)
        blamed[one.name] = one, [name for name in leaders if name != one.name]
        skipped += search.skipped
        session.tell(f"{one.name} is held below {one.bad}")
    if project.text() != before:
        raise BisectError("M797", path=project.manifest_path)
    if read_lock(project.lock_path) != current:
        raise BisectError("M797", path=project.lock_path)
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
    return msgspec.structs.replace(lock, constraints=recorded(manifest.constraints))


def _version(lock: Lock, name: str) -> str:
    module = lock.find(name)
    return module.version if module is not None else "absent"
