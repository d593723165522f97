"""Files of a Hugging Face hub's cache: links to blobs that are named by their content."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.core.regular_file import open_file

_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


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
    state = hashlib.sha256() if large else hashlib.sha1(usedforsecurity=False)
    if not large:
        state.update(b"blob %d\0" % blob.stat().st_size)
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
