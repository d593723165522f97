"""The line of a manifest that names its JSON Schema, and the file that it names.

The file is in the folder ``.modpkg`` beside the manifest: a path that is the same on every machine,
that needs no network, and that is neither committed nor released.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from modpkg.core.errors import InstallError
from modpkg.core.filenames import ENVIRONMENT, MANIFEST
from modpkg.core.files import write_atomically
from modpkg.core.leftovers import remove_leftovers
from modpkg.core.regular_file import open_file, read_file
from modpkg.core.system_folders import is_link

SCHEMA_FILE = "modpkg.schema.json"
SCHEMA_LINE = f"#:schema ./{ENVIRONMENT}/{SCHEMA_FILE}\n"
"""What editors with a TOML language server look for at the top of a file."""


def refresh_schema(folder: Path) -> None:
    """Write the schema that a folder's manifest names, if it names one and has another.

    A folder that cannot be written to is left as it is.
    """
    with contextlib.suppress(OSError, InstallError):
        with open_file(folder / MANIFEST) as file:
            names_it = file.readline() == SCHEMA_LINE.encode()
        if names_it:
            _write(folder / ENVIRONMENT)


def add_schema(folder: Path) -> None:
    """Write the line above a new manifest, and the schema that it names.

    The manifest is whole without it, and left as it is where it cannot be written again.
    """
    path = folder / MANIFEST
    with contextlib.suppress(OSError, InstallError):
        text = read_file(path)
        if not text.startswith(SCHEMA_LINE.encode()):
            write_atomically(path, SCHEMA_LINE.encode() + text)
    refresh_schema(folder)


def _write(folder: Path) -> None:
    import json

    from modpkg.manifest.json_schema import manifest_schema

    if is_link(folder):
        return
    remove_leftovers(folder)
    data = (json.dumps(manifest_schema(), indent=1) + "\n").encode()
    path, ignore = folder / SCHEMA_FILE, folder / ".gitignore"
    if path.exists() and not is_link(path) and read_file(path) == data:
        return
    if not ignore.exists():
        write_atomically(ignore, b"*\n")
    write_atomically(path, data)
