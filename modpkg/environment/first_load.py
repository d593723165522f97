"""Models that are composed when they are first loaded, and the modules that loading takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import structs

from modpkg.core import system
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import EnvironmentDamaged, IntegrityError
from modpkg.core.files import write_atomically
from modpkg.core.installed import REPAIR, InstalledModule, read_installed
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal
from modpkg.environment.composed_modules import ModuleGraph
from modpkg.environment.generations import COMPLETE, Environment, Generation, ModuleState
from modpkg.environment.install import counted, fetch_plan, link_packs
from modpkg.environment.models import ModelRecipe, lay_out_model, recipe_of, recipes_within
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose, Task
from modpkg.store.store import Store
from modpkg.transfer.fetch import check_space


def compose_at_load(workspace: Workspace, number: int, name: str) -> None:
    """Compose a model of a generation, if that was left to its first load.

    Other commands on the environment wait. The record of the model is written last: killed before,
    this leaves packs that no model names.

    Raises:
        EnvironmentDamaged: The environment's or the store's records are damaged.
        ModpkgError: The environment cannot be written, or composing failed.
    """
    environment, store = workspace.environment, workspace.store
    folder = environment.folder(number) / "models" / name
    if read_installed(folder, environment.packs).result is not None:
        return
    with environment.exclusive("Waiting for another modpkg command …"), store.lock():
        generation = environment.generation(number)
        record = read_installed(folder, environment.packs)
        if record.result is not None:
            return  # another process was faster
        from modpkg.compose.executor import compose
        from modpkg.compose.memory import scratch_bytes
        from modpkg.compose.plan import plan

        task = None if record.task is None else msgspec.convert(record.task, Task)
        recipe = msgspec.convert(record.recipe, Compose)
        model = ModelRecipe(record.name, record.version, recipe, task)
        modules = installed_graph(workspace, generation, {record.name: recipe})
        composition = plan(model.name, model.version, recipe, modules)
        scratch = scratch_bytes(composition, system.available_cores())
        check_space(store.root, composition.bytes_to_write(store.root) + scratch)
        workspace.progress.stage(f"Composing {name}")
        composed = compose(
            composition,
            store.root,
            progress=counted(workspace.progress),
            verified=store.verified,
            device=workspace.device,
        )
        packs = dict(generation.packs)
        tensors, prompt = link_packs(composed, environment, packs)
        grown = structs.replace(generation, packs=packs)
        write_atomically(environment.folder(number) / COMPLETE, seal(grown))
        lay_out_model(folder, composed, model, record.modules, tensors, prompt)


def installed_graph(
    workspace: Workspace, generation: Generation, recipes: Mapping[str, Compose]
) -> ModuleGraph:
    """Return the modules of a generation that some recipes are composed of, at any depth.

    Args:
        workspace: The workspace.
        generation: One of its environment's.
        recipes: The recipes, by the names of their models.

    Raises:
        What `installed_modules` raises, and `ComposeError` for a module that is composed of itself.
    """
    extras = {module.name: module.extras for module in generation.modules}
    stored: dict[str, InstalledModule] = {}
    pending = [name for recipe in recipes.values() for name in recipe.modules()]
    while pending:
        found = installed_modules(workspace, generation, pending)
        stored |= found
        inner = [recipe_of(each.record, extras.get(each.name, ())) for each in found.values()]
        names = [name for recipe in inner if recipe is not None for name in recipe.modules()]
        pending = [name for name in names if name not in stored]
    records = {name: module.record for name, module in stored.items()}
    within: dict[str, Compose] = {}
    for name, recipe in recipes.items():
        label = f"{name} of generation {generation.number}"  # it may have its base's name
        within |= recipes_within(label, recipe, records, extras)
    return ModuleGraph(stored, within, workspace.store.blobs)


def installed_modules(
    workspace: Workspace, generation: Generation, names: Iterable[str]
) -> dict[str, InstalledModule]:
    """Return modules of a generation with their weights in the store, by name.

    An environment has only composed weights. What the store lost is fetched again, if the lock is
    still the one that was installed.

    Raises:
        EnvironmentDamaged: The store lacks a module.
        ModpkgError: A module cannot be fetched again.
    """
    environment, store = workspace.environment, workspace.store
    states = {module.name: module for module in generation.modules}
    wanted = [states[name] for name in dict.fromkeys(names)]
    try:
        return {state.name: _module(environment, store, state) for state in wanted}
    except EnvironmentDamaged:
        if not _is_locked(workspace, generation.lock):
            raise
    fetch_plan(plan_install(workspace, InstallRequest(frozen=True)))
    return {state.name: _module(environment, store, state) for state in wanted}


def _is_locked(workspace: Workspace, digest: str) -> bool:
    """Return whether the project's lock file is the one that was installed."""
    try:
        data = read_file(workspace.project.lock_path)
    except OSError:
        return False
    return digest_bytes(data) == digest


def _module(environment: Environment, store: Store, state: ModuleState) -> InstalledModule:
    what = f"{state.name} {state.version}"
    try:
        record = store.record(state.release, what)
        if record is not None:
            return store.module(record, state.release)
    except IntegrityError as error:
        if error.code != "M306":
            raise
    raise EnvironmentDamaged(
        "M506", path=environment.root, reason=f"the store no longer has {what}", remedy=REPAIR
    )
