"""Composed modules that other models are composed of, as modules whose tensors are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modpkg.compose.composition import Composition
from modpkg.compose.nested import ComposedModule, inner_tensors
from modpkg.compose.plan import COMPOSE_ENGINE, plan
from modpkg.core.digests import parse_digest
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import json_text
from modpkg.core.tree import BlobTree
from modpkg.manifest.schema import Compose
from modpkg.store.store import Store


class ModuleGraph(Mapping[str, InstalledModule]):
    """Modules by name; those that have a recipe are what it composes, planned when first asked for.

    Each module is planned once, whoever needs it.
    """

    def __init__(
        self,
        stored: Mapping[str, InstalledModule],
        recipes: Mapping[str, Compose],
        blobs: BlobTree,
    ) -> None:
        """Take modules as they are in the store.

        Args:
            recipes: Of the composed ones, see `modpkg.environment.models.recipes_within`.
            blobs: Where their config and other small files go.
        """
        self._stored, self._recipes, self._blobs = stored, recipes, blobs
        self._composed: dict[str, ComposedModule] = {}

    def __getitem__(self, name: str) -> InstalledModule:
        module = self._stored[name]
        recipe = self._recipes.get(name)
        if recipe is None:
            return module
        if name not in self._composed:
            composition = plan(module.name, module.version, recipe, self)
            self._composed[name] = composed_module(module, composition, self._blobs)
        return self._composed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def composed_module(
    module: InstalledModule, composition: Composition, blobs: BlobTree
) -> ComposedModule:
    """Return a module as a composition makes it, with the files that are written for it in blobs.

    Raises:
        ComposeError: It reads virtual tokens.
    """
    if composition.prompt is not None:
        raise ComposeError("M221", module=module.name, tokens=composition.prompt.module)
    made = inner_tensors(composition, COMPOSE_ENGINE)
    refs = composition.kept | {name: ref for name, (ref, _) in made.items()}
    documents = {**composition.documents, CONFIG: composition.config}
    written = {
        path: blobs.path(parse_digest(blobs.add(json_text(document))))
        for path, document in documents.items()
    }
    return ComposedModule(
        name=module.name,
        version=module.version,
        kind=module.kind,
        release=module.release,
        record=module.record,
        tensors=dict(sorted(refs.items())),
        files={**composition.files, **written},
        composition=composition,
        inner=composition.inner | {ref.file: inner for ref, inner in made.values()},
    )


def materialised(module: InstalledModule, store: Store) -> InstalledModule:
    """Return a module with all its weights in the store; the caller uses the store.

    Raises:
        ModpkgError: It is a composed one, and composing failed.
    """
    if not isinstance(module, ComposedModule):
        return module
    from modpkg.compose.executor import compose

    composed = compose(module.composition, store.root.absolute(), verified=store.verified)
    return InstalledModule(
        name=module.name,
        version=module.version,
        kind=module.kind,
        release=module.release,
        record=module.record,
        tensors=composed.tensors,
        files=module.files,
    )
