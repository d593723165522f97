"""The parts of a live model: one base from the store, and named changes to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from modpkg.compose.composition import Composition, Term
from modpkg.compose.operators import find_operator
from modpkg.compose.plan import plan
from modpkg.core.errors import RunError
from modpkg.core.installed import InstalledModule, TensorRef, read_model
from modpkg.core.names import module_name
from modpkg.core.records import canonical_json
from modpkg.core.same_values import as_copied_from
from modpkg.core.tensors import identity_of
from modpkg.environment.absent import no_model_remedy, not_installed, nothing_installed
from modpkg.environment.assembly import ON_A_BASE, assembled_from, assembly, base_of
from modpkg.environment.composed_modules import materialised
from modpkg.environment.first_load import installed_graph, installed_modules
from modpkg.environment.generations import Generation
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose
from modpkg.runtime.installed import find_model

TermsByTensor = Mapping[str, tuple[Term, ...]]
"""Terms by base tensor; a term's weight includes its step's scale."""


class LiveParts(Struct, frozen=True):
    """A base and the adapters that can be switched."""

    name: str
    """The first model's, for errors."""
    folder: Path
    """The first model's folder, with its configs and tokenizer."""
    table: dict[str, TensorRef]
    """The base's tensors, which all models share."""
    changes: dict[str, TermsByTensor]
    """By name of a model or of a module in one, models first. A base that is a model by itself has
    no terms."""


def find_parts(names: Sequence[str], workspace: Workspace) -> LiveParts:
    """Return the parts of installed models that share a base.

    Weights are read from the store: an environment has only composed ones.

    Raises:
        InstallError, RunError: A model is not installed, see `find_model`.
        RunError: A model is not a sum of changes, or has another base than the first.
        EnvironmentDamaged: The store lacks a module.
    """
    folders = [find_model(name, workspace, composed=False)[0] for name in names]
    recipes: dict[str, Compose] = {}
    with workspace.store.lock():
        for folder in folders:
            record = read_model(folder)
            recipes[record.name] = msgspec.convert(record.recipe, Compose)
        generation = workspace.environment.generation(int(folders[0].parents[1].name))
        modules = _stored_modules(workspace, generation, recipes)
        return parts_of(folders[0], recipes, modules)


def _stored_modules(
    workspace: Workspace, generation: Generation, recipes: Mapping[str, Compose]
) -> dict[str, InstalledModule]:
    """Return the modules of recipes with all their weights in the store, for live models to map."""
    graph = installed_graph(workspace, generation, recipes)
    names = dict.fromkeys(name for recipe in recipes.values() for name in recipe.modules())
    return {name: materialised(graph[name], workspace.store) for name in names}


def find_adapters(base: str, adapters: Sequence[str], workspace: Workspace) -> LiveParts:
    """Return the parts of installed adapters on a base or a model, those of the adapters first.

    Neither has to be a model by itself, but one of them, for its config and tokenizer.

    Raises:
        InstallError, RunError: One is not installed, or is not on this base.
        RunError: They cannot be live.
        EnvironmentDamaged: The store lacks a module.
    """
    environment, store = workspace.environment, workspace.store
    generation = environment.current()
    if generation is None:
        raise nothing_installed(workspace)
    recipes: dict[str, Compose] = {}
    folders: dict[str, Path] = {}
    states = {module.name: module for module in generation.modules}
    names = list(dict.fromkeys(map(module_name, (base, *adapters))))
    with store.lock():
        for name in names:
            if name in generation.models:
                folders[name] = find_model(name, workspace, composed=False)[0]
                recipes[name] = msgspec.convert(read_model(folders[name]).recipe, Compose)
            elif name not in states:
                raise not_installed(workspace, name, [*generation.models, *states])
            elif name == names[0] and states[name].kind in ("base", "model"):
                recipes[name] = Compose(base=name)
            elif name == names[0] or states[name].kind not in ON_A_BASE:
                remedy = no_model_remedy(workspace, name, states[name].kind)
                raise RunError("M701", name=name, kind=states[name].kind, remedy=remedy)
            else:
                recipes[name] = _on_its_base(name, workspace, generation)
            if recipes[name].base == names[0]:  # the base may be a recipe itself
                recipes[names[0]] = Compose(base=names[0])
            if (own := recipes[name].base) != (wanted := recipes[names[0]].base):
                reason = f"it was made for {own}, and the base of {names[0]} is {wanted}"
                raise RunError("M708", name=name, reason=reason)
        if not folders:
            remedy = no_model_remedy(workspace, names[0], "base")
            raise RunError("M701", name=names[0], kind="base", remedy=remedy)
        modules = _stored_modules(workspace, generation, recipes)
    parts = parts_of(next(iter(folders.values())), recipes, modules)
    changes = {name: parts.changes[name] for name in (*names[1:], *parts.changes)}
    changes[names[0]] = changes.pop(names[0])
    return structs.replace(parts, changes=changes)


def _on_its_base(name: str, workspace: Workspace, generation: Generation) -> Compose:
    """Return the recipe of a module that is no model by itself, on the base it was made for."""
    module = installed_modules(workspace, generation, [name])[name]
    base = base_of(module.record)
    if base is None or base not in {each.name for each in generation.modules}:
        remedy = no_model_remedy(workspace, name, module.record.kind)
        raise RunError("M701", name=name, kind=module.kind, remedy=remedy)
    tensors = installed_modules(workspace, generation, [base])[base].tensors
    return assembly(module.record, tensors, assembled_from(module.record, workspace.store.blobs))


