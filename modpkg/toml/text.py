"""The bytes of a TOML file, up to a limit; imports no parser."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.bounds import MANIFEST_BYTES
from modpkg.core.regular_file import open_file

BOM = "\ufeff"


def read_head(path: Path) -> bytes:
    """Return at most `MANIFEST_BYTES` + 1 bytes of a file.

    Raises:
        OSError: The file cannot be read.
    """
    with open_file(path) as file:
        return file.read(MANIFEST_BYTES + 1)
