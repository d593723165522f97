"""Temporary files and folders: how they are named, and what killed commands have left of them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from modpkg.core import system_processes
from modpkg.core.lazy_pattern import lazy_pattern

TEMPORARY = ".tmp-"
"""Prefix of unfinished files and folders; nothing reads them."""


def temporary_sibling(path: Path) -> Path:
    """Return an unused name beside ``path``, on the same file system.

    What commands that were killed have left in that folder is removed, once per process.
    """
    remove_leftovers(path.parent)
    temporary = path.parent / temporary_name(path.name)
    note_own(temporary)
    return temporary


def note_own(path: Path) -> None:
    """Note an unfinished file or folder of this process, for `discard_own`."""
    _own.add(path)


def discard_own() -> None:
    """Remove all unfinished files and folders of this process, which ends without finishing any."""
    for path in [*_own]:
        discard(path)


def temporary_name(name: str) -> str:
    """Return an unused name for a temporary file or folder that stands for another one."""
    return f"{TEMPORARY}{name[:_SHOWN]}-{system_processes.process_mark()}"


_SHOWN = 40
"""How many characters of a file's name are in that of its temporary sibling."""
_OWN_FORM = lazy_pattern(
    re.escape(TEMPORARY) + r"(?P<name>.*)-(?P<space>[0-9a-f]{8})-(?P<process>[0-9]+)-[0-9a-f]{8}",
    re.DOTALL,
)
LEFT_ALONE = 7 * 86400.0
"""Seconds after which what a process of another machine has begun counts as left over."""
_own: set[Path] = set()
"""What this process has begun, finished or not."""
_tidied: set[Path] = set()
"""Folders that were looked through."""


def is_temporary_name(name: str) -> bool:
    """Return whether a name is one that `temporary_name` gives."""
    return _OWN_FORM.fullmatch(name) is not None


def leftovers(folder: Path, *, once: bool = False) -> list[Path]:
    """Return the unfinished files and folders in a folder of which nobody will finish any.

    Their names say which process began them: it has ended, or is of another machine (or container)
    and began them a week ago. With ``once``, a folder that was looked through has none.
    """
    if once:
        whole = folder.absolute()
        if whole in _tidied:
            return []
        _tidied.add(whole)
    try:
        with os.scandir(folder) as entries:
            temporary = [entry for entry in entries if entry.name.startswith(TEMPORARY)]
        return [Path(entry.path) for entry in temporary if _is_left(entry)]
    except OSError:
        return []


def _is_left(entry: os.DirEntry[str]) -> bool:
    form = _OWN_FORM.fullmatch(entry.name)
    if form is None:
        return False
    if form["space"] == system_processes.process_space():
        return not system_processes.is_running(int(form["process"]))
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_ALONE


def remove_leftovers(folder: Path) -> None:
    """Remove the `leftovers` in a folder, as far as this user can; once per process."""
    for path in leftovers(folder, once=True):
        discard(path)


def discard(path: Path) -> None:
    """Remove an unfinished file or folder, if it can be; links are not followed.

    For the way out of a command that failed: its own error is the one to tell.
    """
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):  # macOS refuses to unlink a folder with the latter
        import shutil  # slow to import, and seldom needed

        shutil.rmtree(path, ignore_errors=True)  # follows no link
    except OSError:
        return


def without_mark(name: str) -> str:
    """Return the path that a temporary one stands for; its folder, if the name was cut."""
    path = Path(name)
    for part in (path, *path.parents):
        if (form := _OWN_FORM.fullmatch(part.name)) is not None:
            cut = len(form["name"]) >= _SHOWN
            whole = part.parent if cut else part.with_name(form["name"]) / path.relative_to(part)
            return without_mark(str(whole))
    return name
