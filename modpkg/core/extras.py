"""Optional dependencies, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from modpkg.core.errors import MissingExtra


def import_extra(module: str, *, what: str, extra: str, package: str = "") -> Any:
    """Return an imported module of an optional dependency.

    Args:
        module: The module's full name.
        what: What needs it, as the subject of the error's sentence.
        extra: The extra of modpkg that installs it.
        package: Its name on PyPI, if that is not ``module``.

    Raises:
        MissingExtra: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra("M703", what=what, package=package or module, extra=extra) from None
