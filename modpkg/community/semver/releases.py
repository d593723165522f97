"""Checks of projects and builds against what a registry has: where facts come from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from packaging.version import Version

from modpkg.community.evaluate.builds import built_release
from modpkg.community.evaluate.run import check_report
from modpkg.community.modules.view import view_of_build, view_of_project, view_of_release
from modpkg.community.semver.changelog import (
    Changes,
    LockChange,
    figures,
    layer_changes,
    lock_changes,
)
from modpkg.community.semver.check import Check, check
from modpkg.core.errors import ModpkgError, NotFound, PublishError, TestError, UsageError
from modpkg.core.filenames import REGISTRY_INFO, REPORT
from modpkg.core.home import store_folder
from modpkg.core.names import module_name, parse_version
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.manifest.schema import Manifest, ModuleTable
from modpkg.registry.reader import Registry
from modpkg.registry.select import earlier_release, newest_release
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.store.store import Store


def check_project(
    manifest: Manifest,
    module: ModuleTable,
    progress: Progress,
    *,
    against: str | None = None,
    registry: str | None = None,
    offline: bool = False,
) -> Check:
    """Check a project against the release before it, or the one that ``against`` names.

    Raises:
        NotFound, and what reading project and registry can raise.
    """
    workspace = Workspace(options=RegistryOptions(registry, offline), progress=progress)
    store, registries = workspace.store, workspace.registries_for(manifest)
    if against is not None:
        line: IndexLine | None = named_release(against, registries)
    else:
        try:
            lines = registries.of(module.name).index(module.name)
        except NotFound as error:  # publishing makes it
            progress.warn(str(error))
            lines = []
        line = earlier_release(lines, module.version, itself=True)
    progress.stage(f"Reading {module.name}")
    after = view_of_project(manifest, progress.advance)
    before = None if line is None else view_of_release(line, registries, store, progress)
    stale = ""
    if before is not None and REPORT in before.files and REPORT in after.files:
        stale = _stale(workspace, manifest)
    progress.stage("Comparing")
    with store.lock():
        return check(
            before,
            after,
            published=_published(registries),
            progress=progress.advance,
            stale=stale,
        )


def _stale(workspace: Workspace, manifest: Manifest) -> str:
    """Return why a project's report is not one of what building it would give; "" where it is."""
    own = workspace.for_project(Project(manifest.path))
    with own.store.lock(), built_release(own) as release:
        try:
            check_report(own, release)
        except TestError as error:
            if error.code != "M711":
                raise
            return f"tests were not compared: {error} The verdict is about the rest alone."
    return ""


def check_build(
    manifest: Manifest, dist: Registry, line: IndexLine, registry: Path, progress: Progress
) -> Check:
    """Check a built release against the release before it in the registry folder it goes to.

    Raises:
        What reading either can raise.
    """
    store = Store(store_folder())
    registries = Registries(
        manifest, store.blobs, default=str(registry.absolute()), warn=progress.warn
    )
    reader = Registry(str(registry.absolute()))
    lines = reader.index(line.name) if (registry / REGISTRY_INFO).exists() else []
    earlier = earlier_release(lines, parse_version(line.version))
    before = None if earlier is None else view_of_release(earlier, registries, store, progress)
    with tempfile.TemporaryDirectory(prefix="modpkg-check-") as spool, store.lock():
        after = view_of_build(line, dist, registry, Path(spool))
        return check(before, after, published=_published(registries), count=False)


def changes_between(
    one: IndexLine, two: IndexLine, registries: Registries, progress: Progress, *, count: bool
) -> Changes:
    """Return what changed from one release of a module to another.

    Without ``count`` no weights are fetched unless the level of the change hangs on them.

    Raises:
        What reading and fetching the releases can raise; TestError.
    """
    store = Store(store_folder())
    before, after = (view_of_release(line, registries, store, progress) for line in (one, two))
    progress.stage("Comparing")
    with store.lock():
        found = check(before, after, published=_published(registries), count=count)
        layers = layer_changes(before, after, progress) if count else ()
    record = registries.of(two.name).record(two)
    return Changes(
        check=found,
        layers=layers,
        figures=figures(before, after),
        licenses=(before.module.license, after.module.license),
        yanked=two.yanked,
        breaking=record.provenance.breaking or "",
    )


def lock_changelog(
    before: Lock, after: Lock, registries: Registries, progress: Progress
) -> list[LockChange]:
    """Return what changed from one lock of an app to another, module by module.

    Raises:
        What reading the registries can raise.
    """
    found = []
    for name, one, two in lock_changes(before, after):
        changes = None
        if one is not None and two is not None and one.version != two.version:
            lines = [_locked_line(module, registries) for module in (one, two)]
            changes = changes_between(lines[0], lines[1], registries, progress, count=False)
        found.append(
            LockChange(
                name=name,
                before=None if one is None else one.version,
                after=None if two is None else two.version,
                changes=changes,
            )
        )
    return found


def _locked_line(module: LockedModule, registries: Registries) -> IndexLine:
    """Return the index line of a locked release: that of its version, with the lock's digest."""
    line = registries.of(module.name).line(module.name, module.version)
    return msgspec.structs.replace(line, release=module.release)


def require_legal(found: Check) -> None:
    """Refuse a check that is not legal.

    Raises:
        PublishError: names the facts and the lowest legal version.
    """
    if found.legal:
        return
    reasons = [f"{fact.about}: {fact.text}" for fact in found.facts if fact.level == found.level]
    raise PublishError(
        "M761",
        name=found.name,
        version=found.version,
        against=found.against,
        level=found.level,
        lowest=found.lowest,
        facts="".join(f"\n  {reason}" for reason in reasons[:10]),
    )


def newest_or_named(text: str, registries: Registries) -> IndexLine:
    """Return the release that ``NAME==VERSION`` names, or the newest one of ``NAME``.

    Raises:
        NotFound.
    """
    if "==" in text:
        return named_release(text, registries)
    name = module_name(text)
    line = newest_release(registries.of(name).index(name), or_yanked=True)
    if line is None:
        raise NotFound("M304", name=name, registry=registries.of(name).url, hint="")
    return line


def named_release(text: str, registries: Registries) -> IndexLine:
    """Return the release that ``NAME==VERSION`` names.

    Raises:
        UsageError: it has another form. NotFound.
    """
    name, separator, version = text.partition("==")
    if not separator:
        raise UsageError("M901", message=f"Name a release as NAME==VERSION, not {text!r}.")
    chosen = module_name(name)
    return registries.of(chosen).line(chosen, str(parse_version(version)))


def _published(registries: Registries) -> Callable[[str], list[Version]]:
    def published(name: str) -> list[Version]:
        try:
            return [parse_version(line.version) for line in registries.of(name).index(name)]
        except ModpkgError:
            return []  # the range itself is compared all the same

    return published
