"""The method of ``merge``: from its options, or as an earlier merge remembers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modpkg.community.modules.reference import find_view
from modpkg.core.errors import UsageError
from modpkg.environment.workspace import Workspace

if TYPE_CHECKING:
    from modpkg.community.patch.merge import ConflictMethod
    from modpkg.manifest.schema import RememberedMerge, Setting

AUTO = "auto"


def method_again(
    merged: RememberedMerge, importance: Sequence[str], workspace: Workspace
) -> ConflictMethod | None:
    """Return the method of an earlier merge; the tensors of ``importance`` are given again."""
    from modpkg.community.patch.merge import ConflictMethod

    if merged.method is None:
        return None
    weighed = sum(bool(parent.importance) for parent in merged.parents)
    if len(importance) != weighed:
        raise UsageError("M901", message=f"Give --importance again, for {weighed} parents.")
    return ConflictMethod(
        name=merged.method,
        parameters=merged.parameters,
        importance=tuple(find_view(folder, workspace).refs() for folder in importance),
        weights=tuple(parent.weight for parent in merged.parents),
    )


def read_method(
    name: str | None,
    parameters: Sequence[str],
    weights: str | None,
    importance: Sequence[str],
    parents: int,
    workspace: Workspace,
) -> ConflictMethod | None:
    """Return the method that the options choose; None without one, and for ``auto``."""
    from modpkg.community.patch.merge import ConflictMethod
    from modpkg.compose.reducers import find_reducer

    if name in (None, AUTO):
        if parameters or importance or weights is not None:
            message = "--parameter, --weights and --importance need a --method."
            raise UsageError("M901", message=message)
        return None
    if importance and len(importance) != parents:
        raise UsageError("M901", message="Give one --importance for each PATCH, in their order.")
    find_reducer(name, "--method")
    values: dict[str, Setting] = {}
    for text in parameters:
        key, separator, value = text.partition("=")
        if not separator:
            raise UsageError("M901", message=f"Write --parameter {key}=VALUE.")
        values[key] = _value(value)
    return ConflictMethod(
        name=name,
        parameters=values,
        importance=tuple(find_view(folder, workspace).refs() for folder in importance),
        weights=() if weights is None else _weights(weights, parents),
    )


def _weights(text: str, parents: int) -> tuple[float, ...]:
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) != parents or not all(map(math.isfinite, values)):
        count = ",".join(["1.0"] * parents)
        raise UsageError("M901", message=f"Give a weight for each PATCH: --weights {count}.")
    return values


def _value(text: str) -> Setting:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text
