"""Optional dependencies, imported where they are needed; torch is one in a light install."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from modpkg.core.errors import MissingExtra
from modpkg.core.hub import hub_off


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
    if (known := sys.modules.get(module)) is not None:
        return known
    try:
        with hub_off():
            return importlib.import_module(module)
    except ImportError:
        raise MissingExtra("M703", what=what, package=package or module, extra=extra) from None


def require_extra(module: str, *, what: str, extra: str, package: str = "") -> None:
    """Check that an optional dependency is installed, before work begins that would be lost.

    It is not imported. Arguments and errors are those of `import_extra`.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ImportError:  # of the package that a module is in
        found = False
    if not found:
        raise MissingExtra("M703", what=what, package=package or module, extra=extra)


def require_transformers(what: str) -> None:
    """Check that torch and transformers are installed; see `require_torch` and `require_extra`."""
    require_torch(what)
    require_extra("transformers", what=what, extra="transformers")


NO_TORCH = "torch is not installed, as in a light install"


def has_torch() -> bool:
    """Return whether torch is installed; it is not imported."""
    try:
        return importlib.util.find_spec("torch") is not None
    except ImportError:
        return False


def require_torch(what: str) -> None:
    """Check that torch is installed, before work begins that would be lost.

    Raises:
        MissingExtra: It is not. ``what`` needs it, as the subject of the error's sentence.
    """
    if not has_torch():
        raise MissingExtra("M895", what=what)


def without_torch(error: ImportError, what: str) -> MissingExtra | None:
    """Return the error for an import that failed for lack of torch; None for other imports."""
    if (error.name or "").partition(".")[0] != "torch" or has_torch():
        return None
    return MissingExtra("M895", what=what)
