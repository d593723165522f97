"""Parameters of a mergekit recipe: filters, gradients, and the values that mergekit takes for one.

mergekit evaluates a parameter for each tensor, in the scopes of a model, a slice, a tower and the
recipe, and takes the first that has a value. A value is converted to the parameter's type as
pydantic does it: ``1.0`` and ``"yes"`` are true, and ``"1e-5"``, which YAML 1.1 reads as text, is a
number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})
EVERY = (None, "*", "")
"""Filters that every tensor's name has."""


class WrongValue(Exception):
    """A value is of another type than its parameter; the reason is a clause."""


def converted(value: Any, kind: type) -> Any:
    """Return a single value as ``kind``: bool, int, float or str.

    >>> converted(1.0, bool), converted("1e-5", float), converted("10", int)
    (True, 1e-05, 10)

    Raises:
        WrongValue: It is none.
    """
    if kind is bool:
        text = str(value).lower() if isinstance(value, str) else None
        if value in (0, 1) or text in _TRUE | _FALSE:
            return text in _TRUE if text is not None else bool(value)
        raise WrongValue(f"is {value!r}, which is neither true nor false")
    if kind is str:
        if isinstance(value, str):
            return value
        raise WrongValue(f"is {value!r}, which is no text")
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise WrongValue(f"is {value!r}, which is no finite number")
    if kind is int:
        if not number.is_integer():
            raise WrongValue(f"is {value!r}, which is no whole number")
        return int(number)
    return number


def setting_of(scopes: Sequence[Any], kind: type) -> Any:
    """Return one setting of a manifest for those of several scopes; None if they have none.

    Args:
        scopes: The parameter as each scope has it; earlier ones take precedence.
        kind: The parameter's type.

    Raises:
        WrongValue: A value is of another type, or is none of a parameter.
    """
    values: list[dict[str, Any]] = []
    for scope in scopes:
        items = scope if isinstance(scope, list) else [scope]
        if not any(isinstance(item, dict) for item in items):
            plain = _leaf(scope, kind)
            if plain is not None:
                return [*values, {"value": plain}] if values else plain
            continue
        for item in items:
            if not isinstance(item, dict) or "value" not in item:
                raise WrongValue("has an entry without a 'value'")
            plain, chosen = _leaf(item["value"], kind), item.get("filter")
            if chosen is not None and not isinstance(chosen, str):
                raise WrongValue(f"has the filter {chosen!r}, which is no text")
            if plain is None:
                raise WrongValue("has an empty list as a value")
            if chosen in EVERY:
                return [*values, {"value": plain}] if values else plain
            values.append({"filter": chosen, "value": plain})
    return values or None


def _leaf(value: Any, kind: type) -> Any:
    """Return a value or a gradient; None if it is an empty one."""
    if isinstance(value, list):
        return [converted(item, kind) for item in value] or None
    return converted(value, kind)


def keys_of_filters(setting: Any) -> set[str]:
    """Return the keys of a setting's entries that mergekit does not read."""
    items = setting if isinstance(setting, list) else [setting]
    return {key for item in items if isinstance(item, dict) for key in item} - {"value", "filter"}


def value_outside_layers(setting: Any, tensor: str) -> Any:
    """Return what a setting of `setting_of` is for a tensor outside of the layers; None: nothing.

    There a gradient has its first value.
    """
    items = setting if isinstance(setting, list) else [setting]
    for item in items:
        if not isinstance(item, dict):
            return item  # which may be None
        if item.get("filter") is None or item["filter"] in tensor:
            value = item["value"]
            return value[0] if isinstance(value, list) else value
    return None


def of_scopes(scopes: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """Return a parameter as each scope that has it says."""
    return [scope[key] for scope in scopes if key in scope]
