"""Install: resolve, lock, fetch, compose, check, switch over.

The environment is the old one or the new one at every moment: all work happens in the store and
in a generation that nothing names yet, and one rename makes it the current one.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from packaging.requirements import Requirement

from modpkg.digests import digest_bytes, parse_digest
from modpkg.environment.fits import Fit, fits_of
from modpkg.environment.generations import (
    COMPLETE,
    Environment,
    Generation,
    ModuleState,
)
from modpkg.environment.locking import (
    Locked,
    current_lock,
    make_lock,
    requirements_of,
    stale_reason,
)
from modpkg.environment.models import ModelRecipe, recipes
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.errors import LockError, NotARequirementHere, ResultDiffers
from modpkg.files import link_or_copy, remove_tree, safe_path, temporary_sibling, write_atomically
from modpkg.installed import InstalledModel, TensorRef
from modpkg.lock import Lock, LockedResult, format_lock, read_lock
from modpkg.manifest import Manifest, remove_dependency, set_dependency
from modpkg.names import module_name, specifier_text
from modpkg.records import canonical_json
from modpkg.store.store import Store
from modpkg.transfer.fetch import check_space, fetch_all
from modpkg.transfer.plan import TransferPlan, plan_transfer

_PLANNED_FROM = ("config.json", "adapter_config.json")


class Request(Struct, kw_only=True):
    """What a person asked for."""

    add: Sequence[Requirement] = ()
    remove: Sequence[str] = ()
    registry: str | None = None
    upgrade: Sequence[str] | None = ()
    """Modules to take anew; None means all."""
    frozen: bool = False
    offline: bool = False
    strict: bool = False


class Progress:
    """What happens, for whoever shows it; this one shows nothing."""

    def stage(self, text: str) -> None:
        """A stage begins."""

    def total(self, count: int) -> None:
        """The stage has so many bytes or tensors."""

    def advance(self, count: int) -> None:
        """So many more are done."""

    def warn(self, message: str) -> None:
        """Something a person should know."""


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
    changes: tuple[Change, ...]
    compositions: Mapping[str, Any]
    """By model, the composition (`modpkg.compose.plan.Composition`)."""
    compose_bytes: int
    """Bytes that composing will write; 0 when all results are in the store."""


def nothing_to_do(project: Project, environment: Environment, lock_text: str | None) -> bool:
    """Say whether the environment already is what manifest and lock ask for."""
    current = environment.current()
    return (
        current is not None
        and lock_text is not None
        and current.lock == digest_bytes(lock_text.encode())
        and current.manifest == _manifest_digest(project.text())
        and environment.is_whole(current)
    )


def _manifest_digest(text: str) -> str:
    return digest_bytes(text.encode("utf-8", "surrogateescape"))


def edited_manifest(project: Project, request: Request, text: str) -> str:
    """Return the manifest's text with the request's requirements added and removed.

    Raises:
        NotARequirementHere: a name to remove is not there.
    """
    manifest = project.parse(text)
    names = {dependency.name for dependency in manifest.dependencies}
    for raw in request.remove:
        name = module_name(raw)
        if name not in names:
            raise NotARequirementHere(
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
    manifest = project.parse(text)
    registries = Registries(
        manifest,
        store.blobs,
        default=request.registry,
        offline=request.offline,
        warn=progress.warn,
    )
    previous = _previous_lock(project, request, progress)
    if request.frozen:
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
            text, manifest = bounded, project.parse(bounded)
            locked = Locked(
                msgspec.structs.replace(locked.lock, requirements=requirements_of(manifest))
            )
        lock = locked.lock
    by_name = {module.name: registries.of(module.name) for module in lock.module}
    transfer = plan_transfer(lock.module, by_name, store)
    if transfer.fetches:
        for module in lock.module:
            if transfer.missing_of(module.name):
                registries.check_identity(module)
    fits = fits_of(transfer.records, registries, strict=request.strict)
    models = recipes(manifest, lock, transfer.records)
    modules = {
        module.name: store.module(transfer.records[module.name], module.release)
        for module in lock.module
    }
    for model in models:
        _fetch_configs(model, transfer, registries)
    compositions: dict[str, Any] = {}
    compose_bytes = 0
    for model in models:
        from modpkg.compose.plan import plan as plan_composition

        composition = plan_composition(model.name, model.version, model.recipe, modules)
        compositions[model.name] = composition
        compose_bytes += composition.bytes_to_write(store.root)
    return InstallPlan(
        project=project,
        manifest=manifest,
        manifest_text=text,
        lock=lock,
        transfer=transfer,
        recipes=tuple(models),
        fits=tuple(fits),
        changes=_changes(Environment(project.environment).current(), lock),
        compositions=compositions,
        compose_bytes=compose_bytes,
    )


def _fetch_configs(model: ModelRecipe, transfer: TransferPlan, registries: Registries) -> None:
    """Bring the small files that planning a composition reads into the store."""
    for name in model.modules():
        record = transfer.records.get(name)
        for path in _PLANNED_FROM:
            if record is not None and (entry := record.files.get(path)) is not None:
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


def apply_install(
    plan: InstallPlan,
    store: Store,
    progress: Progress,
    *,
    frozen: bool = False,
    checkpoint: Callable[[str], None] = lambda point: None,
) -> Generation:
    """Carry out a plan; the caller holds the environment exclusively.

    ``checkpoint`` is called between the steps, for tests that kill the process there.

    Raises:
        Everything that fetching, checking and composing can raise; the environment, the lock and
        the manifest are then what they were.
    """
    environment = Environment(plan.project.environment)
    check_space(store.root, plan.transfer.missing + plan.compose_bytes)
    if plan.transfer.fetches:
        progress.stage("Fetching")
        progress.total(plan.transfer.missing)
    fetch_all(
        plan.transfer, list(plan.lock.module), store, lambda _, count: progress.advance(count)
    )
    checkpoint("fetched")
    number = environment.next_number()
    staged = temporary_sibling(environment.folder(number))
    try:
        models, results, packs = _compose_all(plan, store, environment, staged, progress, frozen)
        checkpoint("composed")
        lock = msgspec.structs.replace(plan.lock, composed=sorted(results, key=lambda r: r.model))
        lock_text = plan.project.lock_path.read_text("utf-8") if frozen else format_lock(lock)
        generation = Generation(
            number=number,
            created=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            manifest=digest_bytes(plan.manifest_text.encode("utf-8", "surrogateescape")),
            lock=digest_bytes(lock_text.encode()),
            requirements=plan.lock.requirements,
            modules=_states(plan),
            models=models,
            packs=packs,
        )
        write_atomically(staged / plan.project.manifest_path.name, plan.manifest_text.encode())
        write_atomically(staged / "modpkg.lock", lock_text.encode())
        write_atomically(staged / COMPLETE, canonical_json(generation))
        checkpoint("staged")
        staged.rename(environment.folder(number))
    finally:
        remove_tree(staged)
    checkpoint("generation")
    if not frozen:
        write_atomically(plan.project.lock_path, lock_text.encode())
    checkpoint("locked")
    plan.project.write(plan.manifest_text)
    checkpoint("manifest")
    environment.switch(number)
    checkpoint("switched")
    environment.prune()
    return generation


def _compose_all(
    plan: InstallPlan,
    store: Store,
    environment: Environment,
    staged: Path,
    progress: Progress,
    frozen: bool,
) -> tuple[dict[str, str], list[LockedResult], dict[str, int]]:
    """Compose every model and lay it out in the staged generation."""
    environment.packs.mkdir(parents=True, exist_ok=True)
    (staged / "models").mkdir(parents=True)
    models: dict[str, str] = {}
    results: list[LockedResult] = []
    packs: dict[str, int] = {}
    known = {result.model: result for result in plan.lock.composed}
    for model in plan.recipes:
        from modpkg.compose.executor import compose
        from modpkg.compose.plan import COMPOSE_ENGINE

        progress.stage(f"Composing {model.name}")

        def advance(done: int, total: int) -> None:
            progress.total(total)
            progress.advance(1)

        composed = compose(plan.compositions[model.name], store.root, progress=advance)
        before = known.get(model.name)
        if (
            before is not None
            and (before.inputs, before.engine) == (composed.key, COMPOSE_ENGINE)
            and before.result != composed.result
        ):
            raise ResultDiffers(model=model.name, actual=composed.result, expected=before.result)
        results.append(
            LockedResult(
                model=model.name,
                engine=COMPOSE_ENGINE,
                inputs=composed.key,
                result=composed.result,
            )
        )
        folder = staged / "models" / model.name
        folder.mkdir()
        tensors: dict[str, TensorRef] = {}
        for name, ref in composed.tensors.items():
            pack = _pack_name(Path(ref.file))
            if pack not in packs:
                link_or_copy(Path(ref.file), environment.packs / pack)
                packs[pack] = (environment.packs / pack).stat().st_size
            tensors[name] = msgspec.structs.replace(ref, file=pack)
        for path, source in composed.files.items():
            link_or_copy(source, folder / safe_path(path))
        write_atomically(
            folder / "config.json", msgspec.json.format(canonical_json(composed.config), indent=2)
        )
        installed = InstalledModel(
            name=model.name,
            version=model.version,
            key=composed.key,
            result=composed.result,
            task=msgspec.to_builtins(model.task) if model.task is not None else None,
            tensors=tensors,
            modules={name: plan.transfer.records[name].version for name in model.modules()},
        )
        write_atomically(folder / "model.json", canonical_json(installed))
        models[model.name] = model.version
    return models, results, packs


def _pack_name(file: Path) -> str:
    """Return a pack's name in an environment: its digest, or the key of what was composed."""
    return file.name if file.suffix == "" else f"{file.parent.name}{file.suffix}"


