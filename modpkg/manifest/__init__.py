"""Manifests: ``modpkg.toml``, or ``[tool.modpkg]`` of a ``pyproject.toml``, as typed objects."""

from __future__ import annotations

from modpkg.manifest.edit import remove_dependency, set_dependency
from modpkg.manifest.normal import from_normal_form, normal_form
from modpkg.manifest.read import (
    MANIFEST,
    PYPROJECT,
    find_manifest,
    parse_manifest,
    read_manifest,
)
from modpkg.manifest.schema import (
    Compose,
    Dependency,
    DTypeName,
    FilesTable,
    Manifest,
    ModuleTable,
    Step,
    Task,
    TaskKind,
    Test,
)
from modpkg.manifest.starter import new_manifest

__all__ = [
    "MANIFEST",
    "PYPROJECT",
    "Compose",
    "DTypeName",
    "Dependency",
    "FilesTable",
    "Manifest",
    "ModuleTable",
    "Step",
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
