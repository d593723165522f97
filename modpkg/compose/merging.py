"""The recipe's method applied to its steps: the terms of each tensor. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from modpkg.compose.composition import NOTHING, Term
from modpkg.compose.operators import Effects
from modpkg.compose.parameter import REQUIRED, Parameter
from modpkg.compose.reducers import Reducer
from modpkg.compose.settings import value_for
from modpkg.core.errors import ComposeError
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.records import canonical_json
from modpkg.manifest.schema import IMPORTANCE, Compose, Setting, Step


class PlannedStep(Struct, frozen=True):
    """A step of a recipe and its effects."""

    number: int
    step: Step
    module: InstalledModule
    effects: Effects
    names: Mapping[str, str] = {}
    """The names in its module of tensors that have others in the result. Filters are about those.
    """

    def own_name(self, tensor: str) -> str:
        """Return the name in its module of a tensor of the result."""
        return self.names.get(tensor, tensor)


class MergeMethod:
    """A recipe's method with its parameters, which may differ by tensor.

    The recipe has passed `check_settings`.
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

    @property
    def method(self) -> str:
        """The method's name."""
        return self._recipe.method

    def _refuse(self, reason: str) -> ComposeError:
        return ComposeError("M601", model=self._model, reason=reason)

    # One tensor ---------------------------------------------------------------------------

    def settings(self, tensor: str) -> dict[str, Any]:
        """Return every parameter of the method for a tensor, defaults included."""
        return {
            key: self._value(key, one, [self._recipe.parameters], tensor, tensor)
            for key, one in self._reducer.parameters.items()
            if not one.each
        }

    def scale(self, planned: PlannedStep, tensor: str) -> float:
        """Return the scale of a step for a tensor."""
        scale = self._setting(planned.step.scale, tensor, planned.own_name(tensor))
        if not isinstance(scale, float) or isinstance(scale, bool):
            raise self._refuse(
                f"the scale of step {planned.number} has no value for {tensor!r}; add one without "
                "a filter"
            )
        if not math.isfinite(scale):
            raise self._refuse(f"step {planned.number} has scale {scale}")
        return scale

    def _step_settings(self, planned: PlannedStep, tensor: str) -> dict[str, Any]:
        scopes = [planned.step.parameters, self._recipe.parameters]
        return {
            key: self._value(key, one, scopes, tensor, planned.own_name(tensor))
            for key, one in self._reducer.parameters.items()
            if one.each
        }

    def _setting(self, setting: Setting, tensor: str, named: str) -> Any:
        """Return a setting's value for a tensor, by its filters for what it is ``named``."""
        return value_for(setting, named, self._places.get(tensor, 0.0))

    def _value(
        self,
        key: str,
        one: Parameter,
        scopes: Sequence[Mapping[str, Setting]],
        tensor: str,
        named: str,
    ) -> Any:
        for scope in scopes:
            if key not in scope:
                continue
            value = self._setting(scope[key], tensor, named)
            if value is not None:
                try:
                    return one.read(key, value)
                except ValueError as error:
                    raise self._refuse(str(error)) from None
        if one.default is REQUIRED:
            raise self._refuse(
                f"method {self._recipe.method!r} needs the parameter {key!r}, which has no value "
                f"for {tensor!r}"
            )
        return one.default

    # All tensors --------------------------------------------------------------------------

    def terms(
        self, base: InstalledModule, steps: Sequence[PlannedStep]
    ) -> dict[str, tuple[Term, ...]]:
        """Return the terms by tensor, in the canonical order.

        With ``sum`` the scales are folded into the terms' weights. Equal terms are merged if the
        method is additive, terms of weight 0 are dropped, and for methods that count their steps
        every step has a term for every tensor that any step changes.
        """
        folded = self._reducer.name == "sum"
        touched = sorted({target for planned in steps for target in planned.effects.terms})
        if self._reducer.across:
            steps = sorted(steps, key=_identity)
        found = {
            target: terms
            for target in touched
            if (terms := self._terms_of(base, target, steps, folded))
        }
        if self._reducer.across:
            self._check_alike(found)
        return found

    def _check_alike(self, terms: Mapping[str, Sequence[Term]]) -> None:
        """Check that each step has the same parameters for all tensors, which are measured as one.

        Raises:
            ComposeError: One differs.
        """
        first: Sequence[Term] = next(iter(terms.values()), ())
        for target, own in terms.items():
            for one, other in zip(first, own, strict=True):
                for key, value in one.settings.items():
                    if other.settings[key] != value:
                        raise self._refuse(
                            f"parameter {key!r} of a step has another value for {target!r} than "
                            f"for other tensors, but method {self.method!r} measures all tensors "
                            "as one; give it one value"
                        )

    def _terms_of(
        self, base: InstalledModule, target: str, steps: Sequence[PlannedStep], folded: bool
    ) -> tuple[Term, ...]:
        grouped: dict[bytes, tuple[Term, list[float]]] = {}
        for planned in steps:
            scale = self.scale(planned, target)
            term = planned.effects.terms.get(target)
            if term is None and folded:
                continue
            if term is None:
                term = Term(op=NOTHING, weight=1.0, inputs={})
            if not folded:
                term = self._with_settings(base, planned, target, term)
            key = canonical_json(term.key_fields())
            if not self._reducer.additive:
                key += str(planned.number).encode()
            grouped.setdefault(key, (term, []))[1].append(scale)
        summed = []
        # Where steps are counted, one of weight 0 among others is an end of an arc.
        counted = self._reducer.steps[1] is not None and any(
            math.fsum(scales) for _, scales in grouped.values()
        )
        for term, scales in grouped.values():
            scale = math.fsum(scales)
            if folded and scale * term.weight:
                summed.append(structs.replace(term, weight=scale * term.weight))
            elif not folded and (scale or counted or not self._reducer.weighted):
                summed.append(structs.replace(term, scale=scale))
        if all(term.op == NOTHING for term in summed):
            return ()
        ordered = in_order(summed, self._reducer)
        if self._reducer.check is not None:
            self._check(target, ordered)
        return ordered

    def _check(self, target: str, terms: Sequence[Term]) -> None:
        assert self._reducer.check is not None  # noqa: S101
        weights, steps = [term.scale for term in terms], [term.settings for term in terms]
        if reason := self._reducer.check(weights, self.settings(target), steps):
            raise self._refuse(f"{target!r}: {reason}")

    def _with_settings(
        self, base: InstalledModule, planned: PlannedStep, target: str, term: Term
    ) -> Term:
        settings = self._step_settings(planned, target)
        named = settings.get(IMPORTANCE)
        if not isinstance(named, str):
            return structs.replace(term, settings=settings)
        module, own = self._modules.get(named), planned.own_name(target)
        if module is None or own not in module.tensors:
            raise self._refuse(f"{named} has no importance for {own!r}")
        ref = module.tensors[own]
        if ref.shape != base.tensors[target].shape:
            raise ComposeError("M604",
                module=named, tensor=target, actual=ref.shape, target=target, base=base.name,
                expected=base.tensors[target].shape,
            )  # fmt: skip
        settings.pop(IMPORTANCE)
        return structs.replace(term, settings=settings, importance=ref)

    def everywhere(self, table: Mapping[str, TensorRef]) -> dict[str, dict[str, Any]]:
        """Return the settings of the tensors that the method changes even without a step."""
        changed = self._reducer.everywhere
        if changed is None:
            return {}
        by_name = {name: self.settings(name) for name in table}
        return {name: settings for name, settings in by_name.items() if changed(settings)}


