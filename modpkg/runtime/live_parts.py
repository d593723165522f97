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
from modpkg.core.records import canonical_json
from modpkg.core.same_values import as_copied_from
from modpkg.core.tensors import identity_of
from modpkg.environment.first_load import installed_modules
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose
from modpkg.runtime.installed import find_model

TermsByTensor = Mapping[str, tuple[Term, ...]]
"""Terms by base tensor; a term's weight includes its step's scale."""


class LiveParts(Struct, frozen=True):
    """A base and the adapters that can be switched."""

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
        used = [name for recipe in recipes.values() for name in recipe.modules()]
        generation = workspace.environment.generation(int(folders[0].parents[1].name))
        return parts_of(folders[0], recipes, installed_modules(workspace, generation, used))


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
            terms = _terms(plan(name, "0", one, modules, part_of=recipe))
            if terms:
                alone.setdefault(step.module, terms)
    first, *others = models.values()
    for other in others:
        _check_same_base(first, other)
    changes = {name: _terms(composition) for name, composition in models.items()}
    return LiveParts(folder, _table(first), {**changes, **alone})


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
        RunError: One multiplies a tensor that another changes too.
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
        sums = [(term, math.fsum(parts)) for _, (term, parts) in sorted(grouped.items())]
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
