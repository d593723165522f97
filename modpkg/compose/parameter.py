"""The declaration of a setting: what a recipe may write for a method, its steps or an operator.

Planning, `modpkg build` and `modpkg import mergekit` check recipes by these declarations, and
docs/merging.md lists them.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from msgspec import Struct

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has to be set."""
_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
TYPES: dict[str, type] = {kind.__name__: kind for kind in _NOUNS}


class Parameter(Struct, frozen=True, kw_only=True):
    """One setting; its name is its key in the table of a method or an operator."""

    default: Any = REQUIRED
    """`REQUIRED`: none."""
    type: type = float
    """bool, int, float or str; of any other type, a plug-in's, every value is accepted."""
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    """The only strings that are accepted; empty for any."""
    each: bool = False
    """Whether each step may set it; the recipe's parameters then have the steps' default."""
    module: bool = False
    """Whether a string is accepted too: the name of a module whose tensors are the values."""

    def read(self, key: str, value: Any) -> Any:
        """Return a value as its type: an integral float as an int, where an int is declared.

        Raises:
            ValueError: It is of another type, or out of range; the text is a reason.
        """
        if self.type not in _NOUNS or (self.module and isinstance(value, str)):
            return value
        if self.type is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not self.type:
            raise ValueError(f"parameter {key!r} is {value!r}, but must be {_NOUNS[self.type]}")
        if self.choices and value not in self.choices:
            *most, last = map(repr, self.choices)
            known = f"{', '.join(most)} or {last}" if most else last
            raise ValueError(f"parameter {key!r} is {value!r}, but must be {known}")
        if isinstance(value, int | float) and not self.least <= value <= self.most:
            raise ValueError(f"parameter {key!r} is {value}, but must be {self.range()}")
        return value

    def range(self) -> str:
        """Return the values that are accepted, as in ``0 to 1``; "" if every number is."""
        if math.isinf(self.most):
            return "" if math.isinf(self.least) else f"at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"
