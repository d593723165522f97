"""The runnable models of an environment: their recipes and folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from modpkg.core.bounds import COMPOSED_DEPTH
from modpkg.core.errors import ComposeError, RecordError
from modpkg.core.filenames import CONFIG, MODEL_RECORD
from modpkg.core.files import link_or_copy, make_folder, write_atomically
from modpkg.core.installed import InstalledModel, Prompt, TensorRef, files_in
from modpkg.core.interface import weights_digest
from modpkg.core.jsonfile import json_text
from modpkg.core.names import module_name
from modpkg.core.records import RESTORE, ReleaseRecord
from modpkg.core.sealed import seal
from modpkg.core.tree import BlobTree
from modpkg.environment.assembly import (
    ASSEMBLED_FROM,
    ON_A_BASE,
    assembled_from,
    assembly,
    base_of,
)
from modpkg.manifest.normal import from_normal_form
from modpkg.manifest.schema import Compose, Manifest, Task
from modpkg.release.build import requires_of
from modpkg.release.content import check_path
from modpkg.resolve.lock import Lock

if TYPE_CHECKING:
    from modpkg.compose.composition import Composition
    from modpkg.compose.executor import ComposedModel


class ModelRecipe(Struct, frozen=True):
    """One model to compose."""

    name: str
    version: str
    recipe: Compose
    task: Task | None
    implied: bool = False
    """Whether it is a module on its base, which no recipe asks for."""
    at_load: bool = False
    """Whether it is composed when it is first loaded, and not while it is installed."""
    within: Mapping[str, Compose] = {}
    """The recipes of those of its modules that are composed themselves, by name."""

    def modules(self) -> list[str]:
        """Return the names of its modules, base first, and of those that they are composed of."""
        inner = [name for recipe in self.within.values() for name in recipe.modules()]
        return list(dict.fromkeys([*self.recipe.modules(), *inner]))


def recipes(
    manifest: Manifest, lock: Lock, records: Mapping[str, ReleaseRecord], blobs: BlobTree
) -> list[ModelRecipe]:
    """Return the models of an environment: runnable roots, and the manifest's own models.

    A root of kind ``base`` is a model by itself; one of kind ``model`` is composed by its own
    recipe; an adapter, head or patch is a model together with the base that it was made for, in
    the version that the lock has. ``blobs`` has the files that `files_of_recipes` names.
    """
    models: dict[str, ModelRecipe] = {}
    for dependency in manifest.dependencies:
        locked = lock.find(dependency.name)
        if locked is None:
            continue
        record = records[locked.name]
        at_load = dependency.compose_at == "load"
        if record.kind == "base" and CONFIG in record.files:
            task = manifest_of(record).task
            recipe = Compose(base=dependency.name)
            found = ModelRecipe(record.name, record.version, recipe, task, at_load=at_load)
            models[record.name] = found
        elif record.kind == "model":
            if (composed := recipe_of(record, locked.extras)) is not None:
                task = manifest_of(record).task
                found = ModelRecipe(record.name, record.version, composed, task, at_load=at_load)
                models[record.name] = found
        elif (base := _base_record(record, records)) is not None:
            models[record.name] = ModelRecipe(
                record.name,
                record.version,
                assembly(record, base.tensors.keys(), assembled_from(record, blobs)),
                manifest_of(record).task or manifest_of(base).task,
                implied=True,
                at_load=dependency.compose_at != "install",
            )
    for name, recipe, task in _own_models(manifest):
        version = str(manifest.module.version) if manifest.module is not None else "0"
        at_load = manifest.composed_at.get(module_name(name)) == "load"
        models[name] = ModelRecipe(name, version, recipe, task, at_load=at_load)
    extras = {module.name: module.extras for module in lock.module}
    return [
        structs.replace(model, within=recipes_within(model.name, model.recipe, records, extras))
        for model in models.values()
    ]


def recipe_of(record: ReleaseRecord, extras: Collection[str]) -> Compose | None:
    """Return the recipe by which a release is composed, with some extras; None if it is not."""
    own = manifest_of(record) if record.kind == "model" else None
    if own is None or own.compose is None:
        return None
    return with_extras(own, set(extras))


def recipes_within(
    name: str,
    recipe: Compose,
    records: Mapping[str, ReleaseRecord],
    extras: Mapping[str, Collection[str]],
) -> dict[str, Compose]:
    """Return the recipes of the composed modules that a recipe leads to, by name.

    Args:
        name: The model's name.
        recipe: Its recipe.
        records: The releases of all modules, by name.
        extras: The extras of each that are wanted.

    Raises:
        ComposeError: A module is composed of itself, or too deep.
    """
    found: dict[str, Compose] = {}

    def visit(recipe: Compose, path: tuple[str, ...]) -> None:
        for inner in recipe.modules():
            record = records.get(inner)
            if record is None:
                continue
            own = found.get(inner) or recipe_of(record, extras.get(inner, ()))
            if own is None:
                continue
            if inner in path:
                raise ComposeError("M219", model=inner, path=" → ".join([*path, inner]))
            if len(path) > COMPOSED_DEPTH:
                raise ComposeError("M218", model=name, module=inner, most=COMPOSED_DEPTH)
            if inner not in found:
                visit(own, (*path, inner))
                found[inner] = own

    visit(recipe, (name,))
    return found


def _base_record(
    record: ReleaseRecord, records: Mapping[str, ReleaseRecord]
) -> ReleaseRecord | None:
    """Return the release that a root runs on; None if it is of another kind."""
    if record.kind not in ON_A_BASE or (name := base_of(record)) is None:
        return None
    base = records.get(name)
    if base is None or (CONFIG not in base.files and recipe_of(base, ()) is None):
        return None
    return base


def files_of_recipes(
    manifest: Manifest, records: Mapping[str, ReleaseRecord]
) -> Iterator[tuple[str, str]]:
    """Yield module and path of the files that `recipes` reads."""
    for dependency in manifest.dependencies:
        record = records.get(dependency.name)
        if record is not None and record.kind in ON_A_BASE:
            for path in record.files.keys() & set(ASSEMBLED_FROM):
                yield record.name, path


def _own_models(manifest: Manifest) -> Iterator[tuple[str, Compose, Task | None]]:
    for name, recipe in manifest.models.items():
        yield name, recipe, manifest.tasks.get(name)
    if manifest.module is not None and manifest.compose is not None:
        yield manifest.module.name, with_extras(manifest, set()), manifest.task


def manifest_of(record: ReleaseRecord) -> Manifest:
    """Return the manifest in a release record, validated as strictly as a file."""
    what = f"the manifest of {record.name} {record.version}"
    manifest = from_normal_form(record.manifest, what)
    if requires_of(manifest) != (record.requires, record.extras):
        raise RecordError(
            "M209",
            what=what,
            kind="manifest",
            reason="its requirements differ from the release record's",
            remedy=RESTORE,
        )
    return manifest


def with_extras(manifest: Manifest, active: set[str]) -> Compose:
    """Return a module's recipe without the steps whose module belongs to an inactive extra."""
    if manifest.module is None or manifest.compose is None:
        raise AssertionError(f"{manifest.path} has no [compose]")
    name, recipe = manifest.module.name, manifest.compose
    wanted = {dependency.name for dependency in manifest.dependencies}
    for extra, group in manifest.extras.items():
        if extra in active:
            wanted.update(dependency.name for dependency in group)
    optional = {dependency.name for group in manifest.extras.values() for dependency in group}
    steps = []
    for step in recipe.steps:
        if step.module in wanted:
            steps.append(step)
        elif step.module not in optional:
            raise ComposeError(
                "M601",
                model=name,
                reason=f"step {step.op!r} uses {step.module}, which is not a dependency",
            )
    return msgspec.structs.replace(recipe, steps=tuple(steps))


