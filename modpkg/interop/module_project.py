"""Writing a module project from files of another tool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from modpkg.core import system
from modpkg.core.errors import ConversionError
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import disk_errors, make_folder, rename, sync_tree, write_atomically
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.regular_file import read_text
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.values import parse_license
from modpkg.release.local_paths import remove_local_paths

UNKNOWN_LICENSE = "LicenseRef-unknown"

_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc0-1.0": "CC0-1.0",
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "mpl-2.0": "MPL-2.0",
    "unlicense": "Unlicense",
}
"""Licence identifiers of model hubs, and their SPDX spelling."""


@contextlib.contextmanager
def new_project(out: Path) -> Iterator[Path]:
    """Yield a temporary folder for a project; it is renamed to ``out`` when the block succeeds.

    Raises:
        ConversionError: ``out`` exists and is not an empty folder.
        InstallError: The disk is full or not writable; nothing is left behind.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError("M803", path=out)
    staged = temporary_sibling(out)
    try:
        with disk_errors(out.parent, out):
            make_folder(staged)
            yield staged
            remove_local_paths(staged)
            sync_tree(staged)
            if out.exists():
                out.rmdir()
            rename(staged, out)
            system.sync_folder(out.parent)
    finally:
        discard(staged)


def files_of(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths)


def license_of(source: Path, given: str | None) -> tuple[str, list[str]]:
    """Return an SPDX expression and warnings: `given`, else that of the README's front matter.

    Raises:
        InvalidValue: `given` is not an SPDX expression.
    """
    if given is not None:
        return parse_license(given), []
    named = front_matter(source / "README.md", "license")
    if named is not None and (spdx := _SPDX.get(named.lower())):
        return spdx, []
    reason = f"its README has {named!r}" if named else "its README has none"
    return UNKNOWN_LICENSE, [
        f"the licence is unknown ({reason}); write an SPDX expression into {MANIFEST}"
    ]


def front_matter(path: Path, key: str) -> str | None:
    """Return one plain value of a README's YAML front matter, without parsing YAML."""
    try:
        lines = read_text(path, errors="replace").splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:200]:
        if line.strip() == "---":
            return None
        name, colon, value = line.partition(":")
        if colon and name == key and value.strip():
            return value.strip().strip("\"'")
    return None


def write_manifest(
    staged: Path,
    *,
    name: str,
    version: str,
    kind: str,
    license: str,
    summary: str,
    base: tuple[str, str] | None = None,
    against: str | None = None,
    task: str | None = None,
) -> None:
    """Write the manifest of an imported module; it is parsed first, to be sure that it is valid."""
    shown = summary.replace("\\", "").replace('"', "'")[:200]
    lines = [
        "[module]",
        f'name = "{name}"',
        f'version = "{version}"',
        f'kind = "{kind}"',
        f'license = "{license}"',
        f'summary = "{"".join(char for char in shown if char.isprintable())}"',
    ]
    if against is not None:
        lines.append(f'against = "{against}"')
    if base is not None:
        lines += ["", "[dependencies]", f'{base[0]} = "{base[1]}"']
    if task is not None:
        lines += ["", "[task]", f'kind = "{task}"']
    text = "\n".join(lines) + "\n"
    parse_manifest(text, staged / MANIFEST)
    write_atomically(staged / MANIFEST, text.encode())
