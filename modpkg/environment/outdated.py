"""What is locked, beside what an update would take and what there is."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from modpkg.core.errors import LockError
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.names import ModuleName, requirement_text
from modpkg.environment.preview import Trial
from modpkg.registry.select import newest_release
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Candidate, Need, dependencies
from modpkg.resolve.resolve import Resolution


class Outdated(Struct, frozen=True, kw_only=True):
    """One locked module for which there is another version."""

    name: str
    locked: str
    update: str | None
    """What ``modpkg update`` would take; None where nothing would need it any more."""
    newest: str
    """The newest release there is at all, yanked ones aside."""
    reason: str = ""
    """What keeps an update from the newest."""


def outdated(trial: Trial) -> list[Outdated]:
    """Return the locked modules for which there is something newer, in the lock's order.

    Raises:
        LockError, ResolutionImpossible, NotFound.
    """
    if trial.lock is None:
        raise LockError("M411", path=trial.manifest.folder / LOCK_NAME)
    updated = trial.resolve(upgrade=None)
    found = []
    for module in trial.lock.module:
        name = ModuleName(module.name)
        chosen = updated.modules.get(name)
        update = str(chosen.release.version) if chosen is not None else None
        newest = _newest(trial, name)
        if newest is None or module.version == update == str(newest.version):
            continue
        reason = ""
        if chosen is not None and chosen.release is not newest:
            reason = _reason(trial, updated, newest)
        found.append(
            Outdated(
                name=name,
                locked=module.version,
                update=update,
                newest=str(newest.version),
                reason=reason,
            )
        )
    return found


def _newest(trial: Trial, name: ModuleName) -> Release | None:
    """Return the newest release that is not yanked; a pre-release only where it is admitted."""
    releases = trial.catalog.releases(name)
    admitted = trial.admission(upgrade=None).releases(trial.catalog, name)
    line = newest_release(
        (release.line for release in releases), admitted=[release.version for release in admitted]
    )
    return next((release for release in releases if release.line is line), None)


def _reason(trial: Trial, updated: Resolution, newest: Release) -> str:
    """Return what keeps the newest release of a name from being chosen."""
    refusal = trial.admission(upgrade=None).refusal(trial.catalog, newest)
    if refusal is not None:
        return f"it {refusal}"
    for who, need in _needs(trial, updated):
        if need.name != newest.name:
            continue
        if not need.specifier.contains(newest.version, prereleases=True):
            text = requirement_text(need.name, set(), need.specifier)
            return f"{who} needs {text}"
        if need.parent is not None and (unfit := trial.catalog.unfit(need.parent, newest)):
            return f"it does not fit {who}: {unfit}"
    if trial.admission().prefers_lowest(newest.name):
        return "the strategy takes the oldest"
    return f"see: modpkg why-not {newest.name}=={newest.version}"


def _needs(trial: Trial, updated: Resolution) -> Iterator[tuple[str, Need]]:
    """Yield all requirements of a resolution, with who has them."""
    for root in trial.roots:
        if root.name not in trial.catalog.overrides:
            yield root.where or trial.manifest.path.name, root
        else:
            bound = trial.catalog.overrides[root.name]
            yield f"{bound.where} (an override)", Need(root.name, None, bound.specifier)
    for chosen in updated.modules.values():
        release = chosen.release
        for extra in (None, *chosen.extras):
            for need in dependencies(Candidate(release, extra)):
                yield f"{release.name} {release.version}", need
