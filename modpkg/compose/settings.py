"""The value of a recipe's setting for one tensor: filters, and gradients over layers."""

from __future__ import annotations

from collections.abc import Iterator

from modpkg.manifest.schema import Filtered, Gradient, Scalar, Setting


def value_for(setting: Setting, tensor: str, position: float) -> Scalar | None:
    """Return the value of ``setting`` for a tensor; None if no filter matches.

    ``position`` is the tensor's relative position in the stack of layers, from 0 to 1. A gradient
    of numbers is interpolated linearly; one of strings or booleans is a step function. The first
    filter that is a substring of the tensor's name applies; ``"*"`` matches every name.

    >>> value_for((0.0, 1.0, 0.5), "model.layers.3.q", 0.75)
    0.75
    """
    if not isinstance(setting, tuple):
        return setting
    gradient: list[Scalar] = []
    for item in setting:
        if not isinstance(item, Filtered):
            gradient.append(item)
        elif item.filter in (None, "*") or (item.filter or "") in tensor:
            return _at(item.value, position) if isinstance(item.value, tuple) else item.value
    return _at(tuple(gradient), position) if gradient else None


def with_fallback(setting: Setting, other: Setting) -> Setting:
    """Return a setting that has the value of ``other`` for tensors that ``setting`` has none for.

    >>> with_fallback((Filtered(1.0, "mlp"),), 0.5)
    (Filtered(value=1.0, filter='mlp'), Filtered(value=0.5, filter=None))
    """
    if not isinstance(setting, tuple) or not all(isinstance(item, Filtered) for item in setting):
        return setting
    if not isinstance(other, tuple):
        return (*setting, Filtered(other))
    gradient = tuple(item for item in other if not isinstance(item, Filtered))
    return (*setting, Filtered(gradient)) if gradient else setting + other


def values_in(setting: Setting) -> Iterator[Scalar]:
    """Yield every value that is written in a setting; others are between two of them.

    >>> list(values_in((0.0, Filtered(value=(1.0, 2.0), filter="mlp"))))
    [0.0, 1.0, 2.0]
    """
    for item in setting if isinstance(setting, tuple) else (setting,):
        value = item.value if isinstance(item, Filtered) else item
        yield from value if isinstance(value, tuple) else (value,)


def varies_by_layer(setting: Setting) -> bool:
    """Return whether a setting has a gradient with different values."""
    if not isinstance(setting, tuple):
        return False
    gradients = [item.value for item in setting if isinstance(item, Filtered)]
    gradients.append(tuple(item for item in setting if not isinstance(item, Filtered)))
    return any(isinstance(each, tuple) and len(set(each)) > 1 for each in gradients)


def _at(gradient: Gradient, position: float) -> Scalar:
    scaled = position * (len(gradient) - 1)
    index = int(scaled)
    if not all(isinstance(value, float) for value in gradient):
        return gradient[index]
    share = scaled - index
    low, high = gradient[index], gradient[min(index + 1, len(gradient) - 1)]
    return (1 - share) * float(low) + share * float(high)
