"""The compositions of models, planned from records and small files, before any weights are here."""

from __future__ import annotations

from collections.abc import Sequence

from modpkg.compose.composition import Composition
from modpkg.compose.plan import plan as plan_composition
from modpkg.compose.tokenizer_files import is_text_file
from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import (
    ADAPTER_CONFIG,
    CONFIG,
    MEMORY,
    PATCH,
    PATCHED_FILES,
    ROUTER,
    TOKENIZER_CONFIG,
)
from modpkg.environment.composed_modules import ModuleGraph
from modpkg.environment.models import ModelRecipe
from modpkg.environment.registries import Registries
from modpkg.manifest.schema import Compose
from modpkg.resolve.lock import Lock
from modpkg.store.store import Store
from modpkg.transfer.plan import TransferPlan

_PLANNED_FROM = (CONFIG, ADAPTER_CONFIG, MEMORY, ROUTER, PATCH, TOKENIZER_CONFIG)


def compositions_of(
    models: Sequence[ModelRecipe],
    lock: Lock,
    transfer: TransferPlan,
    registries: Registries,
    store: Store,
) -> tuple[dict[str, Composition], dict[str, str]]:
    """Return the composition of every model, and why others that are implied have none.

    The small files that planning reads are fetched into the store; the weights are not needed.

    Raises:
        ModpkgError: A model that a recipe asks for cannot be composed.
    """
    for model in models:
        for recipe in (model.recipe, *model.within.values()):
            _fetch_configs(recipe, transfer, registries, reads_text=bool(model.within))
    modules = {
        module.name: store.module(transfer.records[module.name], module.release, transfer.places)
        for module in lock.module
    }
    compositions: dict[str, Composition] = {}
    not_alone: dict[str, str] = {}
    within = {name: recipe for model in models for name, recipe in model.within.items()}
    graph = ModuleGraph(modules, within, store.blobs)
    for model in models:
        try:
            planned = plan_composition(model.name, model.version, model.recipe, graph)
        except ModpkgError as error:
            if not model.implied:
                raise
            not_alone[model.name] = str(error)
            continue
        compositions[model.name] = planned
    return compositions, not_alone


def _fetch_configs(
    recipe: Compose, transfer: TransferPlan, registries: Registries, *, reads_text: bool
) -> None:
    """Fetch the small files that planning a composition reads into the store.

    ``reads_text`` tells whether it reads those about texts, whatever the recipe is.
    """
    records = [transfer.records[name] for name in recipe.modules() if name in transfer.records]
    with_text = [record for record in records if any(map(is_text_file, record.files))]
    reads_text |= (recipe.tokenizer, recipe.vocabulary, recipe.chat_template) != (None, None, None)
    reads_text |= any(record.name != recipe.base for record in with_text)
    for name in recipe.modules():
        record = transfer.records.get(name)
        for path in record.files if record is not None else ():
            planned = path in _PLANNED_FROM or path.startswith(PATCHED_FILES)
            if planned or (reads_text and is_text_file(path)):
                fetch_file(name, path, transfer, registries)


def fetch_file(name: str, path: str, transfer: TransferPlan, registries: Registries) -> None:
    """Fetch a file of a module into the store, if it is not there."""
    digest = parse_digest(transfer.records[name].files[path].digest)
    registries.of(name).blob(digest, f"{path} of {name}")
