"""Whose a folder is: what another user of the machine can change is refused, or reported.

As git does with its ``safe.directory``: a folder of this user, or of the administrator, is trusted;
one that its owner shares with a group of this user was shared on purpose; any other only if this
user says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from modpkg.core import system
from modpkg.core.errors import InstallError
from modpkg.core.system_folders import is_link

TRUSTED = "MODPKG_TRUSTED_FOLDERS"
"""Variable with folders whose owners are trusted, written like ``PATH``; ``*`` is all."""


def stranger(path: Path) -> str | None:
    """Return who owns a file or folder, if it is somebody who is not trusted with it; else None.

    What does not exist has no owner, and on Windows nothing has.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if system.is_of_trusted_user(status) or system.is_shared_with_group(status) or _listed(path):
        return None
    return system.user_name(status.st_uid)


def check_owner(path: Path) -> None:
    """Check that what exists is not of somebody who is not trusted with it.

    Raises:
        InstallError: It is.
    """
    if (owner := stranger(path)) is not None:
        raise InstallError("M514", path=path, owner=owner, variable=TRUSTED)


def dangers(path: Path) -> list[str]:
    """Return who else can change a folder or file that is relied on, as warnings."""
    found = []
    if (owner := stranger(path)) is not None:
        found.append(
            f"{path} belongs to {owner}, who can change what is used from it; if that is meant, "
            f"list the folder in {TRUSTED}"
        )
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):  # its own mode lets everybody write, and means nothing
            mode = path.stat().st_mode
    except OSError:
        return found
    if system.everybody_can_write(mode) and not _listed(path):
        found.append(
            f"every user of this machine can change {path}; run: chmod o-w "
            f"{system.shell_word(str(path))}"
        )
    return found


def _listed(path: Path) -> bool:
    listed = [text for text in os.environ.get(TRUSTED, "").split(os.pathsep) if text]
    whole = path.absolute()
    return "*" in listed or any(
        whole.is_relative_to(Path(text).expanduser().absolute()) for text in listed
    )


def check_links_of_owner(folder: Path, parts: Iterable[str]) -> None:
    """Check that no part of a folder is a link that somebody else could have put there.

    Whoever may write to a shared folder could lead others out of it. A link of this user, of the
    folder's owner or of the system's administrator is theirs to make.

    Raises:
        InstallError: One is.
    """
    for path in (folder / part for part in parts):
        if is_link(path):
            trusted = (folder.stat().st_uid, 0)
            status = os.lstat(path)
            if system.is_of_another_user(status) and status.st_uid not in trusted:
                raise InstallError("M511", path=path, what="another user's link")
