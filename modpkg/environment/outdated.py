"""Locked versions beside those an update would install, and the newest; and what was taken back."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET, Struct
from msgspec.structs import replace

from modpkg.core.errors import LockError, NotFound, ResolutionImpossible
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.names import ModuleName, parse_version, requirement_text
from modpkg.environment.preview import Preview
from modpkg.environment.taken_back import yank_signed
from modpkg.environment.yanked import replaced_release
from modpkg.registry.select import newest_release
from modpkg.registry.standing import NO_REASON
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import Lock
from modpkg.resolve.need import Candidate, Need, dependencies
from modpkg.resolve.resolve import Resolution
from modpkg.trust.rules import rule_of


class Outdated(Struct, frozen=True, kw_only=True):
    """One locked module with a newer version, or whose release is yanked, deprecated or gone."""

    name: str
    locked: str
    update: str | None
    """The version that ``modpkg update`` would install; None if nothing would need it any more.

    None as well if there is no update, as where the only release was removed: ``reason`` says so.
    """
    newest: str | None
    """The newest release that is not yanked; None if all were."""
    reason: str = ""
    """Why an update does not install the newest, or why there is none."""
    yanked: str | None = None
    """Why the locked release was yanked; None if it was not."""
    yank_signed: bool | None = None
    """Whether who signs the module has signed that; None if it was not, if nobody has to, or it is
    not known. An update goes back by no other yank of a signed module."""
    deprecated: str | None = None
    """Why the locked release should not be used any more, if it should not; may be empty."""
    successor: str = ""
    """What to use instead of a deprecated release, as a requirement."""
    removed: str | None = None
    """Why the locked release was removed from its registry; None if it was not."""
    replaced: str | None = None
    """How the registry differs from the lock in that version, as a clause; None if it does not."""

    @property
    def is_taken_back(self) -> bool:
        """Whether the registry has not got the locked release any more, or yanked it."""
        return any(one is not None for one in (self.yanked, self.removed, self.replaced))


_NO_UPDATE = "no versions satisfy all requirements; see: modpkg update --dry-run"


def outdated(preview: Preview) -> list[Outdated]:
    """Return the locked modules that `Outdated` is about, in the lock's order.

    Raises:
        LockError: There is no lock.
        ResolutionImpossible: No versions fit together, although no locked release was taken back.
        NotFound: A registry lacks a module that is not locked.
    """
    if preview.lock is None:
        path = preview.manifest.folder / LOCK_NAME
        raise LockError("M411", path=path, remedy=preview.project.to_lock)
    try:
        updated = preview.resolve(upgrade=None)
    except (ResolutionImpossible, NotFound) as error:
        rows = _rows(preview, preview.lock, None)
        if not any(row.is_taken_back for row in rows):
            raise
        reason = f"no update: {error}" if isinstance(error, NotFound) else _NO_UPDATE
        return [replace(row, reason=reason) for row in rows]
    rows = _rows(preview, preview.lock, updated)
    if not any(_goes_back(row) for row in rows):
        return rows
    broken = preview.broken()
    return [
        replace(row, update=None, reason=broken[row.name]) if row.name in broken else row
        for row in rows
    ]


def _goes_back(row: Outdated) -> bool:
    return row.update is not None and parse_version(row.update) < parse_version(row.locked)


def _rows(preview: Preview, lock: Lock, updated: Resolution | None) -> list[Outdated]:
    """Return the rows; without the resolution of an update, those know of none."""
    rows = []
    for module in lock.module:
        name = ModuleName(module.name)
        chosen = None if updated is None else updated.modules.get(name)
        update = str(chosen.release.version) if chosen is not None else None
        newest = _newest(preview, name)
        locked = _release(preview, name, module.version)
        line = None if locked is None else locked.line
        yanked = None if line is None or line.yanked is None else line.yanked or NO_REASON
        others = {module.version if updated is None else update, module.version}
        current = newest is None or others == {str(newest.version)}
        lines = [release.line for release in preview.catalog.releases(name)]
        replaced = replaced_release(module, lines)
        if (moved := preview.newest_of_hub(name)) is not None and module.version != moved:
            rows.append(Outdated(name=name, locked=module.version, update=moved, newest=moved))
            continue
        deprecated = None if line is None or line.deprecated is UNSET else line.deprecated
        if current and yanked is None and deprecated is None and replaced is None:
            continue
        reason = ""
        if updated is not None and chosen is not None and newest is not None:
            reason = "" if chosen.release is newest else _reason(preview, updated, newest)
            is_other = chosen.release.line.release != module.release
            if is_other and (error := preview.refused(chosen.release)) is not None:
                update, reason = None, str(error.values.get("change", error))
        rows.append(
            Outdated(
                name=name,
                locked=module.version,
                update=update,
                newest=None if newest is None else str(newest.version),
                reason=reason,
                yanked=yanked,
                yank_signed=None
                if locked is None
                else yank_signed(
                    module, locked.registry, locked.line, rule_of(preview.manifest.trust, name)
                ),
                deprecated=deprecated,
                successor="" if line is None else line.successor or "",
                removed=None if line is None or line.removed is UNSET else line.removed,
                replaced=replaced,
            )
        )
    return rows


def _release(preview: Preview, name: ModuleName, version: str) -> Release | None:
    """Return a release; None if it is not in its registry."""
    releases = preview.catalog.releases(name)
    return next((one for one in releases if str(one.version) == version), None)


def _newest(preview: Preview, name: ModuleName) -> Release | None:
    """Return the newest release that is not yanked; a pre-release only where it is admitted."""
    releases = preview.catalog.releases(name)
    admitted = preview.admission(upgrade=None).releases(preview.catalog, name)
    line = newest_release(
        (release.line for release in releases), admitted=[release.version for release in admitted]
    )
    return next((release for release in releases if release.line is line), None)


def _reason(preview: Preview, updated: Resolution, newest: Release) -> str:
    """Return why the newest release of a name is not selected."""
    refusal = preview.admission(upgrade=None).refusal(preview.catalog, newest)
    if refusal is not None:
        return f"it {refusal}"
    admission = preview.admission()
    for who, need in _needs(preview, updated):
        if need.name != newest.name:
            continue
        if not need.specifier.contains(newest.version, prereleases=True):
            text = requirement_text(need.name, set(), need.specifier)
            return f"{who} needs {text}"
        unfit = need.parent and admission.unfit(preview.catalog, need.parent, newest)
        if unfit:
            return f"it does not fit {who}: {unfit}"
    modules = [chosen.release for chosen in updated.modules.values()]
    chosen = next((one.version for one in modules if one.name == newest.name), newest.version)
    if passed_over := preview.passed_over(newest, chosen, modules):
        return f"it {passed_over}"
    if admission.prefers_lowest(newest.name):
        return "the strategy prefers the oldest"
    return f"see: modpkg why-not {newest.name}=={newest.version}"


def _needs(preview: Preview, updated: Resolution) -> Iterator[tuple[str, Need]]:
    """Yield all requirements of a resolution, each with who requires it."""
    for root in preview.roots:
        if root.name not in preview.catalog.overrides:
            yield root.where or preview.manifest.path.name, root
        else:
            bound = preview.catalog.overrides[root.name]
            yield f"{bound.where} (an override)", Need(root.name, None, bound.specifier)
    for chosen in updated.modules.values():
        release = chosen.release
        for extra in (None, *chosen.extras):
            for need in dependencies(Candidate(release, extra)):
                yield f"{release.name} {release.version}", need
