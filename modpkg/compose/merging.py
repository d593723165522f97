"""From what the steps do to the terms of each tensor, under the recipe's method. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from modpkg.compose.composition import NOTHING, Term
from modpkg.compose.operators import Effects
from modpkg.compose.reducers import REQUIRED, Reducer
from modpkg.compose.settings import value_for
from modpkg.core.errors import ComposeError
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.records import canonical_json
from modpkg.manifest.schema import IMPORTANCE, Compose, Setting, Step


class PlannedStep(Struct, frozen=True):
    """A step, and what it does."""

    number: int
    step: Step
    module: InstalledModule
    effects: Effects


class MergeMethod:
    """A method with its parameters, which may differ by tensor.

    Raises:
        ComposeError: a parameter is unknown, missing, or of the wrong kind.
    """

    def __init__(
        self,
        model: str,
        recipe: Compose,
        reducer: Reducer,
        modules: Mapping[str, InstalledModule],
        places: Mapping[str, float],
    ) -> None:
        self._model, self._recipe, self._reducer = model, recipe, reducer
        self._modules, self._places = modules, places
        known = {**reducer.parameters, **reducer.step_parameters}
        for key in recipe.parameters:
            if key not in known:
                raise self._refuse(f"method {recipe.method!r} has no parameter {key!r}", known)
        least, most = reducer.steps
        terms = len(recipe.steps)
        if terms and (terms < least or (most is not None and terms > most)):
            wanted = f"{least}" if least == most else f"{least} or more" if most is None else (
                f"{least} to {most}"
            )  # fmt: skip
            raise self._refuse(f"method {recipe.method!r} takes {wanted} steps, not {terms}")

    def _refuse(self, reason: str, known: Iterable[str] = ()) -> ComposeError:
        more = f"; it has {', '.join(sorted(known)) or 'none'}" if known else ""
        return ComposeError("M601", model=self._model, reason=reason + more)

    # One tensor ---------------------------------------------------------------------------

    def settings(self, tensor: str) -> dict[str, Any]:
        """Return the method's own parameters for a tensor, each with a value."""
        return {
            key: self._value(key, default, [self._recipe.parameters], tensor)
            for key, default in self._reducer.parameters.items()
        }

    def scale(self, done: PlannedStep, tensor: str) -> float:
        """Return the scale of a step for a tensor."""
        found = self._valued(done.step.scale, tensor)
        if not isinstance(found, float) or isinstance(found, bool):
            raise self._refuse(
                f"the scale of step {done.number} has no value for {tensor!r}; add one without a "
                "filter"
            )
        if not math.isfinite(found):
            raise self._refuse(f"step {done.number} has scale {found}")
        return found

    def _step_settings(self, done: PlannedStep, tensor: str) -> dict[str, Any]:
        scopes = [done.step.parameters, self._recipe.parameters]
        return {
            key: self._value(key, default, scopes, tensor)
            for key, default in self._reducer.step_parameters.items()
        }

    def _valued(self, setting: Setting, tensor: str) -> Any:
        return value_for(setting, tensor, self._places.get(tensor, 0.0))

    def _value(
        self, key: str, default: Any, scopes: Sequence[Mapping[str, Setting]], tensor: str
    ) -> Any:
        for scope in scopes:
            if key not in scope:
                continue
            found = self._valued(scope[key], tensor)
            if found is not None:
                return self._typed(key, default, found)
        if default is REQUIRED:
            raise self._refuse(
                f"method {self._recipe.method!r} needs the parameter {key!r}, and it has no value "
                f"for {tensor!r}"
            )
        return default

    def _typed(self, key: str, default: Any, found: Any) -> Any:
        kind = float if default is REQUIRED else type(default)
        if key == IMPORTANCE and isinstance(found, str):
            return found
        if kind is int and isinstance(found, float) and found.is_integer():
            found = int(found)
        if type(found) is not kind:
            noun = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
            raise self._refuse(f"parameter {key!r} is {found!r}, and has to be {noun[kind]}")
        least, most = self._reducer.bounds.get(key, (-math.inf, math.inf))
        if kind in (int, float) and not least <= found <= most:
            raise self._refuse(f"parameter {key!r} is {found}, and has to be {least} to {most}")
        return found

    # All tensors --------------------------------------------------------------------------

    def terms(
        self, base: InstalledModule, steps: Sequence[PlannedStep]
    ) -> dict[str, tuple[Term, ...]]:
        """Return the changes by tensor, in the canonical order.

        With ``sum`` the scales go into the terms' weights. Where the method allows it, equal
        changes become one; steps without weight are left out; and for the methods that count
        their steps, each has a term for every tensor that any of them changes.
        """
        folded = self._reducer.name == "sum"
        touched = sorted({target for done in steps for target in done.effects.terms})
        order = sorted(steps, key=_identity)
        return {
            target: found
            for target in touched
            if (found := self._terms_of(base, target, steps if folded else order, folded))
        }

    def _terms_of(
        self, base: InstalledModule, target: str, steps: Sequence[PlannedStep], folded: bool
    ) -> tuple[Term, ...]:
        grouped: dict[bytes, tuple[Term, list[float]]] = {}
        for done in steps:
            scale = self.scale(done, target)
            term = done.effects.terms.get(target)
            if not self._reducer.weighted and scale != 1.0:
                raise self._refuse(
                    f"step {done.number} has a scale, which method {self._recipe.method!r} has no "
                    "use for"
                )
            if term is None and folded:
                continue
            if term is None:
                term = Term(op=NOTHING, weight=1.0, inputs={})
            if not folded:
                term = self._with_settings(base, done, target, term)
            key = canonical_json(term.key_fields())
            if not self._reducer.additive:
                key += str(done.number).encode()
            grouped.setdefault(key, (term, []))[1].append(scale)
        summed = []
        for _, (term, scales) in sorted(grouped.items()) if folded else grouped.items():
            scale = math.fsum(scales)
            if folded and scale * term.weight:
                summed.append(structs.replace(term, weight=scale * term.weight))
            elif not folded and (scale or not self._reducer.weighted):
                summed.append(structs.replace(term, scale=scale))
        return tuple(summed) if any(term.op != NOTHING for term in summed) else ()

    def _with_settings(
        self, base: InstalledModule, done: PlannedStep, target: str, term: Term
    ) -> Term:
        settings = self._step_settings(done, target)
        named = settings.get(IMPORTANCE)
        if not isinstance(named, str):
            return structs.replace(term, settings=settings)
        module = self._modules.get(named)
        if module is None or target not in module.tensors:
            raise self._refuse(f"{named} has no importance for {target!r}")
        ref = module.tensors[target]
        if ref.shape != base.tensors[target].shape:
            raise ComposeError("M604",
                module=named, tensor=target, actual=ref.shape, target=target, base=base.name,
                expected=base.tensors[target].shape,
            )  # fmt: skip
        settings.pop(IMPORTANCE)
        return structs.replace(term, settings=settings, importance=ref)

    def everywhere(self, table: Mapping[str, TensorRef]) -> dict[str, dict[str, Any]]:
        """Return the settings of the tensors that the method changes without any step."""
        changed = self._reducer.everywhere
        if changed is None:
            return {}
        found = {name: self.settings(name) for name in table}
        return {name: settings for name, settings in found.items() if changed(settings)}


def _identity(done: PlannedStep) -> tuple[bytes, bytes]:
    """Return what orders a step among others: what it does, wherever it is written."""
    accounts = {target: term.key_fields() for target, term in done.effects.terms.items()}
    return canonical_json(accounts), repr((done.step.scale, done.step.parameters)).encode()
