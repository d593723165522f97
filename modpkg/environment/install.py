"""Install: resolve, lock, fetch, compose, check, switch over.

The environment is the old one or the new one at every moment: all work happens in the store and
in a generation that nothing names yet, and one rename makes it the current one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from modpkg.compose.workers import Workers
from modpkg.core.errors import ComposeError, EnvironmentDamaged, LockError
from modpkg.core.filenames import LOCK_NAME, composed_pack
from modpkg.core.files import link_or_copy, make_folder, rename, write_atomically
from modpkg.core.installed import Prompt, TensorRef
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.progress import Progress
from modpkg.core.regular_file import read_text
from modpkg.environment.exact_update import exact_update
from modpkg.environment.fits import measure_drift
from modpkg.environment.generations import (
    COMPLETE,
    EARLIER,
    EXACT,
    Environment,
    Generation,
    kept_text,
    sealed_generation,
    text_digest,
)
from modpkg.environment.logged import check_locked_releases
from modpkg.environment.models import ModelRecipe, lay_out_model
from modpkg.environment.module_states import module_states
from modpkg.environment.patch_notes import conflict_notes
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.project import Project
from modpkg.environment.signed_registries import log_of, with_later
from modpkg.environment.undo import undone_on_error
from modpkg.environment.workspace import Workspace
from modpkg.environment.yanked import note_yanked
from modpkg.resolve.lock import LockedResult, format_lock, parse_lock, read_lock
from modpkg.store.garbage import collect_over
from modpkg.transfer.fetch import check_space, fetch_all

if TYPE_CHECKING:
    from modpkg.compose.executor import ComposedModel

_WAITING = "Waiting for another modpkg command on this environment …"


class Installation(Struct, frozen=True):
    """The result of an install."""

    plan: InstallPlan
    generation: Generation
    changed: bool
    """Whether there was anything to do."""


def install(workspace: Workspace, request: InstallRequest) -> Installation:
    """Plan an install and carry it out; other commands on the environment wait.

    Afterwards the store is reduced to the size that the user's settings allow.

    Raises:
        ModpkgError: Planning, fetching, checking or composing failed. Environment, lock and
            manifest are unchanged.
    """
    environment, store, progress = workspace.environment, workspace.store, workspace.progress
    with environment.exclusive(_WAITING), store.lock():
        # Another command may have changed the project while this one waited.
        plan = plan_install(workspace.for_project(workspace.project), request)
        current = environment.readable()
        plan = _logged(plan, is_new=current is None or not _is_installed(plan))
        if current is not None and _is_installed(plan):
            environment.prune()
            return Installation(plan, current, changed=False)
        generation = apply_install(plan, frozen=request.frozen)
        registries = plan.workspace.registries_for(plan.manifest)
        note_yanked(environment, plan.lock, registries.by_name(plan.lock))
        _warn_of_drift(generation, plan, progress, resolving=not request.frozen)
        for note in _notes(plan):
            progress.warn(note)
    if (cap := workspace.settings.max_size) is not None:
        collect_over(store, cap, now=time.time(), warn=progress.warn)
    return Installation(plan, generation, changed=True)


def _notes(plan: InstallPlan) -> Iterator[str]:
    """Yield what a person should know about the models."""
    used = {name for model in plan.recipes if not model.implied for name in model.modules()}
    for model in plan.recipes:
        if not (model.implied and model.name in used):
            yield from plan.compositions[model.name].notes
        for note in conflict_notes(model.recipe, plan.compositions[model.name]):
            yield f"{model.name}: {note}"
    for name, reason in plan.not_alone.items():
        if name not in used:
            yield f"{name} cannot be loaded by itself: {reason}"


def _logged(plan: InstallPlan, *, is_new: bool) -> InstallPlan:
    """Return a plan whose lock was checked against logs, as far as it was not when it was made."""
    registries = plan.workspace.registries_for(plan.manifest)
    fetched = [module.name for module in plan.lock.module if plan.transfer.missing_of(module.name)]
    lock = check_locked_releases(
        plan.lock,
        registries.by_name(plan.lock),
        lambda registry: log_of(registries.locked(registry, plan.lock)),
        is_new=is_new,
        fetched=fetched,
        warn=plan.workspace.progress.warn,
    )
    return plan if lock is plan.lock else structs.replace(plan, lock=lock)


def _is_installed(plan: InstallPlan) -> bool:
    """Return whether the plan would only repeat the current generation."""
    workspace, text = plan.workspace, plan.manifest_text
    lock_text = format_lock(plan.lock)
    return (
        workspace.lock_text() == lock_text and workspace.text == text and workspace.is_up_to_date()
    )


def _warn_of_drift(
    generation: Generation, plan: InstallPlan, progress: Progress, *, resolving: bool
) -> None:
    """Warn of the modules of models that were made for other weights than their base has.

    With ``resolving``, the update that mends it is looked for, which may read index files.
    """
    used = {name for model in plan.recipes for name in model.modules()}
    for module in generation.modules:
        for base, fit in module.fits.items():
            if fit != EXACT and module.name in used:
                origin = plan.transfer.records[module.name].provenance.built_from[0]
                name, workspace = base.split()[0], plan.workspace
                remedy = None
                if resolving:
                    remedy = exact_update(workspace, plan.manifest, plan.lock, module.name, name)
                progress.warn(
                    f"{module.name} was made for other weights of {base}: {fit}. It was made "
                    f"against {origin.name} {origin.version}."
                    + (f" An exact fit is allowed: run '{remedy}'." if remedy else "")
                )


def apply_install(
    plan: InstallPlan,
    *,
    frozen: bool = False,
    checkpoint: Callable[[str], None] = lambda point: None,
) -> Generation:
    """Carry out a plan; the caller holds the environment exclusively, and uses the store.

    ``checkpoint`` is called between the steps, for tests that kill the process there.

    Raises:
        ModpkgError: Fetching, checking or composing failed. Environment, lock and manifest are
            unchanged.
    """
    environment = plan.workspace.environment
    _fetch(plan)
    checkpoint("fetched")
    plan = _with_drift(plan)
    number = environment.next_number()
    staged = temporary_sibling(environment.folder(number))
    try:
        with Workers() as workers:
            models, results, packs = _compose_all(plan, environment, staged, workers)
        checkpoint("composed")
        lock = structs.replace(plan.lock, composed=sorted(results, key=lambda r: r.model))
        lock_text = read_text(plan.project.lock_path, follow=False) if frozen else format_lock(lock)
        generation = Generation(
            number=number,
            created=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            manifest=text_digest(plan.manifest_text),
            lock=text_digest(lock_text),
            requirements=plan.lock.requirements,
            modules=module_states(plan),
            models=models,
            packs=packs,
            flagged=plan.flagged,
        )
        write_atomically(staged / plan.project.manifest_path.name, plan.manifest_text.encode())
        write_atomically(staged / LOCK_NAME, lock_text.encode())
        write_atomically(staged / COMPLETE, sealed_generation(generation))
        checkpoint("staged")
        rename(staged, environment.folder(number))
    finally:
        discard(staged)
    checkpoint("generation")
    with undone_on_error(plan.project):
        if not frozen and plan.workspace.lock_text() != lock_text:
            write_atomically(plan.project.lock_path, lock_text.encode())
        checkpoint("locked")
        plan.project.write(plan.manifest_text)
        checkpoint("manifest")
        environment.switch(number)
    checkpoint("switched")
    with contextlib.suppress(OSError):  # what is left takes space, and the next install removes it
        environment.prune()
    return generation


def compose_models(
    plan: InstallPlan,
    *,
    threads: int | None = None,
    executor: concurrent.futures.Executor | None = None,
) -> dict[str, str]:
    """Fetch and compose what an install would, into the store only; return results by model.

    A later install with the same store finds them there.

    Raises:
        ModpkgError: Fetching or composing failed.
    """
    from modpkg.compose.executor import compose

    store, progress = plan.workspace.store, plan.workspace.progress
    _fetch(plan)
    results = {}
    with Workers() as workers:
        for model in _inner_first(plan):
            if model.at_load:
                continue
            progress.stage(f"Composing {model.name}")
            composition = plan.compositions[model.name]
            results[model.name] = compose(
                composition,
                store.root,
                threads=threads,
                executor=executor,
                workers=workers,
                progress=counted(progress),
                verified=store.verified,
                device=plan.workspace.device,
            ).result
    return results


def _fetch(plan: InstallPlan) -> None:
    """Fetch what the plan lacks, register the project with the store, and report progress."""
    plan.workspace.store.projects.register(plan.project.lock_path, plan.project.environment)
    fetch_plan(plan)
    for module in plan.lock.module:
        if size := plan.transfer.missing_of(module.name):
            plan.workspace.progress.fetched(module.name, module.version, size)


def fetch_plan(plan: InstallPlan) -> None:
    """Fetch what the plan lacks into the store.

    Raises:
        ModpkgError: Something cannot be fetched, or the disk is too small.
    """
    store, progress = plan.workspace.store, plan.workspace.progress
    check_space(store.root, plan.disk)
    if plan.transfer.needed:
        progress.stage("Fetching")
        progress.total(plan.transfer.missing)
    fetch_all(
        plan.transfer, list(plan.lock.module), store, lambda _, count: progress.advance(count)
    )


def _with_drift(plan: InstallPlan) -> InstallPlan:
    """Measure how far the weights moved that modules were made for; reads both sides' tensors."""
    if not any(fit.before for fit in plan.fits):
        return plan
    plan.workspace.progress.stage("Measuring drift")
    fits = measure_drift(plan.fits, plan.transfer.records, plan.workspace.store)
    return structs.replace(plan, fits=fits)


