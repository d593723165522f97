"""Telling a story: commands that are run and shown, facts that are checked, and a page of both."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Untrue(SystemExit):
    """Something that the story says did not come out."""


class Story:
    """Acts, told while they happen; ``page`` is what is to be read of them later."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = folder / "story.json"
        kept = json.loads(self._kept.read_text("utf-8")) if self._kept.exists() else {}
        self.acts: int = kept.get("acts", 0)
        """How many ended, in an earlier run of this folder too."""
        self.page: list[str] = kept.get("page", [])
        self.facts: dict[str, Any] = kept.get("facts", {})
        self._begun = time.monotonic()
        self._environment = {
            **os.environ,
            "MODPKG_HOME": str(folder / "home"),
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "HF_HUB_OFFLINE": "1",
        }
        self._environment.pop("MODPKG_REGISTRY", None)

    def keep(self) -> None:
        """End an act: another run can go on from here."""
        self.acts += 1
        kept = {"acts": self.acts, "page": self.page, "facts": self.facts}
        self._kept.write_text(json.dumps(kept), "utf-8")

    def act(self, title: str, text: str) -> None:
        """Begin an act."""
        passed = time.monotonic() - self._begun
        print(f"\n=== {title}  [{passed:.0f} s]", flush=True)
        self.page += ["", f"## {title}", "", " ".join(text.split())]

    def tell(self, text: str) -> None:
        """Say something between commands."""
        print(f"\n{' '.join(text.split())}", flush=True)
        self.page += ["", " ".join(text.split())]

    def modpkg(self, *arguments: str, status: int = 0, at: str = ".") -> str:
        """Run a command in a folder, show it, and return what it printed.

        Raises:
            Untrue: it ended with another status.
        """
        where = f"{at}" if at != "." else ""
        shown = f"{where}$ modpkg {shlex.join(arguments)}"
        print(f"\n{shown}", flush=True)
        done = self._run(arguments, at)
        text = re.sub(r"[ \t]+$", "", done.stdout + done.stderr, flags=re.MULTILINE).strip("\n")
        text = text.replace(f"{self.folder}/", "").replace(str(self.folder), ".")
        print(text, flush=True)
        if done.returncode != status:
            raise Untrue(f"{shown}: exit status {done.returncode}, and not {status}")
        self.page += ["", "```console", shown, *text.splitlines(), "```"]
        return text

    def ask(self, *arguments: str, at: str = ".") -> Any:
        """Return what a command says in JSON; it is not shown."""
        return json.loads(self._run((*arguments, "--json"), at).stdout)

    def fact(self, name: str, value: float | int | str, holds: bool, says: str) -> None:
        """Keep a fact of the story, and check what is said of it.

        Raises:
            Untrue: it does not hold.
        """
        self.facts[name] = value
        if not holds:
            raise Untrue(f"This is not so: {says}")
        print(f"  checked: {says}", flush=True)
        self.page += ["", f"✓ {says}"]

    def _run(self, arguments: tuple[str, ...], at: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modpkg", *arguments],
            cwd=self.folder / at,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
