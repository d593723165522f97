"""What live models are made of: one base out of the store, and changes to it by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from modpkg.compose.composition import Composition, Term
from modpkg.compose.operators import find_operator
from modpkg.compose.plan import plan
from modpkg.core.errors import EnvironmentDamaged, IntegrityError, RunError
from modpkg.core.home import store_folder
from modpkg.core.installed import InstalledModule, TensorRef, read_model
from modpkg.core.records import canonical_json
from modpkg.core.tensors import identity_of
from modpkg.environment.generations import Environment, ModuleState
from modpkg.environment.project import find_project
from modpkg.manifest.schema import Compose
from modpkg.runtime.installed import find_model
from modpkg.store.store import Store

TermsByTensor = Mapping[str, tuple[Term, ...]]
"""By base tensor, what is added to it; the terms' weights are whole."""


class LiveParts(Struct, frozen=True):
    """One base, and the changes that can be switched."""

    folder: Path
    """The first model's folder, for its configuration and tokenizer."""
    table: dict[str, TensorRef]
    """What all the models share."""
    changes: dict[str, TermsByTensor]
    """By name of a model, or of a module in it; a base that is a model by itself changes nothing.
    The models come first."""


def find_parts(names: Sequence[str], *, user: bool = False, start: Path | None = None) -> LiveParts:
    """Return the parts of installed models that have one base.

    Weights are those of the store: an environment holds composed ones alone.

    Raises:
        InstallError, RunError: see `find_model`.
        RunError: a model is not a sum of changes, or has another base than the first.
        EnvironmentDamaged: the store lacks something.
    """
    folders = [find_model(name, user=user, start=start)[0] for name in names]
    environment = Environment(find_project(start, user=user).environment)
    generation = environment.current()
    states = {module.name: module for module in generation.modules} if generation else {}
    store = Store(store_folder())
    recipes: dict[str, Compose] = {}
    modules: dict[str, InstalledModule] = {}
    with store.used():
        for folder in folders:
            record = read_model(folder)
            recipes[record.name] = msgspec.convert(record.recipe, Compose)
            for name in recipes[record.name].modules():
                if name not in modules:
                    modules[name] = _module(environment, store, states[name])
        return parts_of(folders[0], recipes, modules)


def parts_of(
    folder: Path, recipes: Mapping[str, Compose], modules: Mapping[str, InstalledModule]
) -> LiveParts:
    """Return the parts of models, by their recipes; ``folder`` has the first one's configuration.

    Raises:
        RunError: as `find_parts`. What `plan` raises.
    """
    models: dict[str, Composition] = {}
    alone: dict[str, TermsByTensor] = {}
    for name, recipe in recipes.items():
        models[name] = plan(name, "0", recipe, modules)
        _check(name, recipe, models[name])
        for step in recipe.steps:
            one = structs.replace(recipe, steps=(structs.replace(step, scale=1.0),))
            terms = _terms(plan(name, "0", one, modules))
            if terms:
                alone.setdefault(step.module, terms)
    first, *others = models.values()
    for other in others:
        _check_same(first, other)
    changes = {name: _terms(composition) for name, composition in models.items()}
    return LiveParts(folder, _table(first), {**changes, **alone})


def _module(environment: Environment, store: Store, state: ModuleState) -> InstalledModule:
    what = f"{state.name} {state.version}"
    try:
        record = store.record(state.release, what)
        if record is not None:
            return store.module(record, state.release)
    except IntegrityError as error:
        if error.code != "M306":
            raise
    raise EnvironmentDamaged(
        "M506", path=environment.root, reason=f"the store no longer has {what}"
    )


def _check(name: str, recipe: Compose, composition: Composition) -> None:
    """Refuse a model that is not a base with changes that are added up.

    Raises:
        RunError
    """
    if recipe.method != "sum":
        raise RunError(
            "M708",
            name=name,
            reason=f"it is put together by {recipe.method!r}, and only changes that are added up "
            "can be switched one by one",
        )
    if composition.prompt is not None:
        raise RunError(
            "M708",
            name=name,
            reason=f"it reads the virtual tokens of {composition.prompt.module}, which are not "
            "switched; load it without live=True",
        )
    if composition.routers:
        raise RunError(
            "M708",
            name=name,
            reason="its experts' gates are put together by rows; nothing adds them up",
        )
    for tensor, made in composition.computed.items():
        if made.dtype != made.source.dtype:
            raise RunError(
                "M708",
                name=name,
                reason=f"its recipe converts {tensor!r} to {made.dtype}, and the base stays as it "
                "lies on disk",
            )


def _table(composition: Composition) -> dict[str, TensorRef]:
    made = {name: made.source for name, made in composition.computed.items()}
    return {**composition.kept, **made}


def _terms(composition: Composition) -> TermsByTensor:
    return {name: made.terms for name, made in composition.computed.items() if made.terms}


def _check_same(first: Composition, other: Composition) -> None:
    """Refuse a model that differs from the first in more than changes to shared tensors."""
    one, two = _table(first), _table(other)
    for tensor in sorted(one.keys() | two.keys()):
        if tensor not in one or tensor not in two:
            raise RunError(
                "M708",
                name=other.name,
                reason=f"{(first if tensor in one else other).name} has {tensor!r} and "
                f"{(other if tensor in one else first).name} does not; what a head brings is no "
                "change that can be switched",
            )
        if identity_of(one[tensor]) != identity_of(two[tensor]):
            raise RunError(
                "M708",
                name=other.name,
                reason=f"{tensor!r} of its base is not that of {first.name}'s",
            )
    for key in sorted(first.config.keys() | other.config.keys()):
        if first.config.get(key) != other.config.get(key):
            raise RunError(
                "M708",
                name=other.name,
                reason=f"its config.json has another {key!r} than {first.name}'s",
            )


def combined(weighted: Sequence[tuple[TermsByTensor, float]]) -> TermsByTensor:
    """Return the weighted sum of changes; what cancels is gone, to the last bit.

    Raises:
        RunError: one multiplies a tensor that another changes too.
    """
    if len(weighted) == 1 and weighted[0][1] == 1.0:
        return weighted[0][0]
    found: dict[str, tuple[Term, ...]] = {}
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
                        "changes too; a model whose recipe says 'on = \"base\"' can have both",
                    )
        if terms:
            found[target] = terms
    return found
