"""Planning an install: all that can be known before a byte of weights moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.compose.composition import Composition
from modpkg.compose.memory import needs_torch, peak_bytes, scratch_bytes
from modpkg.core import system
from modpkg.core.errors import InstallError, IntegrityError
from modpkg.core.extras import require_torch, require_transformers
from modpkg.core.names import ModuleName, Requirement, module_name, specifier_text
from modpkg.environment.compositions import compositions_of, fetch_file
from modpkg.environment.fits import Fit, drifting, fits_of, require_exact
from modpkg.environment.generations import Generation
from modpkg.environment.licences import ModuleLicense, check_licences, require_accepted
from modpkg.environment.locking import requirements_of, resolve_lock, users_of_modules
from modpkg.environment.models import ModelRecipe, files_of_recipes, recipes
from modpkg.environment.policy import check_engine, with_flags
from modpkg.environment.project import Project
from modpkg.environment.remember import Remembered, moved, remember
from modpkg.environment.remembered_signers import signed_otherwise
from modpkg.environment.signed_registries import not_in_lock
from modpkg.environment.signers import unsigned_releases
from modpkg.environment.trust_news import TrustNews
from modpkg.environment.up_to_date import check_closed, current_lock, stale_reason
from modpkg.environment.workspace import Workspace
from modpkg.environment.yanked import check_not_removed, deprecated_releases, yanked_releases
from modpkg.manifest.dependencies import DEFAULT
from modpkg.manifest.edit import remove_dependency, set_dependency
from modpkg.manifest.schema import COMMAND_LINE, Dependency, HubModel, Manifest, Strategy
from modpkg.manifest.starter import without_examples
from modpkg.resolve.lock import Lock
from modpkg.store.store import Store
from modpkg.transfer.plan import TransferPlan, plan_transfer, prefetch_records


class InstallRequest(Struct, kw_only=True):
    """What to install; an empty request installs what the manifest and the lock require."""

    add: Sequence[Requirement] = ()
    add_of_hub: Mapping[ModuleName, HubModel] = {}
    """Models of a hub, by the name that each gets."""
    remove: Sequence[str] = ()
    upgrade: Sequence[str] | None = ()
    """Modules whose locked version is not kept; None means all."""
    strategy: Strategy | None = None
    """In place of the manifest's."""
    exclude_newer: str | None = None
    """In place of the manifest's."""
    lock: Lock | None = None
    """Exactly what to install, in place of the project's lock."""
    news: Sequence[TrustNews] = ()
    """What is new in ``lock`` in terms of trust."""
    frozen: bool = False
    """Whether to install exactly the project's lock."""
    strict: bool = False
    require_signed: bool = False
    """Whether modules may only act on bases that they fit exactly, as by the manifest's."""
    candidates: Mapping[str, int] = {}
    """By module, the number of a candidate to try."""
    remember: bool = False
    """Whether the manifest is to name the registry that the options name."""


class VersionChange(Struct, frozen=True):
    """One module that an install adds, removes or replaces."""

    name: str
    before: str | None
    after: str | None


class InstallPlan(Struct, frozen=True, kw_only=True):
    """What an install will do, computed before a byte of weights moves."""

    workspace: Workspace
    manifest: Manifest
    manifest_text: str
    lock: Lock
    transfer: TransferPlan
    recipes: tuple[ModelRecipe, ...]
    fits: tuple[Fit, ...]
    licences: tuple[ModuleLicense, ...]
    changes: tuple[VersionChange, ...]
    compositions: Mapping[str, Composition]
    """By model."""
    not_alone: Mapping[str, str]
    """By module that acts on a base and cannot be a model by itself, the reason."""
    compose_bytes: int
    """Bytes that composing will write while installing; 0 if all results are in the store."""
    compose_memory: int
    """Peak memory of composing in bytes, beside Python and torch."""
    scratch: int = 0
    """Bytes that composing writes and removes again."""
    news: tuple[TrustNews, ...] = ()
    """What is new in the lock in terms of trust."""
    flagged: bool
    """Whether the lock satisfies the manifest only with the request's policy."""

    @property
    def project(self) -> Project:
        return self.workspace.project

    @property
    def disk(self) -> int:
        """Bytes that the install will take on the store's disk."""
        return self.transfer.disk + self.compose_bytes + self.scratch


