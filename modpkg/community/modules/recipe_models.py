"""A recipe of mergekit with the models that it names: imported, named and built, in one project."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.community.modules.memory import memory_of
from modpkg.community.modules.project import module_project, module_table, published_tensors
from modpkg.community.modules.trial import PinnedRelease, plan_trial, trial_manifest
from modpkg.core.errors import ConversionError, ModpkgError, NotFound, RegistryUnreachable
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG, DIST, MANIFEST
from modpkg.core.files import make_folder, remove_tree, rename, write_atomically
from modpkg.core.hub_address import SCHEME, HubAddress, hub_endpoint, parse_hub_address
from modpkg.core.interface import weights_digest
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.names import module_name
from modpkg.core.records import IndexLine
from modpkg.core.regular_file import read_text
from modpkg.environment.workspace import Workspace
from modpkg.interop.hf import import_hf
from modpkg.interop.hub_cache import cached_snapshot
from modpkg.interop.hub_download import downloaded, named_by
from modpkg.interop.mergekit import read_recipe, write_recipe
from modpkg.interop.mergekit_recipe import PARTS, Recipe
from modpkg.interop.model_card import read_card
from modpkg.interop.module_project import new_project
from modpkg.interop.peft import import_peft
from modpkg.manifest.normal import normal_form
from modpkg.manifest.read import read_manifest
from modpkg.manifest.values import parse_license
from modpkg.registry.base import find_base
from modpkg.registry.reader import Registry
from modpkg.release.build import Built, build

_MOST_NUMBERED = 100
"""How many modules of one name, with a number after it, are looked at."""


class ImportedRecipe(Struct, frozen=True):
    """What was written of a recipe."""

    warnings: tuple[str, ...]
    projects: tuple[str, ...]
    """The folders of its modules in the project, in the order in which they can be published."""
    parts: tuple[str, ...]
    """The releases that its models are, as ``NAME==VERSION``, known ones too."""
    already: bool
    """Whether the project was there, with the same contents."""


def import_with_models(
    source: Path, out: Path, name: str, version: str, license: str | None, workspace: Workspace
) -> ImportedRecipe:
    """Write a recipe's project, and in it the projects of its models, each built.

    A model of which the registry has the weights and config already is the release there, whatever
    its name. Each version is pinned. The recipe is planned with what was built before anything is
    left: either all is written, or nothing.

    Args:
        source: The recipe.
        out: Folder of the project. One that has these very projects stays as it is.
        name: The module's name.
        version: Its version, and that of its models.
        license: Its SPDX expression, and that of each model whose README names no licence.
        workspace: The registry that is looked in for the models.

    Raises:
        ConversionError: A model cannot be had or imported; the message says which. Or ``out`` has
            something else.
        ModpkgError: The models cannot be merged as the recipe says.
    """
    out = out.absolute()
    again = (out / MANIFEST).is_file()
    with _scratch(out) if again else new_project(out) as staged:
        recipe = read_recipe(source)
        recipe.manifest(name, version, "MIT")  # reads all of it
        models = _Models(
            recipe,
            source,
            staged,
            PinnedRelease(module_name(name), version),
            workspace,
            None if license is None else parse_license(license),
        )
        models.add_all()
        recipe = read_recipe(source)
        recipe.named(models.names, models.pins)
        warnings = [*models.warnings, *_written(recipe, models, source, staged, name, license)]
        projects = [*models.projects, *(f"{PARTS}/{each}" for each in recipe.parts.values()), "."]
        _plan(models, recipe, staged, name)
        if again:
            projects = _same(staged, out, projects)
    parts = tuple(f"{each}=={release}" for each, release in sorted(models.pins.items()))
    return ImportedRecipe(tuple(warnings), tuple(projects), parts, again)


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    staged = temporary_sibling(out)
    try:
        make_folder(staged)
        yield staged
    finally:
        discard(staged)


def _same(staged: Path, out: Path, projects: list[str]) -> list[str]:
    """Check that a folder has the projects that were staged; those that it has besides stay.

    Raises:
        ConversionError: It has others.
    """
    for folder in projects:
        there = out / folder / MANIFEST
        if not there.is_file() or _meaning(there) != _meaning(staged / folder / MANIFEST):
            raise ConversionError("M803", path=out)
    return projects


def _meaning(path: Path) -> dict[str, Any]:
    return normal_form(read_manifest(path))


def _written(
    recipe: Recipe, models: _Models, source: Path, staged: Path, name: str, license: str | None
) -> list[str]:
    """Write the manifests of the recipe itself, and build them."""
    reread = write_recipe(recipe, source, staged, name, models.version, license=license)
    for part in recipe.parts.values():
        models.build(staged / PARTS / part)
    models.build(staged)
    return reread


def _plan(models: _Models, recipe: Recipe, staged: Path, name: str) -> None:
    """Check that the recipe can be composed of what was built, which nobody has published."""
    manifest = read_manifest(staged / MANIFEST)
    if manifest.compose is None:
        raise AssertionError("a recipe has a [compose]")
    trees = {each: staged / PARTS / each / DIST for each in recipe.parts.values()}
    trees |= models.trees
    pins = [
        PinnedRelease(module_name(each), release, trees.get(each))
        for each, release in models.pins.items()
    ]
    pins += [
        PinnedRelease(module_name(each), models.version, trees[each])
        for each in recipe.parts.values()
    ]
    project = models.workspace_of(staged)
    with project.store.lock():
        trial = trial_manifest(manifest, pins, {module_name(name): (manifest.compose, None)})
        plan_trial(project, trial)


class _Models:
    """The models of a recipe, each imported and built, or known to the registry."""

    def __init__(
        self,
        recipe: Recipe,
        source: Path,
        staged: Path,
        whole: PinnedRelease,
        workspace: Workspace,
        license: str | None,
    ) -> None:
        self._recipe, self._source, self._staged = recipe, source, staged
        self._workspace, self._license = workspace, license
        self._whole, self.version = whole.name, whole.version
        self.names: dict[str, str] = {}
        """By path in the recipe, the module's name."""
        self.pins: dict[str, str] = {}
        """By name, the version."""
        self.trees: dict[str, Path] = {}
        """By name, what was built; known ones have none."""
        self.projects: list[str] = []
        self.warnings: list[str] = []

    def workspace_of(self, folder: Path) -> Workspace:
        return module_project(folder, self._workspace)

    def add_all(self) -> None:
        """Import the models, and after them the adapters, which are built on them.

        Raises:
            ConversionError: One of them fails; the message says which.
        """
        adapters = {lora: base for base, lora in reversed([*self._recipe.parts])}
        chosen = dict(self._recipe.names)
        paths = {name: path for path, name in chosen.items()}
        for path, name in chosen.items():
            if name not in adapters:
                self._add(path, name, None)
        for lora, base in adapters.items():
            self._add(paths[lora], lora, self.names[paths[base]])

    def _add(self, path: str, name: str, base: str | None) -> None:
        self._workspace.progress.stage(f"Importing {name}")
        folder = self._staged / PARTS / name
        make_folder(folder.parent)
        try:
            notes = self._import(path, folder, name, base)
            built = self.build(folder, base)
            known, free = self._find(folder, built)
        except ModpkgError as error:
            raise ConversionError(
                "M242", model=path, path=self._source, reason=str(error).rstrip(".")
            ) from error
        if known is not None:
            remove_tree(folder)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()  # unless others are in it
            self.names[path], self.pins[known.name] = known.name, known.version
            return
        if free != name:
            notes.append(f"another module is called {name}, so that this one is {free}")
            text = read_text(folder / MANIFEST)
            write_atomically(folder / MANIFEST, text.replace(f'"{name}"', f'"{free}"', 1).encode())
            rename(folder, self._staged / PARTS / free)
            folder = self._staged / PARTS / free
            self.build(folder, base)
        self.warnings += [f"{free}: {note}" for note in notes]
        self.names[path], self.pins[free] = free, self.version
        self.trees[free] = folder / DIST
        self.projects.append(f"{PARTS}/{free}")

    def _import(self, path: str, folder: Path, name: str, base: str | None) -> list[str]:
        """Write the project of a model, or of an adapter of ``base``, and return warnings.

        Raises:
            RegistryUnreachable: It is neither here nor in the hub's cache, and the network may not
                be used, or the hub does not answer.
        """
        local = self._source.parent / path
        if local.exists():
            return self._convert(local, folder, name, base, None)
        address = self._address(path)
        if (cached := cached_snapshot(address, adapter=base is not None)) is not None:
            found, commit = cached
            with named_by(commit, found):
                notes = self._convert(found, folder, name, base, commit)
            return [*notes, f"it is {commit}, as the hub's cache on this machine has it"]
        if self._workspace.options.offline:
            raise RegistryUnreachable("M863", url=hub_endpoint(), reason="--offline forbids it")
        with downloaded(
            address, adapter=base is not None, progress=self._workspace.progress
        ) as got:
            with named_by(got.address, got.folder):
                notes = self._convert(got.source, folder, name, base, got.address)
            return [*notes, *got.left]

    def _convert(
        self, source: Path, folder: Path, name: str, base: str | None, address: HubAddress | None
    ) -> list[str]:
        given: dict[str, Any] = {"imported_from": address}
        if read_card(source).license_text is None:
            given["license"] = self._license
        if base is None:
            return import_hf(source, folder, name, self.version, **given)
        release = f"{base}=={self.pins[base]}"
        return import_peft(source, folder, name, self.version, base=release, **given)

    def _address(self, path: str) -> HubAddress:
        """Return the address of a model that is no folder here.

        Raises:
            ConversionError: It cannot be one of a hub.
        """
        revision = self._recipe.revision(path)
        try:
            return parse_hub_address(f"{SCHEME}{path}{'' if revision is None else f'@{revision}'}")
        except ModpkgError:
            place = self._source.parent / path
            reason = "there is no such folder, and it is no ORG/NAME of a hub"
            raise ConversionError("M801", path=place, reason=reason) from None

    def build(self, folder: Path, base: str | None = None) -> Built:
        """Build a project in its folder."""
        project = self.workspace_of(folder)
        manifest = project.manifest
        found = None
        if base is not None:
            found = find_base(manifest, {module_name(base): self._registry_of(base, project)})
        return build(
            manifest,
            module_table(manifest),
            folder / DIST,
            base=found,
            known=published_tensors(project),
            memory=memory_of,
        )

    def _registry_of(self, base: str, project: Workspace) -> Registry:
        tree = self.trees.get(base)
        return Registry(str(tree)) if tree is not None else project.registries.of(base)

    def _find(self, folder: Path, built: Built) -> tuple[IndexLine | None, str]:
        """Return the release that a registry has of what was built, and a name that is free.

        A registry that is a folder is searched as a whole; of others, the modules that have the
        name, or the name with a number.
        """
        name = built.line.name
        project = self.workspace_of(folder)
        try:
            registry = project.registries.of(name)
            every = registry.names() if registry.folder is not None else None
            free = None
            for number in range(1, _MOST_NUMBERED):
                chosen = name if number == 1 else f"{name}-{number}"
                if not (lines := registry.index(chosen)):
                    free = chosen if self._is_free(chosen, name) else None
                elif (known := _same_release(registry, lines, built)) is not None:
                    return known, name
                if free is not None:
                    break
            for other in every or ():
                if known := _same_release(registry, registry.index(other), built):
                    return known, name
        except NotFound as error:
            if error.code != "M301":
                raise
            return None, self._unused(name)
        return None, free or self._unused(name)

    def _unused(self, name: str) -> str:
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        return next(each for each in names if self._is_free(each, name))

    def _is_free(self, chosen: str, name: str) -> bool:
        """Return whether no other model of the recipe, nor itself, is called so."""
        others = {*self.pins, *self._recipe.names.values()} - ({name} - {*self.pins})
        return chosen not in others and chosen != self._whole


def _same_release(registry: Registry, lines: list[IndexLine], built: Built) -> IndexLine | None:
    """Return the newest release with the same weights and config, if there is one."""
    wanted, digest = built.record, weights_digest(built.record.tensors)
    for line in reversed(lines):
        if line.kind != wanted.kind or line.provides != wanted.provides or line.yanked is not None:
            continue
        record = registry.record(line)
        alike = weights_digest(record.tensors) == digest
        configs = all(record.files.get(f) == wanted.files.get(f) for f in (CONFIG, ADAPTER_CONFIG))
        if alike and configs and record.expects == wanted.expects:
            return line
    return None
