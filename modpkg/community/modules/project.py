"""Module projects: found from a folder, and built with what the registries have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec.structs import replace
from packaging.version import Version

from modpkg.community.modules.composed import composed_base
from modpkg.community.modules.memory import memory_of
from modpkg.community.modules.rows import rows_warning
from modpkg.core.errors import ManifestError, RegistryError, ReleaseError, TrustError
from modpkg.core.foreign import how_to_import
from modpkg.core.names import ModuleName, listed, parse_version
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.environment.named_release import check_named, take_named
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.manifest.against import parse_release
from modpkg.manifest.find import find_manifest
from modpkg.manifest.schema import Manifest, ModuleTable
from modpkg.registry.base import find_base
from modpkg.registry.known import known_tensors
from modpkg.registry.opening import place_to_compare
from modpkg.registry.origins import find_origins
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import relatives_of_project
from modpkg.release.base import Base
from modpkg.release.build import Built, acts_on_base, build
from modpkg.release.content import collect
from modpkg.release.known import Known


def module_project(folder: Path, workspace: Workspace) -> Workspace:
    """Return the workspace of the module project around a folder.

    Raises:
        ManifestError: There is no manifest, or it is an app's.
    """
    path = find_manifest(folder.absolute())
    if path is None:
        making = how_to_import(folder)
        remedy = (
            f"to make a module of what is there, run: {making}"
            if making is not None
            else f"'modpkg init {folder} --kind adapter' makes one"
        )
        raise ManifestError("M111", folder=folder, remedy=remedy)
    project = workspace.for_project(Project(path))
    if project.manifest.module is None:
        raise ManifestError(
            "M112",
            path=path,
            found="an app",
            needed="a module",
            remedy="name the folder of a module ('modpkg init FOLDER --kind adapter' creates one).",
        )
    return project


def module_table(manifest: Manifest) -> ModuleTable:
    """Return the ``[module]`` table of a manifest that has one."""
    if manifest.module is None:
        raise AssertionError(f"{manifest.path} is an app's")
    return manifest.module


def build_project(
    project: Workspace,
    out: Path,
    *,
    against: str | None = None,
    known: Known | None = None,
    deltas: bool = True,
    accept: Callable[[Path, ReleaseRecord], None] = lambda tree, record: None,
    older: bool = False,
) -> Built:
    """Build the release of a module project into ``out``.

    Args:
        project: Its workspace.
        out: Folder of the registry tree that is written; it is replaced.
        against: Release of the base that an adapter, head or patch was made for, as
            ``NAME==VERSION`` or only its version. By default the manifest's ``against``, or else
            the newest that its requirement allows.
        known: Tensors of the registry that the release will be published to.
        deltas: Whether changed tensors are written as changes.
        accept: Called with the finished tree before it replaces ``out``.
        older: Whether an older base is taken if the module does not fit the newest one.

    Raises:
        TrustError: The project may not have the base; see `check_named`.
        ReleaseError: The manifest has another ``against``, or a recipe that cannot be composed; and
            what looking up the base and the origins, and what building can raise.
    """
    manifest, registries = project.manifest, project.registries
    module = module_table(manifest)
    origins = find_origins(manifest, registries.of)
    base = None
    if acts_on_base(manifest):
        by_name: dict[str, Registry] = {
            dependency.name: registries.of(dependency.name) for dependency in manifest.dependencies
        }
        version = _version(manifest, against)
        base = composed_base(project, version) or find_base(manifest, by_name, version)
        take_named(
            project, _line(project, base), is_explicit=(version or module.against) is not None
        )
        base = replace(base, others=partial(_others, project, base))
    checked: tuple[str, ...] = ()
    if manifest.compose is not None:
        from modpkg.environment.foreseen import check_recipe

        checked = check_recipe(project, manifest)
    project.progress.stage(f"Building {module.name}")
    built = build(
        manifest,
        module,
        out,
        base=base,
        origins=origins,
        known=known,
        deltas=deltas,
        progress=project.progress.advance,
        accept=accept,
        memory=memory_of,
        older=older,
    )
    if base is not None and module.kind == "adapter":
        warning = rows_warning(built.record, collect(manifest).files, base)
        if warning is not None:
            project.progress.warn(warning)
    return replace(built, checked_with=checked) if checked else built


def _line(project: Workspace, base: Base) -> IndexLine:
    name, version = ModuleName(base.record.name), base.record.version
    return project.registries.of(name).line(name, version)


def _others(project: Workspace, base: Base) -> Iterator[Base]:
    """Yield the other releases that a project may have."""
    for other in base.others():
        with suppress(TrustError):
            check_named(project, _line(project, other))
            yield other


def _version(manifest: Manifest, against: str | None) -> Version | None:
    """Return the version of the base that a command line names.

    Raises:
        InvalidValue: ``against`` is neither a release nor a version.
        ReleaseError: It is another release than the manifest's.
    """
    if against is None:
        return None
    name, version = parse_release(against) if "=" in against else (None, parse_version(against))
    module = module_table(manifest)
    own = module.against
    if own is not None and (own.version != version or name not in (None, own.name)):
        written = f"against = '{own.name}=={own.version}'"
        raise ReleaseError("M422", given=against, where=own.where, written=written)
    dependencies = {dependency.name for dependency in manifest.dependencies}
    if name is not None and name not in dependencies:
        shown = listed(dependencies) or "none"
        raise ReleaseError(
            "M422", given=against, where=manifest.path, written=f"other dependencies ({shown})"
        )
    return version


def published_tensors(project: Workspace) -> Known | None:
    """Return the tensors of the registry to publish to; None if nothing can be published there."""
    module = module_table(project.manifest)
    try:
        options = project.options
        place = place_to_compare(project.manifest, options.registry, offline=options.offline)
    except RegistryError:
        return None
    relatives = relatives_of_project(project.manifest, module.name, module.version)
    return known_tensors(place, relatives, project.store.blobs)