def _without(text: str, manifest: Manifest, name: ModuleName) -> str:
    """Return the manifest's text without a dependency.

    Raises:
        InstallError: It is not a dependency, or something else of the manifest uses it.
    """
    names = [dependency.name for dependency in manifest.dependencies]
    file = manifest.path.name
    if name not in names:
        if name in manifest.models:
            hint = f", but a model of its own: to remove it, delete the table [models.{name}]"
        else:
            hint = f"; it has {', '.join(sorted(names))}" if names else "; it has none"
        raise InstallError("M507", name=name, manifest=file, hint=hint)
    if using := users_of_modules(manifest).get(name):
        raise InstallError("M890", name=name, users=" and ".join(using), manifest=file)
    return remove_dependency(text, name)


def edit_manifest(
    text: str, manifest: Manifest, request: InstallRequest, remembered: Remembered
) -> str:
    """Return the manifest's text with the request's requirements added and removed.

    ``remembered`` says from which registry those are that are added.

    Raises:
        InstallError: A name to remove is not a dependency, or a model of the manifest uses it.
    """
    for raw in request.remove:
        text = _without(text, manifest, module_name(raw))
    present = {dependency.name: dependency for dependency in manifest.dependencies}
    for requirement in request.add:
        name = module_name(requirement.name)
        old = present.get(name)
        registry = remembered.written(name, old)
        plain = not requirement.specifier and not requirement.extras
        if old is not None and plain and registry == Remembered(text).written(name, old):
            continue
        if old is not None and old.hub is not None:
            raise InstallError("M852", name=name, address=old.hub.address)
        given = requirement.specifier
        if old is not None and not given:
            given = old.requirement.specifier
        specifier = specifier_text(given) or "*"
        value: str | dict[str, Any] = specifier
        extras = sorted(requirement.extras | (old.requirement.extras if old is not None else set()))
        table: dict[str, Any] = {"extras": extras} if extras else {}
        if registry is not None:
            table["registry"] = registry
        if old is not None and old.compose_at is not None:
            table["compose-at"] = old.compose_at
        if table:
            value = {"version": specifier, **table}
        text = without_examples(set_dependency(text, name, value))
    for name, source in request.add_of_hub.items():
        moment = present[name].compose_at if name in present else None
        value = source.entries() | ({"compose-at": moment} if moment is not None else {})
        text = without_examples(set_dependency(text, name, value))
    return text


def _add_lower_bounds(
    text: str, manifest: Manifest, request: InstallRequest, lock: Lock, remembered: Remembered
) -> str:
    """Write ``>=`` the chosen version for names that were added without a specifier."""
    before = {dependency.name for dependency in manifest.dependencies}
    for requirement in request.add:
        name = module_name(requirement.name)
        locked = lock.find(name)
        if requirement.specifier or name in before or locked is None or locked.candidate:
            continue
        value: str | dict[str, Any] = f">={locked.version}"
        table: dict[str, Any] = {}
        if requirement.extras:
            table["extras"] = sorted(requirement.extras)
        if (registry := remembered.written(name, None)) is not None:
            table["registry"] = registry
        if table:
            value = {"version": value, **table}
        text = set_dependency(text, name, value)
    return text


class _Selection(Struct, frozen=True):
    """The lock of an install, and the manifest it satisfies."""

    text: str
    written: Manifest
    """``text``, parsed."""
    manifest: Manifest
    """The same with the request's policy."""
    lock: Lock
    resolved: bool = False
    news: tuple[TrustNews, ...] = ()


