"""The part of a lock that one installed model needs, as a project that installs it again.

It goes with a model to where nothing is known of the project that it is from: of this, it has
nothing but the model's own recipe, the releases that it is made of, and where those are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace
from packaging.specifiers import SpecifierSet

from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.core.errors import LockError
from modpkg.core.filenames import LOCK_NAME, MANIFEST
from modpkg.core.installed import InstalledModel
from modpkg.core.messages import TO_LOCK
from modpkg.core.names import ReadRequirement, Requirement, module_name, read_requirement
from modpkg.environment.locking import requirements_of
from modpkg.environment.policy import recorded
from modpkg.environment.workspace import Workspace
from modpkg.manifest.normal import manifest_text, normal_form
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.schema import Compose, Dependency, Manifest, Task
from modpkg.resolve.lock import (
    Lock,
    LockedModule,
    LockedPolicy,
    LockedResult,
    format_lock,
    read_lock,
)


def locked_assembly(
    workspace: Workspace, model: InstalledModel, *, whole: bool = True
) -> dict[str, bytes]:
    """Return a manifest and a lock, by file name, that install a model of the environment again.

    Every version is pinned. The lock has the digest of the composed weights.

    Args:
        workspace: The workspace of the environment.
        model: The model; it is composed.
        whole: Whether the result is all that is exported; if not, its digest is left out.

    Raises:
        LockError: The environment's lock is missing or damaged.
        EnvironmentDamaged: The environment cannot be read.
    """
    environment = workspace.environment
    generation = environment.generation(environment.current_number() or 0)
    path = environment.folder(generation.number) / LOCK_NAME
    if (lock := read_lock(path)) is None:
        raise LockError("M411", path=path, remedy=TO_LOCK)
    locked = {module.name: module for module in lock.module}
    roots = {str(read_requirement(text.partition(" @ ")[0]).name) for text in lock.requirements}
    is_root = model.name in roots & locked.keys()
    recipe = msgspec.convert(model.recipe, Compose)
    needed = [locked[name] for name in ([model.name] if is_root else recipe.modules())]
    required = {state.name: state.requires + state.extra_requires for state in generation.modules}
    closure = _closure(needed, locked, required)
    overrides = [read_requirement(text) for text in lock.overrides]
    manifest = _manifest(
        model,
        recipe,
        needed,
        [bound for bound in overrides if any(module.name == bound.name for module in closure)],
        is_root=is_root,
    )
    text = manifest_text(normal_form(manifest))
    if manifest.overrides:
        pairs = [f"{bound.name} = {_quoted(bound)}" for bound in manifest.overrides]
        text += "\n".join(["", "[overrides]", *pairs, ""])
    manifest = parse_manifest(text, Path(MANIFEST))
    own = Lock(
        requirements=requirements_of(manifest),
        overrides=recorded(manifest.overrides),
        resolution=LockedPolicy(),
        module=[_published(module) for module in closure],
        composed=_result(model, lock) if whole else [],
    )
    return {MANIFEST: text.encode(), LOCK_NAME: format_lock(own).encode()}


def _quoted(bound: Dependency) -> str:
    return f'"{bound.requirement.specifier}"'


def _result(model: InstalledModel, lock: Lock) -> list[LockedResult]:
    for result in lock.composed:
        if (result.model, result.inputs, result.result) == (model.name, model.key, model.result):
            return [result]
    return [
        LockedResult(
            model=model.name, engine=COMPOSE_ENGINE, inputs=model.key, result=model.result or ""
        )
    ]


def _closure(
    roots: list[LockedModule],
    locked: Mapping[str, LockedModule],
    required: Mapping[str, list[str]],
) -> list[LockedModule]:
    """Return modules and all that they require, with their extras, breadth first."""
    found = {module.name: module for module in roots}
    pending = list(roots)
    while pending:
        for text in required[pending.pop(0).name]:
            name = read_requirement(text).name
            if name not in found and name in locked:
                found[name] = locked[name]
                pending.append(locked[name])
    return list(found.values())


def _published(module: LockedModule) -> LockedModule:
    """Return a locked module without the path of a folder, which is nobody else's."""
    return module if _is_url(module.address) else replace(module, address="")


def _is_url(address: str) -> bool:
    return "://" in address and not address.startswith("file:")


def _manifest(
    model: InstalledModel,
    recipe: Compose,
    needed: list[LockedModule],
    overrides: list[ReadRequirement],
    *,
    is_root: bool,
) -> Manifest:
    places = list(dict.fromkeys(module.address for module in needed))
    aliases = {
        place: "default" if number == 0 else f"registry-{number}"
        for number, place in enumerate(places)
        if _is_url(place)
    }
    dependencies = []
    for module in needed:
        alias = aliases.get(module.address, "default")
        exact = SpecifierSet(f"=={module.version}")
        dependencies.append(
            Dependency(
                Requirement(module_name(module.name), set(map(module_name, module.extras)), exact),
                registry=None if alias == "default" else alias,
                compose_at="install" if is_root else None,
            )
        )
    name = module_name(model.name)
    task = None if model.task is None else msgspec.convert(model.task, Task)
    return Manifest(
        path=Path(MANIFEST),
        app=f"{name}-assembly" if is_root else name,
        dependencies=tuple(dependencies),
        overrides=tuple(
            Dependency(Requirement(bound.name, set(), bound.specifier)) for bound in overrides
        ),
        registries={alias: place for place, alias in aliases.items()},
        models={} if is_root else {name: recipe},
        tasks={} if is_root or task is None else {name: task},
    )
