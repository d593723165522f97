"""The bytes of a TOML file, up to a limit; imports no parser."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 1 << 20
"""Longest TOML file in bytes."""

BOM = "\ufeff"


def read_head(path: Path) -> bytes:
    """Return at most `MAX_BYTES` + 1 bytes of a file.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)
