"""Fresh virtual environments, made by uv from the packages that pip finds here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.documents import ROOT


def fresh_environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment of what `constraints.txt` pins, and return its commands' folder.

    Args:
        folder: Where to make it; packages are hard links where uv's cache is on the same disk.
        requirements: What to install, as `uv pip install` takes it.
    """
    uv = [sys.executable, "-m", "uv", "--quiet"]
    pinned = ["--constraint", str(ROOT / "constraints.txt"), *requirements]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--python", str(folder), *pinned],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | package_sources()
        )
        assert done.returncode == 0, done.stderr
    return folder / "bin"


def package_sources() -> dict[str, str]:
    """Return where pip finds packages here, as uv's variables: uv does not read pip's settings."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    variables = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
    }
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # all sources alike, as for pip
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if variable := variables.get(key.rpartition(".")[2]):
            found[variable] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    return found
