"""Provoking an error by the command line, and taking the remedy from what it printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str]]
"""Runs the command line with these arguments; returns its exit status and all that it printed."""


def remedy_of(text: str) -> list[str]:
    """Return the arguments of the modpkg command that an error names."""
    found = re.search(r"'modpkg ([^']+)'|: modpkg ([^\n]+?)\)?\.?$", text.strip(), re.MULTILINE)
    assert found is not None, text
    return shlex.split(found[1] or found[2])


def fails(run: Run, code: str, *command: str | Path, status: int = 1) -> str:
    """Run a command that fails with a code; return what it printed."""
    left, text = run(*command)
    assert (left, f"error[{code}]" in text) == (status, True), (left, text)
    return " ".join(text.split())


def works(run: Run, *command: str | Path) -> str:
    """Run a command that succeeds; return what it printed."""
    status, text = run(*command)
    assert status == 0, (command, text)
    return text


def repaired(run: Run, code: str, *command: str | Path) -> str:
    """Fail with a code, run the remedy, succeed with the command; return what failing printed."""
    text = fails(run, code, *command)
    works(run, *remedy_of(text))
    works(run, *command)
    return text
