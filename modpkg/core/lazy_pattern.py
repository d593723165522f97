"""Regular expressions, compiled on first use: a command needs few, and compiling takes long.

Those of all modules that a command imports take as long as Python takes to start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from re import compile as lazy_pattern
else:

    class lazy_pattern:  # noqa: N801 - it stands for the function
        """What `re.compile` returns, as far as its attributes are asked for.

        >>> lazy_pattern("[0-9]+").fullmatch("12")[0]
        '12'
        """

        def __init__(self, pattern: str | bytes, flags: int = 0) -> None:
            self._arguments = pattern, flags

        def __getattr__(self, name: str) -> Any:
            value = getattr(re.compile(*self._arguments), name)
            setattr(self, name, value)
            return value


__all__ = ["lazy_pattern"]
