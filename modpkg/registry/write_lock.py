"""Write locks of a registry folder, which several users may write to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from modpkg.core.file_lock import file_lock
from modpkg.core.files import make_folder, shared_mode


def folder_lock(
    folder: Path, name: str, *, exclusive: bool = True, within: Path | None = None
) -> AbstractContextManager[None]:
    """Return the lock of this name, open to everyone who can write to the folder.

    Names of other locks begin with a full stop, which module names never do.
    """
    make_folder(folder / "locks", within=within)
    path = folder / "locks" / f"{name}.lock"
    return file_lock(path, exclusive=exclusive, mode=shared_mode(path.parent), within=within)