def plan_install(workspace: Workspace, request: InstallRequest) -> InstallPlan:
    """Plan an install: versions, downloads, how modules fit their bases, what is composed.

    Raises:
        ModpkgError: Manifest, lock or a registry cannot be read, or no versions fit together.
            Nothing has changed.
    """
    remembered = Remembered(workspace.text)
    if request.remember:
        added = {module_name(item.name) for item in request.add}
        remembered = remember(workspace, added)
        accepted = (*workspace.options.accepted, *moved(workspace, added))
        options = msgspec.structs.replace(workspace.options, accepted=accepted)
        if remembered.alias not in (None, DEFAULT):  # it is not for all others
            options = msgspec.structs.replace(options, registry=None)
        if options != workspace.options:
            workspace = workspace.for_project(workspace.project, options=options)
    selection = _select(workspace, request, remembered)
    manifest, lock, store = selection.manifest, selection.lock, workspace.store
    registries = workspace.registries_for(manifest)
    by_name = registries.by_name(lock)
    try:
        transfer = plan_transfer(lock.module, by_name, store)
    except IntegrityError:
        check_not_removed(lock, by_name, [module.name for module in lock.module])
        raise
    check_not_removed(lock, by_name, transfer.fetch)
    check_engine(transfer.records.values())
    for module in lock.module if selection.resolved else ():
        line = by_name[module.name].line(module.name, module.version)
        by_name[module.name].check_line(line, transfer.records[module.name])
    if not selection.resolved:
        warnings = yanked_releases(
            lock, by_name, consulted=lambda name: transfer.missing_of(name) > 0
        )
        warnings += deprecated_releases(lock, by_name, lambda name: transfer.missing_of(name) > 0)
        warnings += unsigned_releases(
            lock,
            by_name,
            lambda name: transfer.missing_of(name) > 0,
            known=signed_otherwise(lock, workspace.environment.ever_installed()),
        )
        warnings += not_in_lock(lock, workspace.project.folder)
        for warning in warnings:
            workspace.progress.warn(warning)
    check_closed(lock, transfer.records, manifest, workspace.project.lock_path)
    if transfer.needed:
        for module in lock.module:
            if transfer.missing_of(module.name):
                registries.check_identity(module)
    fits = fits_of(transfer.records, registries)
    if manifest.resolution.strict:
        require_exact(fits)
    for name, path in files_of_recipes(manifest, transfer.records):
        fetch_file(name, path, transfer, registries)
    models = recipes(manifest, lock, transfer.records, store.blobs)
    licences = check_licences(manifest.licenses, transfer.records)
    require_accepted(licences, manifest, lock)
    compositions, not_alone = compositions_of(models, lock, transfer, registries, store)
    models = [model for model in models if model.name in compositions]
    now = [compositions[model.name] for model in models if not model.at_load]
    compose_bytes, compose_memory, scratch = _compose_cost(now, store)
    return InstallPlan(
        workspace=workspace,
        manifest=manifest,
        manifest_text=selection.text,
        lock=lock,
        news=selection.news,
        transfer=transfer,
        recipes=tuple(models),
        fits=tuple(fits),
        licences=licences,
        changes=_version_changes(workspace.environment.readable(), lock),
        compositions=compositions,
        not_alone=not_alone,
        compose_bytes=compose_bytes,
        flagged=stale_reason(selection.written, lock) is not None,
        compose_memory=compose_memory,
        scratch=scratch,
    )


def _select(workspace: Workspace, request: InstallRequest, remembered: Remembered) -> _Selection:
    """Edit the manifest as requested, and take its lock if that still satisfies it, or resolve.

    Every text of the manifest is parsed once.
    """
    text, written = workspace.text, workspace.manifest
    if (edited := edit_manifest(remembered.text, written, request, remembered)) != text:
        text, written = edited, workspace.project.parse(edited)
    manifest = _with_policy(written, request)
    if request.frozen or request.lock is not None:
        lock = request.lock if request.lock is not None else workspace.lock
        known = workspace.environment.ever_installed() if request.lock is None else ()
        lock = current_lock(
            workspace.project,
            manifest,
            lock,
            registry_of=lambda name: workspace.registries_for(manifest, lock).of(name),
            warn=workspace.progress.warn,
            installed=known,
            accepted=workspace.options.accepted,
        )
        return _Selection(text, written, manifest, lock, news=tuple(request.news))
    previous = workspace.usable_lock()
    upgrades = request.upgrade is None or bool(request.upgrade)
    if (
        previous is not None
        and not upgrades
        and not request.candidates
        and not _is_stale(workspace, manifest, previous)
        and not (manifest.resolution.strict and drifting(workspace, manifest, previous))
    ):
        return _Selection(text, written, manifest, previous)
    asked = _as_written(manifest, workspace.manifest, request)
    locked = resolve_lock(
        workspace,
        asked,
        previous,
        upgrade=request.upgrade,
        candidates=request.candidates,
        meanwhile=prefetch_records,
    )
    lock = locked.lock
    bounded = _add_lower_bounds(text, workspace.manifest, request, lock, remembered)
    if bounded != text:
        text, written = bounded, workspace.project.parse(bounded)
        manifest = _with_policy(written, request)
        lock = msgspec.structs.replace(lock, requirements=requirements_of(manifest))
    return _Selection(text, written, manifest, lock, resolved=True, news=locked.news)


