"""The composed weights of a recipe as a module of their own, for users who fetch no parents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import structs
from packaging.specifiers import SpecifierSet

from modpkg.community.modules.project import module_table, published_tensors
from modpkg.community.modules.trial import plan_trial
from modpkg.core.errors import ConversionError, ManifestError
from modpkg.core.filenames import CONFIG, DIST, MANIFEST
from modpkg.core.files import link_or_copy, make_folder, write_atomically
from modpkg.core.interface import weights_digest
from modpkg.core.jsonfile import json_text
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.names import ModuleName, Requirement, parse_version
from modpkg.core.records import BuiltFrom, ReleaseRecord
from modpkg.environment.install import counted, fetch_plan
from modpkg.environment.plan import InstallPlan
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.interop.export_card import export_card, ingredient_of
from modpkg.interop.model_card import CARD
from modpkg.interop.weights import write_weights
from modpkg.manifest.normal import manifest_text, normal_form
from modpkg.manifest.schema import (
    Compose,
    Dependency,
    Manifest,
    ModuleTable,
    Origin,
    ResolutionTable,
)
from modpkg.release.build import build
from modpkg.release.content import check_path

RECIPE = "recipe.toml"
"""In the release of composed weights, the manifest of an app that composes them again."""


@contextlib.contextmanager
def composed_project(project: Workspace, name: ModuleName | None = None) -> Iterator[Workspace]:
    """Yield the workspace of a module of kind ``base`` with what a recipe composes, built.

    The recipe's modules are those that resolve now, as for somebody who installs the model. The
    release names them, with their digests, and `RECIPE` has the recipe with their versions. Tensors
    that the registry has are referred to. The project is temporary, and removed after the block.

    Args:
        project: The workspace of a module project with a recipe.
        name: The name of the new module; by default the project's, with ``-composed`` after it.

    Raises:
        ManifestError: The project has no recipe.
        ConversionError: It reads virtual tokens, which are no weights.
        ModpkgError: Its modules cannot be resolved, fetched or composed.
    """
    manifest = project.manifest
    module = module_table(manifest)
    if manifest.compose is None:
        raise ManifestError("M241", path=manifest.path)
    chosen = name or ModuleName(f"{module.name}-composed")
    folder = temporary_sibling(manifest.folder / str(chosen))
    try:
        with project.store.lock():
            plan = plan_trial(project, _app(manifest, module, manifest.compose))
            fetch_plan(plan)
            result = _write(plan, module, chosen, folder)
            records = plan.transfer.records
            parts = _parts(plan, module.name)
            new = ModuleTable(
                name=chosen,
                version=module.version,
                kind="base",
                license=_license(module, [records[part.name] for part in parts]),
                summary=module.summary or f"The composed weights of {module.name}",
            )
            own = Manifest(
                path=folder / MANIFEST,
                module=new,
                task=manifest.task,
                card=manifest.card,
                origins=tuple(
                    Origin(
                        name=ModuleName(part.name),
                        version=parse_version(part.version),
                        relation="merged",
                    )
                    for part in parts
                ),
                registries=manifest.registries,
                roots=manifest.roots,
            )
            write_atomically(own.path, manifest_text(normal_form(own)).encode())
            made = project.for_project(Project(own.path))
            made.progress.stage(f"Building {chosen}")
            built = build(
                made.manifest, new, folder / DIST, origins=parts, known=published_tensors(made)
            )
        if (found := weights_digest(built.record.tensors)) != result:
            reason = f"its tensors would be {found} in a release, and are {result}"
            form = "a release of its weights"
            raise ConversionError("M805", name=module.name, form=form, reason=reason)
        yield made
    finally:
        discard(folder)


def _app(manifest: Manifest, module: ModuleTable, recipe: Compose) -> Manifest:
    """Return the manifest of an app with the model; it resolves as one that depends on it does."""
    return Manifest(
        path=manifest.path,
        app="composed",
        dependencies=manifest.dependencies,
        resolution=ResolutionTable(),
        registries=manifest.registries,
        roots=manifest.roots,
        models={module.name: recipe},
        tasks={} if manifest.task is None else {module.name: manifest.task},
    )


def _parts(plan: InstallPlan, name: str) -> list[BuiltFrom]:
    """Return the releases that a model is composed of, at any depth."""
    locked = {module.name: module for module in plan.lock.module}
    names = next(model.modules() for model in plan.recipes if model.name == name)
    return [BuiltFrom(each, locked[each].version, locked[each].release, "merged") for each in names]


def _license(module: ModuleTable, parts: list[ReleaseRecord]) -> str:
    """Return the licence of weights that come from all of these: each of theirs applies."""
    texts = sorted({module.license, *(record.license for record in parts)})
    return texts[0] if len(texts) == 1 else " AND ".join(f"({text})" for text in texts)


def _write(plan: InstallPlan, module: ModuleTable, name: ModuleName, folder: Path) -> str:
    """Compose, and write weights and files into a folder; return the digest of the weights."""
    from modpkg.compose.executor import compose

    composition = plan.compositions[module.name]
    if composition.prompt is not None:
        reason = f"it reads the virtual tokens of {composition.prompt.module} while it runs"
        form = "a release of its weights"
        raise ConversionError("M805", name=module.name, form=form, reason=reason)
    store, progress = plan.workspace.store, plan.workspace.progress
    progress.stage(f"Composing {module.name}")
    composed = compose(
        composition,
        store.root,
        progress=counted(progress),
        verified=store.verified,
        device=plan.workspace.device,
    )
    make_folder(folder)
    for path, source in composition.files.items():
        if path not in composition.documents:
            make_folder((folder / check_path(path)).parent, within=folder)
            link_or_copy(source, folder / path)
    for path, document in {**composition.documents, CONFIG: composition.config}.items():
        write_atomically(folder / check_path(path), json_text(document))
    records = [plan.transfer.records[part.name] for part in _parts(plan, module.name)]
    made_of = [ingredient_of(record) for record in records]
    (folder / CARD).unlink(missing_ok=True)
    write_atomically(folder / CARD, export_card(name, made_of, library="transformers").encode())
    write_atomically(folder / RECIPE, _recipe_text(plan, module).encode())
    write_weights(composed.tensors, folder, folder, store=store)
    return composed.result


def _recipe_text(plan: InstallPlan, module: ModuleTable) -> str:
    """Return the manifest of an app that composes the model of the very same releases."""
    versions: Mapping[str, str] = {one.name: one.version for one in plan.lock.module}
    dependencies = tuple(
        structs.replace(
            dependency,
            requirement=Requirement(
                dependency.requirement.name,
                dependency.requirement.extras,
                SpecifierSet(f"=={versions[dependency.name]}"),
            ),
        )
        for dependency in _pinned(plan)
    )
    app = structs.replace(plan.manifest, app=str(module.name), dependencies=dependencies)
    return manifest_text(normal_form(app))


def _pinned(plan: InstallPlan) -> list[Dependency]:
    """Return the dependencies of a plan, and all that they need."""
    own = {dependency.name: dependency for dependency in plan.manifest.dependencies}
    every = [ModuleName(module.name) for module in plan.lock.module]
    return [own.get(name) or Dependency(Requirement(name, (), SpecifierSet())) for name in every]
