"""Manifests: ``modpkg.toml``, or ``[tool.modpkg]`` of a ``pyproject.toml``, as typed objects.

Names are imported when they are used: a command that finds nothing changed reads no manifest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modpkg.core.filenames import MANIFEST, PYPROJECT
    from modpkg.manifest.edit import remove_dependency, set_dependency
    from modpkg.manifest.find import find_manifest
    from modpkg.manifest.normal import from_normal_form, normal_form
    from modpkg.manifest.read import parse_manifest, read_manifest
    from modpkg.manifest.schema import (
        Compose,
        Dependency,
        DTypeName,
        FilesTable,
        LicensePolicy,
        Manifest,
        ModuleTable,
        Origin,
        ResolutionTable,
        Step,
        Strategy,
        Task,
        TaskKind,
        Test,
    )
    from modpkg.manifest.starter import new_manifest

_HOMES = {
    "edit": ("remove_dependency", "set_dependency"),
    "find": ("MANIFEST", "PYPROJECT", "find_manifest"),
    "normal": ("from_normal_form", "normal_form"),
    "read": ("parse_manifest", "read_manifest"),
    "schema": (
        "Compose",
        "DTypeName",
        "Dependency",
        "FilesTable",
        "LicensePolicy",
        "Manifest",
        "ModuleTable",
        "Origin",
        "ResolutionTable",
        "Step",
        "Strategy",
        "Task",
        "TaskKind",
        "Test",
    ),
    "starter": ("new_manifest",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MANIFEST",
    "PYPROJECT",
    "Compose",
    "DTypeName",
    "Dependency",
    "FilesTable",
    "LicensePolicy",
    "Manifest",
    "ModuleTable",
    "Origin",
    "ResolutionTable",
    "Step",
    "Strategy",
    "Task",
    "TaskKind",
    "Test",
    "find_manifest",
    "from_normal_form",
    "new_manifest",
    "normal_form",
    "parse_manifest",
    "read_manifest",
    "remove_dependency",
    "set_dependency",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
