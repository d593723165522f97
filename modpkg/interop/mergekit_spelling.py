"""One spelling for each recipe: that in which the importer of mergekit's recipes has it.

A step's parameter may stand in the recipe too, and ``mean`` is ``linear`` with equal weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from modpkg.interop.mergekit_methods import BASE_WEIGHT, FROM_BASE, METHODS, RecipeMethod
from modpkg.interop.mergekit_settings import EVERY
from modpkg.manifest.schema import Compose, Filtered, Layers, Setting, Step

METHOD_KEYS = {method.name: written for written, method in METHODS.items()}
"""mergekit's names of modpkg's methods."""


def spelled(recipe: Compose) -> Compose:
    """Return the same recipe in the spelling that the importer has for it."""
    method, parameters = recipe.method, dict(recipe.parameters)
    if method == "sum" and all(step.op == "dense" for step in recipe.steps):
        bare = not recipe.steps and not any(run.steps for run in recipe.layers)
        method = "passthrough" if bare else "task-arithmetic"
    elif method == "mean":
        method = "linear"
        if parameters.pop("with_base", True) is False:
            parameters[BASE_WEIGHT] = 0.0
    known = METHODS.get(METHOD_KEYS.get(method, ""))
    if method == "passthrough" and parameters.get("scale") == 1.0:
        del parameters["scale"]
    runs = tuple(_normal_run(run, method, parameters, known) for run in recipe.layers)
    steps = tuple(_normal_step(step, parameters, known) for step in recipe.steps)
    return structs.replace(
        recipe,
        method=method,
        steps=steps,
        layers=runs,
        parameters=_shared(parameters, method, known, merges=bool(steps)),
    )


def _normal_run(
    run: Layers, method: str, parameters: Mapping[str, Setting], known: RecipeMethod | None
) -> Layers:
    """Return a run that has its own parameters, and nothing that is the recipe's anyway."""
    own = {**parameters, **run.parameters} if run.steps else {}
    return structs.replace(
        run,
        scale=None if run.scale is None else _normal_setting(run.scale),
        method=None if run.method == method else run.method,
        steps=tuple(
            structs.replace(
                _normal_step(step, own, known),
                range=None if step.range == run.range else step.range,
            )
            for step in run.steps
        ),
        parameters=_shared(own, method, known, merges=bool(run.steps)),
    )


def _normal_step(step: Step, parameters: Mapping[str, Setting], known: RecipeMethod | None) -> Step:
    """Return a step that has the parameters which it takes from the recipe."""
    own = {} if known is None else {key: parameters[key] for key in _each(known) & {*parameters}}
    merged = {**own, **step.parameters}
    return structs.replace(
        step,
        scale=_normal_setting(step.scale),
        parameters={key: _normal_setting(merged[key]) for key in sorted(merged)},
    )


def _shared(
    parameters: Mapping[str, Setting], method: str, known: RecipeMethod | None, *, merges: bool
) -> dict[str, Setting]:
    """Return the parameters that are the method's, and no model's."""
    own = set() if known is None or method == "passthrough" else _each(known)
    found = {key: _normal_setting(value) for key, value in parameters.items() if key not in own}
    if method == "linear" and merges:
        found.setdefault(BASE_WEIGHT, 1.0)
    if found.get(FROM_BASE) is True:
        del found[FROM_BASE]
    return dict(sorted(found.items()))


def _each(method: RecipeMethod) -> set[str]:
    return {*method.each.values()}


def _normal_setting(value: Setting) -> Setting:
    """Return a setting without the filters after one that every name has."""
    if not isinstance(value, tuple) or not all(isinstance(item, Filtered) for item in value):
        return value
    items: list[Filtered] = []
    for item in value:
        if not isinstance(item, Filtered):
            raise AssertionError("checked above")
        items.append(structs.replace(item, filter=None) if item.filter in EVERY else item)
        if item.filter in EVERY:
            break
    only = items[0]
    return only.value if len(items) == 1 and only.filter is None else tuple(items)
