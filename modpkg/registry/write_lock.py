"""Write locks of a registry folder, which several users may write to."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from modpkg.core.files import make_folder, shared_mode


def folder_lock(folder: Path, name: str) -> FileLock:
    """Return the lock of this name, open to everyone who can write to the folder.

    Names of other locks begin with a full stop, which module names never do.
    """
    make_folder(folder / "locks")
    return FileLock(folder / "locks" / f"{name}.lock", mode=shared_mode(folder / "locks"))