def regrouped(terms: Sequence[Term], reducer: Reducer) -> tuple[Term, ...]:
    """Return a tensor's terms as if all their inputs had been known from the beginning.

    Those that turned out to be equal are one, as in `MergeMethod.terms`, and the order is the
    canonical one. None are left if they cancel.
    """
    if not reducer.additive:
        return in_order(terms, reducer)
    folded = reducer.name == "sum"
    grouped: dict[bytes, list[Term]] = {}
    for term in terms:
        plain = structs.replace(term, weight=1.0) if folded else structs.replace(term, scale=1.0)
        grouped.setdefault(canonical_json(plain.key_fields()), []).append(term)
    summed = []
    for same in grouped.values():
        term = same[0]
        if len(same) > 1 and folded:
            term = structs.replace(term, weight=math.fsum(each.weight for each in same))
        elif len(same) > 1:
            term = structs.replace(term, scale=math.fsum(each.scale for each in same))
        if term.weight and (term.scale or not reducer.weighted):
            summed.append(term)
    if all(term.op == NOTHING for term in summed):
        return ()
    return in_order(summed, reducer)


def in_order(terms: Iterable[Term], reducer: Reducer) -> tuple[Term, ...]:
    """Return a tensor's terms in the canonical order: by what decides bytes, not by their recipe's.

    Those of a method that measures each step over the whole model stay in the order of the steps,
    which is the same for all tensors.
    """
    if reducer.across:
        return tuple(terms)
    return tuple(sorted(terms, key=lambda term: canonical_json(term.key_fields())))


def _identity(planned: PlannedStep) -> tuple[bytes, bytes]:
    """Return the sort key of a step: its effects, independent of its position in the recipe."""
    fields = {target: term.key_fields() for target, term in planned.effects.terms.items()}
    return canonical_json(fields), repr((planned.step.scale, planned.step.parameters)).encode()
