"""A command that is killed just before its N-th change to the file system.

usage: python -m tests.faults N FOLDER COMMAND…     (N = 0: count, and write the number to FOLDER)

Python reports to an audit hook each file that is opened for writing, and of each rename, link,
removal and change of mode; those under FOLDER count, also by names in an open folder (of a file
that is opened so, the folder is not told: it counts). SQLite and obstore write unreported;
kills inside these come at random moments (`tests/e2e/test_crash.py`).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

EVENTS = {
    "os.chmod": ((0, 2),),
    "os.link": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}
"""Which arguments of an event are a path that changes, and the open folder that it is in."""
COUNT = "faults.count"
"""File in FOLDER that a counting run leaves."""


def writes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Return whether an audit event is a change under ``folder``."""
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(changes) and (_under(path, folder) or _is_bare(path))
    return any(
        _under(arguments[path], folder, -1 if within is None else arguments[within])
        for path, within in EVENTS.get(event, ())
    )


def _under(path: object, folder: str, within: int = -1) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, int):  # an open file or folder
        path, within = ".", path
    if not isinstance(path, str | Path):
        return False
    place = Path.cwd() if within < 0 else Path(f"/proc/self/fd/{within}").resolve()
    return str(place / path).startswith(folder)


def _is_bare(path: object) -> bool:
    """Return whether a path is a name only, as of a file in an open folder."""
    return isinstance(path, str) and os.sep not in path


def main() -> None:
    """Run a command of modpkg under the hook."""
    fatal, folder, *arguments = sys.argv[1:]
    root = str(Path(folder).resolve()) + os.sep
    seen = 0

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal seen
        if writes(event, values, root):
            seen += 1
            if seen == int(fatal):
                os.kill(os.getpid(), signal.SIGKILL)

    from modpkg.cli import main as command

    sys.addaudithook(hook)
    try:
        command(arguments)
    finally:
        if fatal == "0":
            count = seen
            Path(folder, COUNT).write_text(str(count))


if __name__ == "__main__":
    main()
