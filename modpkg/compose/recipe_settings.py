"""Checks of a recipe's settings by what its method and operators declare, without its modules.

What depends on names, shapes or layers is checked by planning, which calls this first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modpkg.compose.operators import Operator, find_operator
from modpkg.compose.parameter import REQUIRED, Parameter
from modpkg.compose.reducers import REDUCERS, Reducer, find_reducer
from modpkg.compose.settings import values_in, varies_by_layer, with_fallback
from modpkg.core.errors import ComposeError
from modpkg.manifest.schema import Compose, Layers, Setting, Step

ON = "on"
"""The parameter of every step that makes it act on the base, whatever other steps do."""
ON_BASE = "base"
_OF_EVERY_STEP = {ON: Parameter(default="", type=str, choices=(ON_BASE,))}


def check_settings(model: str, recipe: Compose) -> Reducer:
    """Check a recipe as far as its own text tells; return its method.

    ``model`` names the result in errors.

    Raises:
        ComposeError: The method or an operator is unknown; it takes another number of steps; or a
            parameter is unknown, missing, out of range or of the wrong type.
    """
    return _Checked(model, recipe).method


class _Checked:
    """A recipe whose settings are those that its method and operators declare."""

    def __init__(self, model: str, recipe: Compose) -> None:
        self._model, self._recipe = model, recipe
        self.method = find_reducer(recipe.method, f"[compose] of {model}")
        merged = [recipe_of_run(recipe, run) for run in recipe.layers if run.steps]
        for own in merged:  # a run of layers is a recipe of its own
            _Checked(model, own)
        self._check_count()
        self._check_parameters(required=not merged)
        operators = [
            find_operator(step.op, f"step {number} of {model}")
            for number, step in enumerate(recipe.steps, start=1)
        ]
        for number, (step, operator) in enumerate(zip(recipe.steps, operators, strict=True), 1):
            self._check_step(number, step, operator)
        scaled = any(run.scale is not None and not run.steps for run in recipe.layers)
        if scaled and recipe.method != "passthrough":
            raise self._refuse('layers with a scale need method = "passthrough"')
        self._check_together()
        for operator in {operator.name: operator for operator in operators}.values():
            if operator.check is not None:
                operator.check(model, recipe)

    def _refuse(self, reason: str, known: Iterable[str] = ()) -> ComposeError:
        more = f"; it has {', '.join(sorted(known)) or 'none'}" if known else ""
        return ComposeError("M601", model=self._model, reason=reason + more)

    def _check_count(self) -> None:
        count, name = len(self._recipe.steps), self._recipe.method
        if not count or takes(self.method, count):
            return
        near = relative_of(self.method, count)
        raise self._refuse(
            f"method {name!r} takes {steps_of(self.method)}, not {count}"
            + (f"; its relative {near!r} takes {steps_of(REDUCERS[near])}" if near else "")
        )

    def _check_parameters(self, *, required: bool) -> None:
        name, known = self._recipe.method, self.method.parameters
        for key, setting in self._recipe.parameters.items():
            if key not in known:
                raise self._refuse(f"method {name!r} has no parameter {key!r}", known)
            self._check_values(key, setting, known[key])
        for key, one in known.items():
            if not required or one.each or one.default is not REQUIRED:
                continue
            if key not in self._recipe.parameters:
                raise self._refuse(f"method {name!r} needs the parameter {key!r}")

    def _check_step(self, number: int, step: Step, operator: Operator) -> None:
        known = {key: one for key, one in self.method.parameters.items() if one.each}
        for key, one in known.items():
            if one.default is REQUIRED and not {key} & (
                step.parameters.keys() | self._recipe.parameters.keys()
            ):
                raise self._refuse(f"step {number} needs the parameter {key!r}")
        known |= _OF_EVERY_STEP | (operator.parameters or {})
        for key, setting in step.parameters.items():
            if key in known:
                self._check_values(key, setting, known[key])
            elif key in self.method.parameters:
                reason = f"parameter {key!r} of step {number} is the method's: write it under "
                raise self._refuse(f"{reason}[compose] parameters")
            elif operator.parameters is not None:
                raise self._refuse(f"step {number} ({step.op!r}) has no parameter {key!r}", known)
        scaled = any(value != 1.0 for value in values_in(step.scale))
        if scaled and not self.method.weighted:
            near = REDUCERS.get(self.method.relative)
            raise self._refuse(
                f"step {number} has a scale, but method {self._recipe.method!r} takes no weights"
                + (f"; its relative {near.name!r} does" if near and near.weighted else "")
            )

    def _check_values(self, key: str, setting: Setting, declared: Parameter) -> None:
        try:
            for value in values_in(setting):
                declared.read(key, value)
        except ValueError as error:
            raise self._refuse(str(error)) from None
        if varies_by_layer(setting) and declared.type is int:
            raise self._refuse(f"parameter {key!r} is an integer, which no layers are between")
        if isinstance(setting, tuple) and declared.module and isinstance(setting[0], str):
            raise self._refuse(f"parameter {key!r} names one module, or is a number")

    def _check_together(self) -> None:
        """Check weights and parameters as a whole, if none of them differs by tensor."""
        recipe, check = self._recipe, self.method.check
        if check is None or not recipe.steps:
            return
        scopes = [{**recipe.parameters, **step.parameters} for step in recipe.steps]
        scales = [step.scale for step in recipe.steps]
        if any(isinstance(s, tuple) for s in (*scales, *(v for p in scopes for v in p.values()))):
            return
        weights = [scale for scale in scales if isinstance(scale, float)]
        if self.method.steps[1] is None:  # steps without weight do not count
            weights = [weight for weight in weights if weight or not self.method.weighted]
        steps = [{**self.method.step_defaults, **scope} for scope in scopes]
        if not weights:
            return
        if reason := check(weights, self._typed(recipe.parameters), steps):
            raise self._refuse(reason)

    def _typed(self, parameters: Mapping[str, Setting]) -> dict[str, Any]:
        known = self.method.parameters
        given = {key: known[key].read(key, value) for key, value in parameters.items()}
        return {**self.method.defaults, **given}


def recipe_of_run(recipe: Compose, layers: Layers) -> Compose:
    """Return a run of layers as a recipe; the recipe's parameters are those of its own method."""
    parameters = layers.parameters
    if layers.method in (None, recipe.method):
        parameters = {
            key: with_fallback(parameters[key], value) if key in parameters else value
            for key, value in recipe.parameters.items()
        } | {key: value for key, value in parameters.items() if key not in recipe.parameters}
    return Compose(
        base=layers.module,
        method=layers.method or recipe.method,
        parameters=parameters,
        steps=layers.steps,
    )


def takes(method: Reducer, count: int) -> bool:
    """Return whether a method merges so many steps."""
    least, most = method.steps
    return least <= count and (most is None or count <= most)


def steps_of(method: Reducer, noun: str = "step") -> str:
    """Return how many steps a method takes, as in ``1 to 2 steps``."""
    least, most = method.steps
    if most is None:
        return f"{least} or more {noun}s"
    count = f"{least}" if least == most else f"{least} to {most}"
    return f"{count} {noun}" if most == 1 else f"{count} {noun}s"


def relative_of(method: Reducer, count: int) -> str:
    """Return the method nearest to another that merges so many steps; "" if there is none."""
    seen: Sequence[str] = [method.name]
    while (near := REDUCERS.get(method.relative)) is not None and near.name not in seen:
        if takes(near, count):
            return near.name
        seen, method = [*seen, near.name], near
    return ""
