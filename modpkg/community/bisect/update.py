"""``modpkg update --test``: the newest set of versions with which the tests pass.

The newest of everything is tried first. If that fails, the culprits are searched as by `bisect`;
the one that the resolver visits last is held below its first bad version, the newest of everything
else is tried, and so on. Each round holds one module lower, so this ends, at the latest with what
is locked now.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet

from modpkg.community.bisect.minimize import Verdict
from modpkg.community.bisect.search import (
    Culprit,
    CulpritSearch,
    HeldModule,
    SkippedMix,
    check_good,
    held_below,
    try_end,
)
from modpkg.community.bisect.session import TrialSession
from modpkg.core.errors import BisectError
from modpkg.core.names import ModuleName, Requirement
from modpkg.environment.locking import Locked, make_lock
from modpkg.environment.policy import recorded, with_flags
from modpkg.environment.up_to_date import current_lock
from modpkg.manifest.schema import Dependency, Manifest
from modpkg.resolve.lock import Lock, read_lock


class TestedUpdate(Struct, frozen=True, kw_only=True):
    """The result of a tested update."""

    locked: Locked
    """The tests passed on exactly this lock."""
    held: list[HeldModule]
    skipped: list[SkippedMix]
    runs: int
    earlier: int


def tested_update(session: TrialSession) -> TestedUpdate:
    """Return the newest set of versions with which the tests pass; nothing is installed.

    The session's request has the modules to update, and the policy of the command line.

    Raises:
        LockError: There is no lock to start from.
        BisectError: The tests fail with the current lock, or manifest or lock were changed
            meanwhile; or see `bisect`.
        ModpkgError: Resolving or installing fails.
    """
    project, request, trials = session.project, session.request, session.trials
    before = project.text()
    plain = project.parse(before)
    current = current_lock(
        project,
        plain,
        read_lock(project.lock_path),
        registry_of=session.registries.of,
        warn=session.warn,
        installed=session.installed,
        accepted=session.accepted,
    )
    manifest = with_flags(
        plain,
        strategy=request.strategy,
        exclude_newer=request.exclude_newer,
        strict=request.strict,
        require_signed=request.require_signed,
    )
    upgrade = list(request.upgrade) if request.upgrade is not None else None
    bounds: dict[str, SpecifierSet] = {}
    blamed: dict[str, tuple[Culprit, list[str]]] = {}
    skipped: list[SkippedMix] = []
    newest: Lock | None = None
    while True:
        locked = _newest(session, manifest, current, upgrade, bounds)
        target = locked.lock
        newest = newest or target
        if target.module == current.module:
            break
        mixes = session.mixes(current, target)
        label = f"newest but {', '.join(bounds)}" if bounds else "newest of everything"
        if try_end(trials, mixes.mix(mixes.diff.names), label).verdict is Verdict.GOOD:
            break
        if not bounds:
            remedy = "fix what fails first, or name tests that pass"
            check_good(trials, mixes.mix(()), "the current lock", remedy)
        search = CulpritSearch(mixes, trials, session.report)
        smallest = search.smallest()
        leaders = search.leaders(smallest)
        (culprit,) = search.narrowed(smallest, only_first=True)
        bounds[culprit.name] = held_below(mixes, culprit)
        blamed[culprit.name] = culprit, [name for name in leaders if name != culprit.name]
        skipped += search.skipped
        session.report(f"Holding {culprit.name} below {culprit.bad}")
    if project.text() != before:
        raise BisectError("M797", path=project.manifest_path)
    if read_lock(project.lock_path) != current:
        raise BisectError("M797", path=project.lock_path)
    trials.finish()
    held = [
        HeldModule(
            name=name,
            version=_version(target, name),
            newest=_version(newest, name),
            bad=culprit.bad or "",
            together=together,
        )
        for name, (culprit, together) in blamed.items()
    ]
    return TestedUpdate(
        locked=locked,
        held=held,
        skipped=skipped,
        runs=trials.made + trials.remembered,
        earlier=trials.remembered,
    )


def _newest(
    session: TrialSession,
    manifest: Manifest,
    current: Lock,
    upgrade: list[str] | None,
    bounds: dict[str, SpecifierSet],
) -> Locked:
    """Return what an update would lock with some modules bounded."""
    constraints = {bound.name: bound for bound in manifest.constraints}
    for name, bound in bounds.items():
        old = constraints.get(ModuleName(name))
        both = bound & old.requirement.specifier if old is not None else bound
        narrower = Requirement(ModuleName(name), (), both)
        constraints[ModuleName(name)] = Dependency(narrower, where="the tests")
    narrowed = msgspec.structs.replace(
        manifest, constraints=tuple(constraints[name] for name in sorted(constraints))
    )
    locked = make_lock(
        narrowed,
        session.registries,
        current,
        upgrade=upgrade,
        accepted=session.accepted,
        installed=session.installed,
        is_removed=session.is_removed,
    )
    lock = msgspec.structs.replace(locked.lock, constraints=recorded(manifest.constraints))
    return msgspec.structs.replace(locked, lock=lock)


def _version(lock: Lock, name: str) -> str:
    module = lock.find(name)
    return module.version if module is not None else "absent"
