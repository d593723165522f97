"""The adapter that a model of an environment is made with."""

from __future__ import annotations

import msgspec

from modpkg.core.errors import ConversionError, InstallError
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.progress import Progress
from modpkg.environment.generations import Environment, ModuleState
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.environment.releases import fetch_module
from modpkg.manifest.schema import Compose
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store


def fetch_adapter(
    project: Project, name: ModuleName, registries: Registries, store: Store, progress: Progress
) -> tuple[InstalledModule, float]:
    """Return an installed adapter, or the one that a model is composed with, and its scale.

    Raises:
        ConversionError: the model is not a base with one adapter.
        InstallError. What fetching can raise, if the store lacks it.
    """
    environment = Environment(project.environment)
    generation = environment.current()
    if generation is None:
        raise InstallError("M503", path=environment.root)
    states = {module.name: module for module in generation.modules}
    scale = 1.0
    chosen = states.get(name)
    if name in generation.models:
        chosen, scale = _only_adapter(name, environment, states)
    if chosen is None:
        raise InstallError("M504", name=name, path=environment.root, hint="")
    locked = LockedModule(
        name=chosen.name,
        version=chosen.version,
        kind=chosen.kind,
        registry=chosen.registry,
        release=chosen.release,
    )
    return fetch_module(locked, registries, store, progress), scale


def _only_adapter(
    name: str, environment: Environment, states: dict[str, ModuleState]
) -> tuple[ModuleState, float]:
    recipe = msgspec.convert(environment.model(name).recipe, Compose)
    adapters = [step for step in recipe.steps if states[step.module].kind == "adapter"]
    plain = recipe.method == "sum" and not recipe.layers and len(recipe.steps) == 1
    if not plain or not adapters:
        raise ConversionError(
            "M805",
            name=name,
            form="peft",
            reason=f"it is composed in {len(recipe.steps)} steps ({len(adapters)} with an "
            "adapter), and only a base with one adapter is an adapter of PEFT's",
        )
    scale = adapters[0].scale
    if not isinstance(scale, float):
        raise ConversionError(
            "M805",
            name=name,
            form="peft",
            reason="its scale differs by tensor, which PEFT has no form for",
        )
    return states[adapters[0].module], scale
