"""Runs a story: executes and shows commands, checks facts, and writes a page of both."""

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

VERDICTS = (0, 1, 3)
"""Exit statuses of `modpkg vet`."""


class Untrue(SystemExit):
    """A statement of the story does not hold."""


class Story:
    """Acts, printed while they run; ``page`` collects them as Markdown."""

    def __init__(self, folder: Path, kept: str = "story.json") -> None:
        """``kept`` is the name of the file in which completed acts are kept."""
        self.folder = folder
        self._kept = folder / kept
        kept = json.loads(self._kept.read_text("utf-8")) if self._kept.exists() else {}
        self.acts: int = kept.get("acts", 0)
        """Completed acts, including those of an earlier run in this folder."""
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
        """Complete an act: a later run can resume from here."""
        self.acts += 1
        kept = {"acts": self.acts, "page": self.page, "facts": self.facts}
        self._kept.write_text(json.dumps(kept), "utf-8")

    def write_facts(self) -> None:
        """Write the facts to facts.json."""
        text = json.dumps(self.facts, indent=2) + "\n"
        (self.folder / "facts.json").write_text(text, "utf-8")

    def act(self, title: str, text: str) -> None:
        """Start an act."""
        passed = time.monotonic() - self._begun
        print(f"\n=== {title}  [{passed:.0f} s]", flush=True)
        self.page += ["", f"## {title}", "", " ".join(text.split())]

    def tell(self, text: str) -> None:
        """Print a text between commands."""
        print(f"\n{' '.join(text.split())}", flush=True)
        self.page += ["", " ".join(text.split())]

    def become(self, name: str, registry: str) -> None:
        """Let somebody with a home of his own run what follows, at a registry."""
        self._environment["MODPKG_HOME"] = str(self.folder / "homes" / name)
        self._environment["MODPKG_REGISTRY"] = registry

    def modpkg(
        self, *arguments: str, status: int | None = 0, at: str = ".", typed: str | None = None
    ) -> str:
        """Run a command in a folder, show it, and return what it printed.

        ``typed`` is what it reads from standard input.

        Raises:
            Untrue: the exit status is not ``status``, or for None that of no verdict.
        """
        where = f"{at}" if at != "." else ""
        shown = f"{where}$ modpkg {shlex.join(arguments)}"
        print(f"\n{shown}", flush=True)
        done = self._run(arguments, at, typed)
        text = re.sub(r"[ \t]+$", "", done.stdout + done.stderr, flags=re.MULTILINE).strip("\n")
        text = text.replace(f"{self.folder}/", "").replace(str(self.folder), ".")
        print(text, flush=True)
        if done.returncode not in (VERDICTS if status is None else (status,)):
            raise Untrue(f"{shown}: exit status {done.returncode}, and not {status}")
        self.page += ["", "```console", shown, *text.splitlines(), "```"]
        return text

    def ask(self, *arguments: str, at: str = ".") -> Any:
        """Return the JSON output of a command, which is not shown."""
        return json.loads(self._run((*arguments, "--json"), at).stdout)

    def fact(self, name: str, value: float | int | str, holds: bool, statement: str) -> None:
        """Record a fact of the story and check it.

        Raises:
            Untrue: ``holds`` is false.
        """
        self.facts[name] = value
        if not holds:
            raise Untrue(f"This does not hold: {statement}")
        print(f"  checked: {statement}", flush=True)
        self.page += ["", f"✓ {statement}"]

    def _run(
        self, arguments: tuple[str, ...], at: str, typed: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modpkg", *arguments],
            cwd=self.folder / at,
            env=self._environment,
            input=typed or "",
            capture_output=True,
            text=True,
            check=False,
        )
