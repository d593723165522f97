"""The bytes of a TOML file, up to a limit; imports no parser."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.bounds import MANIFEST_BYTES
from modpkg.core.regular_file import read_head as head_of

BOM = "\ufeff"


def read_head(path: Path, *, follow: bool = True) -> bytes:
    """Return at most `MANIFEST_BYTES` + 1 bytes of a file, which may be a link if ``follow``.

    Raises:
        OSError: The file cannot be read.
    """
    return head_of(path, MANIFEST_BYTES + 1, follow=follow)