def _states(plan: InstallPlan) -> list[ModuleState]:
    fits: dict[str, dict[str, str]] = {}
    for fit in plan.fits:
        fits.setdefault(fit.module, {})[f"{fit.base} {fit.base_version}"] = fit.text()
    states = []
    for module in plan.lock.module:
        record = plan.transfer.records[module.name]
        states.append(
            ModuleState(
                name=module.name,
                version=module.version,
                kind=module.kind,
                registry=module.registry,
                release=module.release,
                summary=record.summary,
                license=record.license,
                size=sum(record.packs.values()) + sum(f.size for f in record.files.values()),
                requires=module.requires,
                extras=module.extras,
                fits=fits.get(module.name, {}),
            )
        )
    return states


def roll_back(project: Project, to: int | None = None) -> tuple[Generation, bool]:
    """Return to an earlier generation; say whether the manifest could be put back too.

    The lock goes back with it. The manifest does when it is still what the generation that is
    left was installed from; one that a person has edited since is not touched.

    Raises:
        NothingToRollBack: there is no such generation.
    """
    environment = Environment(project.environment)
    with environment.exclusive("Waiting for another modpkg command …"):
        current = environment.current()
        number = environment.previous_number(to)
        generation = environment.generation(number)
        folder = environment.folder(number)
        write_atomically(project.lock_path, (folder / "modpkg.lock").read_bytes())
        untouched = current is not None and current.manifest == _manifest_digest(project.text())
        if untouched:
            text = (folder / project.manifest_path.name).read_bytes()
            write_atomically(project.manifest_path, text)
        environment.switch(number)
    return generation, untouched