def _is_stale(workspace: Workspace, manifest: Manifest, lock: Lock) -> bool:
    """Return whether a project's lock is to be resolved, also for what was installed of it here."""
    if stale_reason(manifest, lock) is not None:
        return True
    installed, accepted = workspace.environment.ever_installed(), workspace.options.accepted
    return bool(signed_otherwise(lock, installed, manifest.trust, accepted))


def _as_written(edited: Manifest, before: Manifest, request: InstallRequest) -> Manifest:
    """Return an edited manifest whose requirements say where a person has written them.

    That is the command line, or a line of the file as it still is.
    """
    given = {module_name(requirement.name): requirement for requirement in request.add}

    def placed(now: tuple[Dependency, ...], then: tuple[Dependency, ...]) -> Iterator[Dependency]:
        earlier = {dependency.name: dependency for dependency in then}
        for dependency in now:
            old, asked = earlier.get(dependency.name), given.get(dependency.name)
            if old is None or (asked is not None and asked.specifier):
                yield msgspec.structs.replace(dependency, where=COMMAND_LINE)
            else:
                extras = asked.extras - old.requirement.extras if asked is not None else ()
                yield msgspec.structs.replace(dependency, where=old.where, asked=frozenset(extras))

    if edited is before:
        return edited
    return msgspec.structs.replace(
        edited,
        dependencies=tuple(placed(edited.dependencies, before.dependencies)),
        constraints=_lines_of(edited.constraints, before.constraints),
        overrides=_lines_of(edited.overrides, before.overrides),
    )


def _lines_of(now: tuple[Dependency, ...], then: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
    """Return bounds, which no command changes, with the lines that they had before an edit."""
    where = {bound.name: bound.where for bound in then}
    return tuple(msgspec.structs.replace(bound, where=where[bound.name]) for bound in now)


def _compose_cost(compositions: Iterable[Composition], store: Store) -> tuple[int, int, int]:
    """Return how many bytes composing writes, its peak memory, and what it writes for a while.

    Raises:
        MissingExtra: One needs torch or transformers, which is not installed.
    """
    size = memory = scratch = 0
    for composition in compositions:
        if to_write := composition.bytes_to_write(store.root):
            if composition.prompt_reader is not None:
                require_transformers(f"Composing {composition.name}, whose router is of prompts,")
            if needs_torch(composition):
                require_torch(f"Composing {composition.name}")
            size += to_write
            memory = max(memory, peak_bytes(composition, system.available_cores()))
            scratch = max(scratch, scratch_bytes(composition, system.available_cores()))
    return size, memory, scratch


def _with_policy(manifest: Manifest, request: InstallRequest) -> Manifest:
    return with_flags(
        manifest,
        strategy=request.strategy,
        exclude_newer=request.exclude_newer,
        strict=request.strict,
        require_signed=request.require_signed,
    )


def _version_changes(current: Generation | None, lock: Lock) -> tuple[VersionChange, ...]:
    before = {module.name: module.version for module in current.modules} if current else {}
    return version_changes(before, {module.name: module.version for module in lock.module})


def version_changes(
    before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[VersionChange, ...]:
    """Return the differences between two selections, versions by name; what is removed last."""
    return tuple(
        VersionChange(name, before.get(name), after.get(name))
        for name in [*after, *(name for name in before if name not in after)]
        if before.get(name) != after.get(name)
    )
