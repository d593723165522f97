"""What a caller says of adapters: their names, and a weight of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import SupportsFloat

from modpkg.core.errors import RunError

AdapterChoice = str | Sequence[str] | Mapping[str, float]
"""One adapter, several, or several with weights."""


def list_of_names(what: str, given: object) -> list[str]:
    """Return names whose order counts.

    Args:
        what: The argument, for errors.
        given: Its value.

    Raises:
        RunError: It is not a list of names: one name, a mapping, a set, or not of texts.
    """
    if isinstance(given, str):
        raise _refused(what, given, "it is a list of names, like ['a', 'b'], not one text")
    if isinstance(given, Mapping):
        reason = "it is a list of names; set_adapter of the live model takes weights"
        raise _refused(what, given, reason)
    if isinstance(given, AbstractSet):
        raise _refused(what, given, "it is a list of names, and a set has no order")
    return _names(what, given)


def weights_of(adapter: object) -> dict[str, float]:
    """Return the weight of each adapter that a caller sets; those without one have 1.

    Raises:
        RunError: It is neither a name nor a list of names, it has a name twice, or a weight is not
            a finite number.
    """
    if isinstance(adapter, Mapping):
        names = _names("adapter", adapter)
        return {name: finite_weight(name, adapter[name]) for name in names}
    names = [adapter] if isinstance(adapter, str) else _names("adapter", adapter)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:  # PEFT would add it twice
        raise _refused("adapter", adapter, f"it has {twice!r} twice; give it a weight instead")
    return dict.fromkeys(names, 1.0)


def weighted_names(adapters: object, weights: object, new: object) -> list[tuple[str, float]]:
    """Return the adapters of a sum with their weights.

    Args:
        adapters: The names of the adapters.
        weights: As many weights.
        new: The name of the sum.

    Raises:
        RunError: One of these is not what it is called.
    """
    if not isinstance(new, str) or not new:
        raise _refused("adapter_name", new, "it has to be a name")
    names = list_of_names("adapters", adapters)
    unordered = isinstance(weights, str | Mapping | AbstractSet)
    if unordered or not isinstance(weights, Iterable):
        raise _refused("weights", weights, "it has to be a list of numbers")
    numbers = list(weights)
    if len(names) != len(numbers):
        reason = f"its adapters are {len(names)} and its weights {len(numbers)}"
        raise RunError("M709", choice=repr(new), reason=reason)
    if not names:
        raise _refused("adapters", adapters, "it has no name")
    return [
        (name, finite_weight(name, number)) for name, number in zip(names, numbers, strict=True)
    ]


def finite_weight(name: str, weight: object) -> float:
    """Return an adapter's weight as a float.

    Raises:
        RunError: It is not a number, or has no finite value as a float.
    """
    what = f"The weight of {name!r}"
    try:
        value = float(weight) if isinstance(weight, SupportsFloat) else None
    except (TypeError, ValueError, RuntimeError):  # a tensor of several values, for example
        value = None
    except OverflowError:
        value = math.inf
    if value is None:
        raise RunError("M709", choice=what, reason=f"{shown(weight)} is not a number")
    if not math.isfinite(value):
        reason = "it has to be finite, in the range of a 64-bit float"
        raise RunError("M709", choice=what, reason=reason)
    return value


def _names(what: str, given: object) -> list[str]:
    try:
        names = list(given) if isinstance(given, Iterable) else None
    except TypeError:  # an array without dimensions
        names = None
    if names is None:
        raise _refused(what, given, "it has to be a list of names")
    for name in names:
        if not isinstance(name, str):
            raise _refused(what, given, f"it has to be a list of names, and {shown(name)} is none")
    return names


def _refused(what: str, given: object, reason: str) -> RunError:
    return RunError("M709", choice=f"{what} = {shown(given)}", reason=reason)


def shown(given: object) -> str:
    """Return a value as an error shows it, of at most 60 characters."""
    try:
        return f"{given!r:.60}"
    except ValueError:  # Python writes no integer of thousands of digits
        return f"a value of type {type(given).__name__}"
