"""Planning an install: all that can be known before a byte of weights moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from packaging.requirements import Requirement

from modpkg.core.digests import parse_digest
from modpkg.core.errors import InstallError, LockError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG, PATCH, PATCHED_FILES, ROUTER
from modpkg.core.names import module_name, specifier_text
from modpkg.core.progress import Progress
from modpkg.environment.fits import Fit, fits_of
from modpkg.environment.generations import (
    Environment,
    Generation,
)
from modpkg.environment.licences import ModuleLicense, check_licences, require_accepted
from modpkg.environment.locking import (
    Locked,
    check_closed,
    current_lock,
    make_lock,
    requirements_of,
    stale_reason,
)
from modpkg.environment.models import ModelRecipe, recipes
from modpkg.environment.policy import check_engine, with_flags
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.manifest.edit import remove_dependency, set_dependency
from modpkg.manifest.schema import Manifest, Strategy
from modpkg.resolve.lock import Lock, LockedModule, read_lock
from modpkg.store.store import Store
from modpkg.transfer.plan import TransferPlan, plan_transfer

_PLANNED_FROM = (CONFIG, ADAPTER_CONFIG, ROUTER, PATCH)


class Request(Struct, kw_only=True):
    """What a person asked for."""

    add: Sequence[Requirement] = ()
    remove: Sequence[str] = ()
    registry: str | None = None
    upgrade: Sequence[str] | None = ()
    """Modules to take anew; None means all."""
    strategy: Strategy | None = None
    """Takes the place of the manifest's."""
    exclude_newer: str | None = None
    """Takes the place of the manifest's."""
    lock: Lock | None = None
    """Exactly what to install, in the place of what the project's lock says."""
    frozen: bool = False
    offline: bool = False
    strict: bool = False


class Change(Struct, frozen=True):
    """One module that an install adds, removes or replaces."""

    name: str
    before: str | None
    after: str | None


class InstallPlan(Struct, frozen=True, kw_only=True):
    """What an install will do, worked out before a byte of weights moves."""

    project: Project
    manifest: Manifest
    manifest_text: str
    lock: Lock
    transfer: TransferPlan
    recipes: tuple[ModelRecipe, ...]
    fits: tuple[Fit, ...]
    licences: tuple[ModuleLicense, ...]
    changes: tuple[Change, ...]
    compositions: Mapping[str, Any]
    """By model, the composition (`modpkg.compose.plan.Composition`)."""
    compose_bytes: int
    """Bytes that composing will write; 0 when all results are in the store."""
    compose_memory: int
    """Bytes that composing takes at most at a time, beside Python and torch."""
    flagged: bool
    """Whether the lock answers the manifest only with what the request put in its place."""

    @property
    def disk(self) -> int:
        """Bytes that the install will take on the store's disk."""
        return self.transfer.disk + self.compose_bytes


def edited_manifest(project: Project, request: Request, text: str) -> str:
    """Return the manifest's text with the request's requirements added and removed.

    Raises:
        InstallError: a name to remove is not there.
    """
    manifest = project.parse(text)
    names = {dependency.name for dependency in manifest.dependencies}
    for raw in request.remove:
        name = module_name(raw)
        if name not in names:
            raise InstallError(
                "M507",
                name=name,
                manifest=manifest.path.name,
                hint=f" (it has {', '.join(sorted(names))})" if names else "",
            )
        text = remove_dependency(text, name)
    present = {dependency.name: dependency for dependency in manifest.dependencies}
    for requirement in request.add:
        name = module_name(requirement.name)
        old = present.get(name)
        if old is not None and not requirement.specifier and not requirement.extras:
            continue
        specifier = specifier_text(requirement.specifier) or "*"
        value: str | dict[str, Any] = specifier
        extras = sorted(requirement.extras | (old.requirement.extras if old is not None else set()))
        if extras or (old is not None and old.registry is not None):
            value = {"version": specifier}
            if extras:
                value["extras"] = extras
            if old is not None and old.registry is not None:
                value["registry"] = old.registry
        text = set_dependency(text, name, value)
    return text


def _with_lower_bounds(project: Project, request: Request, text: str, lock: Lock) -> str:
    """Write ``>=`` the chosen version for names that were added without a specifier."""
    before = {dependency.name for dependency in project.parse().dependencies}
    for requirement in request.add:
        name = module_name(requirement.name)
        locked = lock.find(name)
        if requirement.specifier or name in before or locked is None:
            continue
        value: str | dict[str, Any] = f">={locked.version}"
        if requirement.extras:
            value = {"version": value, "extras": sorted(requirement.extras)}
        text = set_dependency(text, name, value)
    return text


