"""Releases that are composed of others, with the weights that they are composed to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from msgspec import Struct, structs
from packaging.version import Version

from modpkg.community.modules.trial import PinnedRelease, plan_trial, trial_manifest
from modpkg.core.digests import digest_file, parse_digest
from modpkg.core.filenames import CONFIG, TOKENIZER
from modpkg.core.installed import InstalledModule
from modpkg.core.interface import ports_of, provides_of
from modpkg.core.jsonfile import read_json
from modpkg.core.names import ModuleName, parse_version
from modpkg.core.records import BuiltFrom, FileEntry, IndexLine, ReleaseRecord, TensorEntry
from modpkg.environment.composed_modules import composed_module, materialised
from modpkg.environment.install import fetch_plan
from modpkg.environment.models import recipe_of
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Dependency
from modpkg.registry.select import usable_releases
from modpkg.release.base import Base
from modpkg.store.store import Store


class ComposedRelease(Struct, frozen=True):
    """A composed release with its weights in the store."""

    module: InstalledModule
    parts: tuple[BuiltFrom, ...]
    """The releases that it was composed of, at any depth."""


def is_composed(record: ReleaseRecord) -> bool:
    """Return whether a release is composed of others, by a recipe of its own."""
    return recipe_of(record, ()) is not None


def compose_release(
    workspace: Workspace, name: ModuleName, version: str, beside: Iterable[Dependency] = ()
) -> ComposedRelease:
    """Fetch and compose a composed release, of the newest versions of its parts that resolve.

    Args:
        workspace: The workspace.
        name: The release's name.
        version: Its version.
        beside: Requirements that its parts have to meet too.

    Raises:
        ModpkgError: Its parts cannot be resolved, fetched or composed.
    """
    manifest = trial_manifest(workspace.manifest, [PinnedRelease(name, version)], {})
    known = {dependency.name for dependency in manifest.dependencies}
    more = [dependency for dependency in beside if dependency.name not in known]
    manifest = structs.replace(manifest, dependencies=(*manifest.dependencies, *more))
    store = workspace.store
    with store.lock():
        plan = plan_trial(workspace, manifest)
        fetch_plan(plan)
        locked = {module.name: module for module in plan.lock.module}
        stored = store.module(
            plan.transfer.records[name], locked[name].release, plan.transfer.places
        )
        workspace.progress.stage(f"Composing {name}")
        composed = composed_module(stored, plan.compositions[name], store.blobs)
        names = next(model.modules() for model in plan.recipes if model.name == name)
        parts = (BuiltFrom(each, locked[each].version, locked[each].release) for each in names)
        return ComposedRelease(materialised(composed, store), tuple(parts))


def composed_base(project: Workspace, version: Version | None) -> Base | None:
    """Return the composed release that a module acts on; None if its base has weights of its own.

    It is the one of ``against``; or else of the first dependency that is composed, if none provides
    an interface, the release of ``version``, or the newest in range.

    Raises:
        ModpkgError: It cannot be fetched or composed.
    """
    manifest, registries = project.manifest, project.registries
    if (found := _line(project, version)) is None:
        return None
    registry = registries.of(found.name)
    if not is_composed(registry.record(found)):
        return None
    composed = compose_release(
        project, ModuleName(found.name), found.version, manifest.dependencies
    )
    return _as_base(composed, project.store)


def _line(project: Workspace, version: Version | None) -> IndexLine | None:
    """Return the release of kind ``model`` that a module may act on."""
    manifest = project.manifest
    against = manifest.module.against if manifest.module is not None else None
    chosen: IndexLine | None = None
    for dependency in manifest.dependencies:
        if against is not None and dependency.name != against.name:
            continue
        lines = project.registries.of(dependency.name).index(dependency.name)
        if any(line.provides is not None for line in lines):
            return None
        wanted = version if against is None else against.version
        models = [line for line in lines if line.kind == "model"]
        if wanted is None:
            models = usable_releases(models, dependency.requirement.specifier)
        else:
            models = [line for line in models if parse_version(line.version) == wanted]
        chosen = chosen or next(iter(models), None)
    return chosen


def _as_base(composed: ComposedRelease, store: Store) -> Base:
    """Return a composed release as the base that a module is built against."""
    module = composed.module
    files = {
        path: FileEntry(digest=digest_file(file), size=file.stat().st_size)
        for path, file in module.files.items()
    }
    tensors = {
        name: TensorEntry(
            dtype=ref.dtype,
            shape=ref.shape,
            digest=ref.digest,
            pack=ref.digest,
            offset=0,
            length=ref.length,
        )
        for name, ref in module.tensors.items()
    }
    config = read_json(module.files[CONFIG]) if CONFIG in module.files else {}
    tokenizer = files.get(TOKENIZER)
    return Base(
        release=parse_digest(module.release),
        record=structs.replace(module.record, files=files, tensors=tensors),
        provides=provides_of(tensors, ports_of(config, tokenizer.digest if tokenizer else None)),
        read=partial(_read, store),
        parts=composed.parts,
    )


def _read(store: Store, digest: str, what: str) -> bytes:
    return store.blobs.read(parse_digest(digest), what)
