"""Files of a Hugging Face hub's cache: links to blobs that are named by their content."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from modpkg.core.digests import git_blob_hash
from modpkg.core.errors import ConversionError
from modpkg.core.regular_file import open_file
from modpkg.core.system_folders import is_link

_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def check_links(folder: Path) -> None:
    """Check that no link in a folder of another tool leads out of it.

    What a link leads to would be copied, and published. The links of a hub's cache, from a snapshot
    to the blobs beside it, are fine; so are links that lead nowhere, of which nothing is taken.

    Raises:
        ConversionError: A link leads out of the folder.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if not name.startswith("."):
                check_link(folder, Path(place, name))
        folders[:] = [name for name in folders if not name.startswith(".")]


def check_link(folder: Path, path: Path) -> None:
    """Check that a path in a folder is no link that leads out of it; see `check_links`.

    Raises:
        ConversionError: It is one.
    """
    if not is_link(path) or not path.exists():
        return
    inside, target = _real(folder), _real(path)
    blobs = _blobs_of(inside)
    of_the_hub = target.parent == blobs and _NAME.fullmatch(target.name) is not None
    if not of_the_hub and not target.is_relative_to(inside):
        raise ConversionError("M513", path=path, folder=folder)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises where links lead to themselves


def _blobs_of(folder: Path) -> Path | None:
    """Return the folder of a cache's blobs, for a snapshot or a folder in one."""
    for place in (folder, *folder.parents):
        if place.parent.name == "snapshots":
            blobs = place.parents[1] / "blobs"
            return None if is_link(blobs) else blobs
    return None


def check_hub_blob(path: Path) -> None:
    """Check that a link into a cache's ``blobs`` leads to the bytes that the blob is named for.

    Large files are named by their sha256, others by the sha1 that git gives them. Other files are
    not checked.

    Raises:
        ConversionError: The blob is damaged.
    """
    if not path.is_symlink():
        return
    blob = path.resolve()
    if blob.parent.name != "blobs" or not _NAME.fullmatch(blob.name) or not blob.is_file():
        return
    large = len(blob.name) == 64
    state = hashlib.sha256() if large else git_blob_hash(blob.stat().st_size)
    with open_file(blob) as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    if state.hexdigest() != blob.name:
        raise ConversionError(
            "M801",
            path=path,
            reason=f"its {'sha256' if large else 'sha1'} is not the one by which the cache names "
            "it, so it was damaged; remove it from the cache and download it again",
        )