def counted(progress: Progress) -> Callable[[int, int], None]:
    """Return a callback for composing that counts tensors on ``progress``."""

    def advance(done: int, total: int) -> None:
        progress.total(total)
        progress.advance(1)

    return advance


def _compose_all(
    plan: InstallPlan, environment: Environment, staged: Path, workers: Workers
) -> tuple[dict[str, str], list[LockedResult], dict[str, int]]:
    """Compose every model and lay it out in the staged generation."""
    store, progress = plan.workspace.store, plan.workspace.progress
    make_folder(environment.packs)
    make_folder(staged / "models")
    models: dict[str, str] = {}
    results: list[LockedResult] = []
    packs: dict[str, int] = {}
    known = {result.model: result for result in plan.lock.composed}
    for model in _inner_first(plan):
        folder = staged / "models" / model.name
        modules = {name: plan.transfer.records[name].version for name in model.modules()}
        models[model.name] = model.version
        composition = plan.compositions[model.name]
        if model.at_load and composition.bytes_to_write(store.root):
            lay_out_model(folder, composition, model, modules)
            continue
        from modpkg.compose.executor import compose
        from modpkg.compose.plan import COMPOSE_ENGINE

        progress.stage(f"Composing {model.name}")
        composed = compose(
            composition,
            store.root,
            workers=workers,
            progress=counted(progress),
            verified=store.verified,
            device=plan.workspace.device,
        )
        before = known.get(model.name)
        if before is not None and before.result != composed.result:
            if (before.inputs, before.engine) == (composed.key, COMPOSE_ENGINE):
                raise ComposeError(
                    "M607", model=model.name, actual=composed.result, expected=before.result
                )
            if before.engine != COMPOSE_ENGINE:
                progress.warn(
                    f"{model.name} was locked as modpkg's composing engine {before.engine} rounds "
                    f"it, and this is engine {COMPOSE_ENGINE}: last bits of its weights may differ"
                )
        if not model.at_load:  # a lock does not depend on what the store happens to have
            results.append(
                LockedResult(
                    model=model.name,
                    engine=COMPOSE_ENGINE,
                    inputs=composed.key,
                    result=composed.result,
                )
            )
        tensors, prompt = link_packs(composed, environment, packs)
        lay_out_model(folder, composed, model, modules, tensors, prompt)
    return models, results, packs


