"""Output on the terminal: lines, JSON, errors and progress."""

from __future__ import annotations

import codecs
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec
from msgspec import Struct

from modpkg.cli.everywhere import chosen
from modpkg.core.errors import ModpkgError
from modpkg.core.files import human_bytes
from modpkg.core.printable import bounded, json_ascii, one_line, printable_styled
from modpkg.core.progress import Progress
from modpkg.core.redacted import redacted

_bars: list[TerminalProgress] = []
"""Those with a bar on the terminal; it is removed before anything else is printed."""


def _close_bars() -> None:
    for progress in _bars:
        progress.close()


def say(text: str = "") -> None:
    """Print a line on standard output."""
    _close_bars()
    click.echo(printable_styled(text), color=_colour(sys.stdout))


def tell(text: str = "") -> None:
    """Print a line about what was done, or can be done next; ``-q`` leaves it out."""
    if not chosen.quiet:
        say(text)


def note(text: str) -> None:
    """Print a line on standard error; ``-q`` leaves it out."""
    if not chosen.quiet:
        _print_error(text)


def warn(text: str) -> None:
    """Print a warning on standard error, once; ``-qq`` leaves it out."""
    if chosen.quiet < 2 and text not in chosen.warned:
        chosen.warned.add(text)
        _print_error(f"{click.style('warning', fg='yellow', bold=True)}: {text}")


def _print_error(text: str) -> None:
    _close_bars()
    click.echo(printable_styled(redacted(bounded(text))), err=True, color=_colour(sys.stderr))


def strong(text: str) -> str:
    return click.style(text, bold=True)


def faint(text: str) -> str:
    return click.style(text, dim=True)


def a_role(role: str) -> str:
    """Return a role of an account with its article."""
    return f"an {role}" if role == "owner" else f"a {role}"


def good(text: str) -> str:
    return click.style(text, fg="green")


def bad(text: str) -> str:
    return click.style(text, fg="red", bold=True)


def _colour(stream: Any) -> bool | None:
    """Return what ``--color`` chose, else False under NO_COLOR and True under FORCE_COLOR.

    None is for colours on terminals only.
    """
    if chosen.color is not None:
        return chosen.color
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


JSON_SCHEMA = 1
"""Version of the documents that ``--json`` prints; see ``docs/json.md``."""


def print_json(document: Struct) -> None:
    """Print what a command found as indented JSON; `modpkg.cli.documents` lists the shapes."""
    print_object({"schema": JSON_SCHEMA, **msgspec.to_builtins(document, enc_hook=str)})


def print_object(schema: Mapping[str, Any]) -> None:
    """Print an object as indented JSON; characters that a terminal obeys are escaped.

    JSON is UTF-8: into a pipe of another encoding, as Windows has, goes ASCII.
    """
    _close_bars()
    text = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(json_ascii(text, whole=codecs.lookup(encoding).name != "utf-8"))


class FailureReason(Struct, frozen=True):
    """What went wrong."""

    code: str
    """As ``M304``; it keeps its meaning."""
    message: str
    """For people; it may change."""


class Failure(Struct, frozen=True):
    """What any command prints when it fails."""

    error: FailureReason


def show_error(error: ModpkgError, *, as_json: bool) -> None:
    """Print an error on standard error, or as JSON on standard output."""
    if as_json:
        print_json(Failure(FailureReason(error.code, str(error))))
    else:
        _print_error(f"{bad(f'error[{error.code}]')}: {error}")


def counted(count: int, thing: str, things: str = "") -> str:
    """Return a count with its noun, as in "1 module" or "2 modules"; ``things`` are several."""
    return f"{count} {thing}" if count == 1 else f"{count} {things or f'{thing}s'}"


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> None:
    """Print aligned columns with a bold head; each cell is one line."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for number, row in enumerate([head, *rows]):
        line = "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        say(strong(line) if number == 0 else line)


class TerminalProgress(Progress):
    """Progress on standard error.

    On a terminal, a bar for stages that take over half a second, with rate and remaining time if
    bytes are counted. Elsewhere, a line for each module that was fetched. ``-q`` leaves both out;
    ``-v`` gives each stage a line.
    """

    PATIENCE = 0.5
    """Seconds before anything is shown."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._text = ""
        self._begun = time.monotonic()
        self._total: int | None = None
        self._done = 0
        self._lock = threading.RLock()

    def stage(self, text: str) -> None:
        with self._lock:
            self.close()
            self._text, self._total, self._done = one_line(redacted(text)), None, 0
            self._begun = time.monotonic()
            if chosen.verbose:
                note(faint(text))

    def total(self, count: int) -> None:
        self._total = count

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if not self._terminal or chosen.quiet:
                return
            if self._bar is None and time.monotonic() - self._begun > self.PATIENCE:
                self._open()
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done, total=self._total)

    def fetched(self, name: str, version: str, size: int) -> None:
        if not self._terminal:
            with self._lock:
                note(f"Fetched {name} {version} ({human_bytes(size)})")

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn()]
        if self._text.startswith(("Fetching", "Building", "Publishing")):
            columns += [DownloadColumn(), TransferSpeedColumn()]
        console = Console(stderr=True, no_color=True if _colour(sys.stderr) is False else None)
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._text, total=self._total)
        _bars.append(self)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
                _bars.remove(self)

    def warn(self, message: str) -> None:
        with self._lock:
            warn(message)

    def detail(self, text: str) -> None:
        if self._terminal or chosen.verbose:
            with self._lock:
                note(faint(text))

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
