"""Writing a module project out of files that came from elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from modpkg.core.errors import ConversionError
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import copy_file, disk_errors, remove_tree, temporary_sibling
from modpkg.manifest.read import parse_manifest
from modpkg.release.content import check_data

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
"""Licence identifiers of model hubs that are SPDX identifiers by another spelling."""


@contextlib.contextmanager
def new_project(out: Path) -> Iterator[Path]:
    """Yield a folder to write a project into; it becomes ``out`` when the block ends well.

    Raises:
        ConversionError: there is something in ``out``.
        InstallError: nothing remains.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError("M803", path=out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(out)
    staged.mkdir()
    try:
        with disk_errors(out.parent):
            yield staged
        if out.exists():
            out.rmdir()
        staged.rename(out)
    finally:
        remove_tree(staged)


def copy_files(source: Path, staged: Path, *, skip: Sequence[str] = ()) -> list[str]:
    """Copy a folder's data files; return what was left out.

    Hidden files, links, code, pickles and paths that match ``skip`` stay behind.
    """
    left: list[str] = []
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if any(part.startswith(".") for part in relative.parts) or path.is_dir():
            continue
        if any(relative.match(pattern) for pattern in skip):
            continue
        real = path.resolve()  # a hub's cache holds links to its blobs
        if not real.is_file():
            left.append(f"{relative} (a broken link)")
            continue
        try:
            if path.suffix != ".safetensors":
                check_data(real, str(relative))
        except Exception as error:
            if "carries data only" not in str(error):
                raise
            left.append(f"{relative} (not data)")
            continue
        target = staged / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(real, target)
    return left


def files_of(folder: Path) -> list[str]:
    """Return the files in a folder, by their path in it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found)


def license_of(source: Path, given: str | None) -> tuple[str, list[str]]:
    """Return an SPDX expression and warnings: what was given, else the README's front matter.

    Raises:
        ConversionError: what was given is no SPDX expression.
    """
    if given is not None:
        try:
            return str(canonicalize_license_expression(given)), []
        except InvalidLicenseExpression as error:
            raise ConversionError("M801", path=source, reason=f"{given!r}: {error}") from None
    found = front_matter(source / "README.md", "license")
    if found is not None and (spdx := _SPDX.get(found.lower())):
        return spdx, []
    said = f"its README says {found!r}" if found else "none is named"
    return UNKNOWN_LICENSE, [
        f"the licence is not known ({said}); write an SPDX expression into {MANIFEST}"
    ]


def front_matter(path: Path, key: str) -> str | None:
    """Return one plain value of a README's YAML front matter, without reading YAML."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
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
    task: str | None = None,
) -> None:
    """Write the manifest of an imported module, and read it back to be sure of it."""
    shown = summary.replace("\\", "").replace('"', "'")[:200]
    lines = [
        "[module]",
        f'name = "{name}"',
        f'version = "{version}"',
        f'kind = "{kind}"',
        f'license = "{license}"',
        f'summary = "{"".join(char for char in shown if char.isprintable())}"',
    ]
    if base is not None:
        lines += ["", "[dependencies]", f'{base[0]} = "{base[1]}"']
    if task is not None:
        lines += ["", "[task]", f'kind = "{task}"']
    text = "\n".join(lines) + "\n"
    parse_manifest(text, staged / MANIFEST)
    (staged / MANIFEST).write_text(text)