def _inner_first(plan: InstallPlan) -> list[ModelRecipe]:
    """Return the models in the order in which those that others are composed of come first."""
    return sorted(plan.recipes, key=lambda model: len(plan.compositions[model.name].parts))


def link_packs(
    composed: ComposedModel, environment: Environment, packs: dict[str, int]
) -> tuple[dict[str, TensorRef], Prompt | None]:
    """Link the packs of a composed model into the environment; return the places in them.

    Lengths of packs that ``packs`` does not have are added to it.
    """
    prompt = composed.prompt
    if prompt is not None:
        own = _linked(prompt.tensors, environment, packs)
        prompt = structs.replace(prompt, tensors=own)
    return _linked(composed.tensors, environment, packs), prompt


def _linked(
    refs: Mapping[str, TensorRef], environment: Environment, packs: dict[str, int]
) -> dict[str, TensorRef]:
    """Link the packs of tensors into the environment; return the tensors with their new paths."""
    tensors = {}
    for name, ref in refs.items():
        pack = _pack_name(Path(ref.file))
        if pack not in packs:
            link_or_copy(Path(ref.file), environment.packs / pack)
            packs[pack] = (environment.packs / pack).stat().st_size
        tensors[name] = structs.replace(ref, file=pack)
    return tensors


def _pack_name(file: Path) -> str:
    """Return a pack's name in an environment: its digest, or the key of what was composed."""
    return file.name if file.suffix == "" else composed_pack(file.parent.name, file.name)


def roll_back(project: Project, to: int | None = None) -> tuple[Generation, bool]:
    """Restore an earlier generation; return it, and whether the manifest was restored too.

    The lock is restored with it, but for what is known of registries since. So is the manifest,
    unless it was edited since the current generation was installed.

    Raises:
        InstallError: There is no such generation.
        EnvironmentDamaged: The generation is not complete.
    """
    environment = Environment(project.environment)
    with environment.exclusive("Waiting for another modpkg command …"):
        current = environment.readable()
        number = environment.previous_number(to)
        generation = environment.generation(number)
        folder = environment.folder(number)
        if not environment.is_complete(generation):
            raise EnvironmentDamaged(
                "M506",
                path=folder,
                reason="a pack or a model's record is incomplete",
                remedy=EARLIER,
            )
        lock = _with_later(project, environment.kept_lock(generation))
        text = kept_text(folder / project.manifest_path.name, generation.manifest)
        untouched = current is not None and current.manifest == text_digest(project.text())
        with undone_on_error(project):
            write_atomically(project.lock_path, lock)
            if untouched:
                write_atomically(project.manifest_path, text)
            environment.switch(number)
    return generation, untouched


def _with_later(project: Project, kept: bytes) -> bytes:
    """Return a generation's lock with what the project's own knows since then of registries."""
    with contextlib.suppress(LockError, OSError):
        current = read_lock(project.lock_path)
        if current is not None and current.registry:
            earlier = parse_lock(kept.decode(), project.lock_path)
            lock = with_later(earlier, current, project.lock_path.parent)
            return kept if lock == earlier else format_lock(lock).encode()
    return kept
