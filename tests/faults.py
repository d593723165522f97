"""A command that is killed just before its N-th change to the file system.

usage: python -m tests.faults N FOLDER COMMAND…     (N = 0: count, and write the number to FOLDER)

Python reports to an audit hook each file that is opened for writing, and of each rename, link,
removal and change of mode; those under FOLDER count. SQLite and obstore write unreported;
kills inside these come at random moments (`tests/e2e/test_crash.py`).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

EVENTS = {
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.utime",
}
COUNT = "faults.count"
"""File in FOLDER that a counting run leaves."""


def writes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Return whether an audit event is a change under ``folder``."""
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(changes) and _under(path, folder)
    return event in EVENTS and any(_under(path, folder) for path in arguments[:2])


def _under(path: object, folder: str) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return isinstance(path, str | Path) and str(Path.cwd() / path).startswith(folder)


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