def lay_out_model(
    folder: Path,
    composed: ComposedModel | Composition,
    model: ModelRecipe,
    modules: Mapping[str, str],
    tensors: Mapping[str, TensorRef] | None = None,
    prompt: Prompt | None = None,
) -> None:
    """Write a model's folder: config and files, and last its record.

    Args:
        folder: The folder; what it has already is written again.
        composed: The result of composing, or what will be composed when the model is first loaded.
        model: The model.
        modules: Versions of the modules used, by name.
        tensors: Places of the weights, as recorded; None until it is composed.
        prompt: Place of the virtual tokens, as recorded.
    """
    make_folder(folder)
    for path, source in composed.files.items():
        if path in composed.documents:
            continue
        link_or_copy(source, folder / check_path(path))
    for path, document in {**composed.documents, CONFIG: composed.config}.items():
        write_atomically(folder / path, json_text(document))
    installed = InstalledModel(
        name=model.name,
        version=model.version,
        key=composed.key,
        result=None if tensors is None else weights_digest(tensors),
        task=msgspec.to_builtins(model.task) if model.task is not None else None,
        tensors=dict(tensors or {}),
        modules=dict(modules),
        recipe=msgspec.to_builtins(model.recipe),
        prompt=prompt,
        files=files_in(folder),
    )
    write_atomically(folder / MODEL_RECORD, seal(installed))
