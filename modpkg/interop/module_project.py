"""Writing a module project from files of another tool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from modpkg.core import system
from modpkg.core.errors import ConversionError
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import disk_errors, make_folder, rename, sync_tree, write_atomically
from modpkg.core.hub_address import HubAddress
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.oci_address import OciAddress
from modpkg.manifest.edit import toml_value
from modpkg.manifest.keys import CARD_KEYS
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.schema import Card
from modpkg.release.local_paths import remove_local_paths


def check_new_project(out: Path) -> None:
    """Check that a project can be made in a folder.

    Raises:
        ConversionError: It exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError("M803", path=out)


@contextlib.contextmanager
def new_project(out: Path) -> Iterator[Path]:
    """Yield a temporary folder for a project; it is renamed to ``out`` when the block succeeds.

    Raises:
        ConversionError: ``out`` exists and is not an empty folder.
        InstallError: The disk is full or not writable; nothing is left behind.
    """
    check_new_project(out)
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
    card: Card | None = None,
    imported_from: HubAddress | OciAddress | None = None,
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
    if imported_from is not None:
        lines += ["", "[provenance]", f"imported-from = {toml_value(str(imported_from))}"]
    entries = {key: list(getattr(card, key.replace("-", "_"), ())) for key in CARD_KEYS}
    if any(entries.values()):
        lines += ["", "[card]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in entries.items() if value]
    if base is not None:
        lines += ["", "[dependencies]", f'{base[0]} = "{base[1]}"']
    if task is not None:
        lines += ["", "[task]", f'kind = "{task}"']
    text = "\n".join(lines) + "\n"
    parse_manifest(text, staged / MANIFEST)
    write_atomically(staged / MANIFEST, text.encode())
