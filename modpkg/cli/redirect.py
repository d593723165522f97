"""Repair ``modpkg install summarizer>=2.1`` without quotes.

A shell takes that for ``modpkg install summarizer`` with standard output redirected into a file
named ``=2.1``. The file is recognised as this process's standard output; then the requirement is
restored, the file is removed, and standard output goes to standard error.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from modpkg.core.errors import UsageError

_TAKES_REQUIREMENTS = ("install", "add")
_WITH_VALUE = ("-C", "--registry", "--upgrade-package", "--resolution", "--exclude-newer")


def repair_redirect(arguments: list[str]) -> list[str]:
    """Return the intended arguments, and remove the file that the shell created.

    Raises:
        UsageError: The redirect can belong to several requirements.
    """
    words = (
        text
        for place, text in enumerate(arguments)
        if not text.startswith("-") and not (place and _is_value(arguments, place))
    )
    command = next(words, None)
    if command not in _TAKES_REQUIREMENTS:
        return arguments
    file = _redirected_into()
    if file is None:
        return arguments
    at = arguments.index(command)
    bare = [
        position
        for position, text in enumerate(arguments)
        if position > at and not text.startswith("-") and not _has_version(text)
    ]
    bare = [position for position in bare if not _is_value(arguments, position)]
    os.dup2(2, 1)
    file.unlink()
    if len(bare) != 1:
        names = [arguments[position] for position in bare]
        example = f"{names[0] if names else 'NAME'}>{file.name}"
        raise UsageError(
            "M902",
            file=file.name,
            names=", ".join(names) or "nothing",
            command=command,
            example=example,
        )
    meant = f"{arguments[bare[0]]}>{file.name}"
    print(  # noqa: T201
        f"The shell took '>' in {meant} for a redirect into a file; modpkg installs {meant!r} "
        f"and has removed the file {file.name!r}. Quote it next time: modpkg {command} '{meant}'",
        file=sys.stderr,
    )
    return [meant if place == bare[0] else text for place, text in enumerate(arguments)]


def _redirected_into() -> Path | None:
    """Return the file ``=…`` in the working folder that is this process's standard output."""
    try:
        out = os.fstat(1)
        if not stat.S_ISREG(out.st_mode) or out.st_size:
            return None
        for entry in os.scandir():
            if entry.name.startswith("=") and not entry.is_symlink():
                status = os.stat(entry.path)  # Windows gives no inode with an entry
                if (status.st_dev, status.st_ino) == (out.st_dev, out.st_ino):
                    return Path(entry.name)
    except OSError:
        pass
    return None


def _has_version(text: str) -> bool:
    return any(sign in text for sign in "<>=@~!")


def _is_value(arguments: list[str], position: int) -> bool:
    return arguments[position - 1] in _WITH_VALUE