def plan_install(
    project: Project, request: Request, store: Store, progress: Progress
) -> InstallPlan:
    """Work out an install: versions, what to fetch, how modules fit, what to compose.

    Raises:
        Everything that reading manifest, lock and registries can raise; nothing has changed.
    """
    text = edited_manifest(project, request, project.text())
    manifest = _manifest(project, request, text)
    registries = Registries(
        manifest,
        store.blobs,
        default=request.registry,
        offline=request.offline,
        warn=progress.warn,
    )
    previous = request.lock or _previous_lock(project, request, progress)
    chosen: Sequence[LockedModule] = ()
    if request.frozen or request.lock is not None:
        lock = current_lock(project, manifest, previous)
    elif previous is not None and stale_reason(manifest, previous) is None and not _anew(request):
        lock = previous
    else:
        progress.stage("Resolving")
        locked = make_lock(manifest, registries, previous, upgrade=request.upgrade)
        for warning in locked.warnings:
            progress.warn(warning)
        bounded = _with_lower_bounds(project, request, text, locked.lock)
        if bounded != text:
            text, manifest = bounded, _manifest(project, request, bounded)
            locked = Locked(
                msgspec.structs.replace(locked.lock, requirements=requirements_of(manifest))
            )
        lock = locked.lock
        chosen = lock.module
    by_name = {module.name: registries.of(module.name) for module in lock.module}
    transfer = plan_transfer(lock.module, by_name, store)
    check_engine(transfer.records.values())
    for module in chosen:
        line = by_name[module.name].line(module.name, module.version)
        by_name[module.name].check_line(line, transfer.records[module.name])
    check_closed(lock, transfer.records, manifest, project.lock_path)
    if transfer.needed:
        for module in lock.module:
            if transfer.missing_of(module.name):
                registries.check_identity(module)
    fits = fits_of(transfer.records, registries, strict=request.strict)
    models = recipes(manifest, lock, transfer.records)
    licences = check_licences(manifest.licenses, transfer.records)
    require_accepted(licences, manifest, lock)
    modules = {
        module.name: store.module(transfer.records[module.name], module.release, transfer.places)
        for module in lock.module
    }
    for model in models:
        _fetch_configs(model, transfer, registries)
    compositions: dict[str, Any] = {}
    compose_bytes = compose_memory = 0
    for model in models:
        from modpkg.compose.memory import default_threads, peak_bytes
        from modpkg.compose.plan import plan as plan_composition

        composition = plan_composition(model.name, model.version, model.recipe, modules)
        compositions[model.name] = composition
        if to_write := composition.bytes_to_write(store.root):
            compose_bytes += to_write
            compose_memory = max(compose_memory, peak_bytes(composition, default_threads()))
    return InstallPlan(
        project=project,
        manifest=manifest,
        manifest_text=text,
        lock=lock,
        transfer=transfer,
        recipes=tuple(models),
        fits=tuple(fits),
        licences=licences,
        changes=_changes(Environment(project.environment).sound(), lock),
        compositions=compositions,
        compose_bytes=compose_bytes,
        flagged=stale_reason(project.parse(text), lock) is not None,
        compose_memory=compose_memory,
    )


def _manifest(project: Project, request: Request, text: str) -> Manifest:
    return with_flags(
        project.parse(text), strategy=request.strategy, exclude_newer=request.exclude_newer
    )


def _fetch_configs(model: ModelRecipe, transfer: TransferPlan, registries: Registries) -> None:
    """Bring the small files that planning a composition reads into the store."""
    for name in model.modules():
        record = transfer.records.get(name)
        for path, entry in record.files.items() if record is not None else ():
            if path in _PLANNED_FROM or path.startswith(PATCHED_FILES):
                registries.of(name).blob(parse_digest(entry.digest), f"{path} of {name}")


def _anew(request: Request) -> bool:
    return request.upgrade is None or bool(request.upgrade)


def _previous_lock(project: Project, request: Request, progress: Progress) -> Lock | None:
    try:
        return read_lock(project.lock_path)
    except LockError as error:
        if request.frozen:
            raise
        progress.warn(f"{error} It is made anew now.")
        return None


def _changes(current: Generation | None, lock: Lock) -> tuple[Change, ...]:
    before = {module.name: module.version for module in current.modules} if current else {}
    after = {module.name: module.version for module in lock.module}
    return tuple(
        Change(name, before.get(name), after.get(name))
        for name in [*after, *(name for name in before if name not in after)]
        if before.get(name) != after.get(name)
    )
