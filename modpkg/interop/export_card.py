"""The model card of an export: what it was made from, in the words that a hub understands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.core.hub_address import is_hub_address, parse_hub_address
from modpkg.core.names import ModuleName
from modpkg.core.records import ReleaseRecord
from modpkg.environment.workspace import Workspace
from modpkg.interop.hub_licenses import hub_license
from modpkg.interop.model_card import card_text
from modpkg.manifest.normal import from_normal_form
from modpkg.manifest.schema import Card

_TASKS = {
    "text-generation": "text-generation",
    "summarization": "summarization",
    "text-classification": "text-classification",
    "feature-extraction": "feature-extraction",
}
_WHOLE = ("base", "model")
"""Kinds of modules that are models, and not changes of one."""


class Ingredient(Struct, frozen=True, kw_only=True):
    """A module that a model was made from."""

    name: str
    version: str
    kind: str
    license: str
    source: str | None
    """Where it was imported from: an address of a hub or an OCI registry, pinned."""
    card: Card


def ingredients(workspace: Workspace, names: Collection[str]) -> list[Ingredient]:
    """Return the installed modules of these names, in the order of the names.

    Raises:
        ModpkgError: The store's record of one is damaged.
    """
    generation = workspace.environment.current()
    states = {} if generation is None else {state.name: state for state in generation.modules}
    found = []
    for name in names:
        if (state := states.get(ModuleName(name))) is None:
            continue
        record = workspace.store.record(state.release, f"the release record of {name}")
        if record is not None:
            found.append(ingredient_of(record))
            continue
        found.append(
            Ingredient(
                name=state.name,
                version=state.version,
                kind=state.kind,
                license=state.license,
                source=None,
                card=Card(),
            )
        )
    return found


def ingredient_of(record: ReleaseRecord) -> Ingredient:
    """Return a release as something that a model is made from."""
    manifest = from_normal_form(record.manifest, f"the manifest of {record.name}")
    return Ingredient(
        name=record.name,
        version=record.version,
        kind=record.kind,
        license=record.license,
        source=manifest.imported_from,
        card=manifest.card,
    )


def export_card(
    name: str, modules: Sequence[Ingredient], *, library: str, task: object = None
) -> str:
    """Return the model card of what was made from these modules, the base first.

    Args:
        name: The model's name.
        modules: What it was made from, or the adapter alone and after it its base.
        library: The library that loads it: ``transformers``, ``peft`` or
            ``sentence-transformers``.
        task: Its kind of task.
    """
    whole = [module for module in modules if module.kind in _WHOLE]
    bases = [hub for module in whole for hub in _on_hub(module)]
    relation = "finetune"
    if library == "peft":
        relation = "adapter"
    elif len(whole) > 1:
        relation = "merge"
    licenses = sorted({module.license for module in modules})
    license, own = hub_license(
        licenses[0] if len(licenses) == 1 else " AND ".join(f"({text})" for text in licenses)
    )
    tags = ["modpkg", *(["merge"] if relation == "merge" else [])]
    head: dict[str, Any] = {
        "license": license,
        "license_name": own,
        "library_name": library,
        "pipeline_tag": _TASKS.get(str(task)),
        "base_model": list(dict.fromkeys(bases)),
        "base_model_relation": relation if bases else None,
        "datasets": _union(modules, "datasets"),
        "language": _union(modules, "languages"),
        "tags": list(dict.fromkeys([*tags, *_union(modules, "tags")])),
    }
    rows = [
        f"| {module.name} | {module.version} | {module.kind} | {module.license} | "
        f"{module.source or '–'} |"
        for module in modules
    ]
    body = [
        f"# {name}",
        "",
        "Composed by modpkg, exactly, from these modules:",
        "",
        "| module | version | kind | licence | imported from |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return card_text({key: value for key, value in head.items() if value}, "\n".join(body))


def _on_hub(module: Ingredient) -> tuple[str, ...]:
    """Return what a hub calls a model."""
    if module.source is not None and is_hub_address(module.source):
        return (parse_hub_address(module.source).repository,)
    return module.card.base_models


def _union(modules: Sequence[Ingredient], key: str) -> list[str]:
    texts: Mapping[str, None] = dict.fromkeys(
        text for module in modules for text in getattr(module.card, key)
    )
    return list(texts)
