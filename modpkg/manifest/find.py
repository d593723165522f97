"""Finding the manifest of a folder, without parsing it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modpkg.core import system
from modpkg.core.filenames import MANIFEST, PYPROJECT
from modpkg.toml.text import BOM, read_head


def find_manifest(start: Path) -> Path | None:
    """Return the nearest manifest in ``start`` or its parents, or None.

    In each folder ``modpkg.toml`` comes before a ``pyproject.toml`` that has ``[tool.modpkg]``.
    """
    folder = Path(os.path.abspath(start))  # noqa: PTH100 - resolve() would leave links behind
    for place in (folder, *folder.parents):
        if _is_there(place / MANIFEST):
            return place / MANIFEST
        if _has_table(place / PYPROJECT):
            return place / PYPROJECT
    return None


def _is_there(path: Path) -> bool:
    """Return whether there is a manifest, or what reading it refuses, such as a link or a pipe."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        if system.is_failure(error):  # it may be there: another project is not taken for it
            raise
        return False


def _has_table(path: Path) -> bool:
    try:
        content = read_head(path)
        if b"modpkg" not in content:
            return False
        import tomli

        tool = tomli.loads(content.decode().removeprefix(BOM)).get("tool")
    except (ValueError, RecursionError):
        # It is broken and may be ours: reading it reports the error, skipping it would not.
        return any(line.lstrip().startswith(b"[tool.modpkg") for line in content.splitlines())
    except OSError as error:
        if system.is_failure(error):
            raise
        return False
    return isinstance(tool, dict) and "modpkg" in tool
