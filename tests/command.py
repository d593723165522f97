"""Running the command line as a person does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def modpkg(
    *arguments: str | Path, cwd: Path | None = None, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; with ``check`` it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "modpkg", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done


def modpkg_json(*arguments: str | Path, cwd: Path | None = None) -> Any:
    """Run a command with --json and return what it printed."""
    return json.loads(modpkg(*arguments, "--json", cwd=cwd).stdout)


def refused(*arguments: str | Path, cwd: Path | None = None, status: int = 1) -> str:
    """Run a command that has to fail, and return the sentence it told."""
    done = modpkg(*arguments, cwd=cwd, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr.strip()