def parts_of(
    folder: Path, recipes: Mapping[str, Compose], modules: Mapping[str, InstalledModule]
) -> LiveParts:
    """Return the parts of models given by their recipes; ``folder`` is the first model's.

    Raises:
        RunError: A model is not a sum of changes, or has another base than the first.
        ComposeError: A recipe cannot be planned.
    """
    models: dict[str, Composition] = {}
    alone: dict[str, TermsByTensor] = {}
    for name, recipe in recipes.items():
        models[name] = plan(name, "0", recipe, modules)
        _check(name, recipe, models[name])
        for step in recipe.steps:
            one = structs.replace(recipe, steps=(structs.replace(step, scale=1.0),))
            whole = models[name] if one == recipe else None
            terms = _terms(whole or plan(name, "0", one, modules, part_of=recipe))
            if terms:
                alone.setdefault(step.module, terms)
    first, *others = models.values()
    for other in others:
        _check_same_base(first, other)
    changes = {name: _terms(composition) for name, composition in models.items()}
    return LiveParts(first.name, folder, _table(first), {**changes, **alone})


def _check(name: str, recipe: Compose, composition: Composition) -> None:
    """Check that a model is a base plus a sum of changes.

    Raises:
        RunError: The model has another method, virtual tokens, a router, or other changes.
    """
    if recipe.method != "sum":
        raise RunError(
            "M708",
            name=name,
            reason=f"its method is {recipe.method!r}; only adapters composed by 'sum' can be "
            "switched; load it without live=True",
        )
    if composition.prompt is not None:
        raise RunError(
            "M708",
            name=name,
            reason=f"it reads the virtual tokens of {composition.prompt.module}, which cannot be "
            "switched; load it without live=True",
        )
    if composition.routers:
        raise RunError(
            "M708",
            name=name,
            reason="it is a mixture of experts, whose routers are not sums of changes; load it "
            "without live=True",
        )
    for tensor, computed in composition.computed.items():
        if computed.rows is not None:
            raise RunError(
                "M708",
                name=name,
                reason=f"an adapter gives {tensor!r} {computed.rows} rows, for a vocabulary of "
                "another size than the base's, which cannot be switched; load it without live=True",
            )
        if computed.dtype != computed.source.dtype:
            raise RunError(
                "M708",
                name=name,
                reason=f"its recipe converts {tensor!r} to {computed.dtype}, but a live base keeps "
                "its own; load it without live=True",
            )


def _table(composition: Composition) -> dict[str, TensorRef]:
    computed = {name: item.source for name, item in composition.computed.items()}
    return {**composition.kept, **computed}


def _terms(composition: Composition) -> TermsByTensor:
    return {name: item.terms for name, item in composition.computed.items() if item.terms}


def _check_same_base(first: Composition, other: Composition) -> None:
    """Check that two models differ only in changes to shared tensors.

    Copies of tied tensors, and buffers that a model computes itself, are no difference.

    Raises:
        RunError: The models differ in another way.
    """
    one, two = _table(first), _table(other)
    alike = as_copied_from(two, one, other.config, first.config)
    two = alike | {name: two[name] for name in _terms(other) if name not in alike}
    for tensor in sorted(one.keys() | two.keys()):
        if tensor not in one or tensor not in two:
            raise RunError(
                "M708",
                name=other.name,
                reason=f"{(first if tensor in one else other).name} has {tensor!r} and "
                f"{(other if tensor in one else first).name} does not; tensors of a head cannot be "
                "switched",
            )
        if identity_of(one[tensor]) != identity_of(two[tensor]):
            raise RunError(
                "M708",
                name=other.name,
                reason=f"{tensor!r} of its base differs from {first.name}'s",
            )
    for key in sorted(first.config.keys() | other.config.keys()):
        if first.config.get(key) != other.config.get(key):
            raise RunError(
                "M708",
                name=other.name,
                reason=f"{key!r} in its config.json differs from {first.name}'s",
            )


def combined(weighted: Sequence[tuple[TermsByTensor, float]]) -> TermsByTensor:
    """Return the weighted sum of changes; terms that cancel exactly are dropped.

    Raises:
        RunError: One multiplies a tensor that another changes too, or a weight overflows.
    """
    if len(weighted) == 1 and weighted[0][1] == 1.0:
        return weighted[0][0]
    total: dict[str, tuple[Term, ...]] = {}
    for target in sorted({target for changes, _ in weighted for target in changes}):
        grouped: dict[bytes, tuple[Term, list[float]]] = {}
        sources = 0
        for changes, weight in weighted:
            sources += target in changes and weight != 0.0
            for term in changes.get(target, ()):
                key = canonical_json(structs.replace(term, weight=1.0).key_fields())
                grouped.setdefault(key, (term, []))[1].append(weight * term.weight)
        sums = [(term, _sum(parts)) for _, (term, parts) in sorted(grouped.items())]
        terms = tuple(structs.replace(term, weight=value) for term, value in sums if value)
        if sources > 1 and len(terms) > 1:
            for term in terms:
                if find_operator(term.op, target).multiplies:
                    raise RunError(
                        "M708",
                        name="This mixture",
                        reason=f"{term.op!r} multiplies {target!r}, which another of its adapters "
                        "changes too; use a model whose recipe sets 'on = \"base\"'",
                    )
        if terms:
            total[target] = terms
    return total


def _sum(weights: Sequence[float]) -> float:
    """Return the sum of a term's weights.

    Raises:
        RunError: It is not finite.
    """
    try:
        total = math.fsum(weights)
    except (OverflowError, ValueError):
        total = math.inf
    if not math.isfinite(total):
        reason = "its weights, times the scales of the adapters, exceed a 64-bit float"
        raise RunError("M709", choice="This mixture", reason=reason)
    return total
