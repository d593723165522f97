"""Which files of a registry are signed where anything is, and where their metadata lies."""

from __future__ import annotations

from modpkg.core.filenames import REGISTRY_INFO

FOLDER = "tuf"
"""Where the files of metadata lie in a registry."""


def is_signed_path(path: str) -> bool:
    """Return whether a file of a registry is signed where anything is."""
    return path == REGISTRY_INFO or path.startswith("index/")


def private_path(digest: str) -> str:
    """Return what an index file of a private module is listed as: nobody else learns its name."""
    return f"private/{digest.partition(':')[2]}.jsonl"
