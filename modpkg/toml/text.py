"""The bytes of a TOML file: how much is read of one, and how it may begin. Imports no parser."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 1 << 20
"""Longest TOML file in bytes."""

BOM = "\ufeff"


def read_head(path: Path) -> bytes:
    """Return a file's bytes, but no more than one byte over `MAX_BYTES`.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)
