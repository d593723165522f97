"""Who and what did something: for what is said of candidates where there are no accounts."""

from __future__ import annotations

import getpass

from modpkg.core import system
from modpkg.core.printable import one_line
from modpkg.core.system_limits import machine_text
from modpkg.core.version import __version__

_MOST = 200


def machine_line() -> str:
    """Return the machine's system, the versions of Python and modpkg, and its cores."""
    cores = system.available_cores()
    line = f"{machine_text()}, modpkg {__version__}, {cores} core{'s' * (cores != 1)}"
    return one_line(line)[:_MOST]


def user_name() -> str:
    """Return what the system calls the user; ``unknown`` where it has no name."""
    try:
        name = one_line(getpass.getuser()).strip()
    except (KeyError, OSError, ImportError):  # a container without an entry for the user
        name = ""
    return name[:_MOST] or "unknown"
