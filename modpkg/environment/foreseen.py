"""What installing a module would refuse, reported before it is built or published.

A recipe is planned as `modpkg install` plans it, with the releases that resolve now: names, shapes,
dtypes, layers and vocabularies are those of their records, and no weights are fetched.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from modpkg.compose.recipe_settings import check_settings
from modpkg.core.errors import MissingExtra, ModpkgError, RegistryError, ReleaseError
from modpkg.core.names import listed
from modpkg.environment.compositions import compositions_of
from modpkg.environment.fits import fits_of
from modpkg.environment.locking import make_lock
from modpkg.environment.models import ModelRecipe, recipes_within, with_extras
from modpkg.environment.patch_notes import overlap_notes
from modpkg.environment.policy import check_engine
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest, ResolutionTable
from modpkg.resolve.lock import Lock
from modpkg.transfer.plan import plan_transfer


def check_recipe(workspace: Workspace, manifest: Manifest) -> tuple[str, ...]:
    """Check that a module's recipe can be composed; return the releases that it was checked with.

    It is checked without extras, and with each of them. Warns, and returns none, where the
    modules are not to be had: they may be published later.

    Raises:
        ResolutionImpossible: No versions of its modules fit together.
        ComposeError: The recipe itself is wrong.
        ReleaseError: It cannot be composed of the releases that resolve now.
    """
    if manifest.module is None or manifest.compose is None:
        return ()
    check_settings(manifest.module.name, manifest.compose)
    workspace.progress.stage(f"Checking the recipe of {manifest.module.name}")
    found: dict[str, None] = {}
    try:
        with workspace.store.lock():
            for asked, active in _with_each_extra(manifest):
                found |= dict.fromkeys(_checked(workspace, asked, active))
    except (RegistryError, MissingExtra) as error:
        workspace.progress.warn(f"The recipe was not checked with its modules: {error}")
        return ()
    return tuple(found)


def _with_each_extra(manifest: Manifest) -> Iterator[tuple[Manifest, set[str]]]:
    """Yield the manifest as a dependant resolves it, without extras and with each of them."""
    plain = replace(manifest, constraints=(), overrides=(), resolution=ResolutionTable())
    yield plain, set()
    for extra, group in manifest.extras.items():
        yield replace(plain, dependencies=(*manifest.dependencies, *group)), {str(extra)}


def _checked(workspace: Workspace, manifest: Manifest, active: set[str]) -> list[str]:
    registries = workspace.registries_for(manifest)
    lock = make_lock(manifest, registries, None, cools_down=False).lock
    transfer = plan_transfer(lock.module, registries.by_name(lock), workspace.store)
    assert manifest.module is not None  # noqa: S101
    name, version = manifest.module.name, str(manifest.module.version)
    recipe = with_extras(manifest, active)
    model = ModelRecipe(name, version, recipe, manifest.task)
    used = _used(model, lock)
    try:
        check_engine(transfer.records.values())
        fits_of(transfer.records, registries)
        extras = {module.name: module.extras for module in lock.module}
        within = recipes_within(name, recipe, transfer.records, extras)
        models = [replace(model, within=within)]
        compositions, _ = compositions_of(models, lock, transfer, registries, workspace.store)
    except (RegistryError, MissingExtra):
        raise
    except ModpkgError as error:
        reason = str(error).rstrip(".")
        raise ReleaseError(
            "M235", module=name, releases=listed(used), refusal=error.code, reason=reason
        ) from error
    composition = compositions[name]
    for note in (*composition.notes, *overlap_notes(recipe, composition)):
        workspace.progress.warn(f"{name}: {note}")
    return used


def _used(model: ModelRecipe, lock: Lock) -> list[str]:
    """Return the releases that a recipe names, as ``name version``."""
    wanted = set(model.modules())
    return [f"{one.name} {one.version}" for one in lock.module if one.name in wanted]
