"""The code blocks of README and docs: what they are, and what becomes of each in the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
CHECKED = ("console", "sh", "python", "toml")
"""Languages of blocks that are run, or say why not."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_MARK = re.compile(r"<!-- ([a-z ]+): (.+?) -->")
_OPENS = re.compile(r"( *)```(\w*)")


class Block(msgspec.Struct, frozen=True):
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its first line, inside of the fence."""
    language: str
    text: str
    marks: dict[str, str]
    """Comments above the fence: ``not run`` with the reason; see tests/e2e/test_docs.py."""

    @property
    def told_by(self) -> str | None:
        """What another test runs to compare its output with the block."""
        return self.marks.get("shown by")

    def transcript(self) -> list[tuple[str, list[str]]]:
        """Return the commands of a console block, each with the lines it prints."""
        return [*_commands(self.text)]


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    marks: dict[str, str] = {}
    place = 0
    while place < len(lines):
        if opened := _OPENS.fullmatch(lines[place]):
            indent, language = opened[1], opened[2]
            end = next(n for n in range(place + 1, len(lines)) if lines[n].strip() == "```")
            text = "\n".join(line.removeprefix(indent) for line in lines[place + 1 : end])
            found.append(Block(page, place + 2, language, text, marks))
            place = end
        if mark := _MARK.fullmatch(lines[place].strip()):
            marks = {**marks, mark[1]: mark[2]}
        elif lines[place].strip() != "":
            marks = {}
        place += 1
    return found


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    command, output = "", []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = re.sub(r"\s+# .*", "", line[2:]), []
        else:
            output.append(line)
    if command:
        yield command, output


def likeness(line: str) -> str:
    """Return a line without what differs from run to run: sizes, times, digests and paths.

    >>> likeness("Published a 1.0 to /srv/models (91.2 kB new).")
    'Published a 1.0 to PATH (SIZE new).'
    """
    line = re.sub(r"sha256:[0-9a-f]{64}|\b[0-9a-f]{12}\b", "DIGEST", line)
    line = re.sub(r"\b\d+(\.\d+)? (B|kB|MB|GB)\b", "SIZE", line)
    line = re.sub(r"\b\d+\.\d+ s\b", "TIME", line)
    line = re.sub(r"\d{4}-\d\d-\d\d(T[\d:]+Z)?", "DATE", line)
    return re.sub(r"(?<![\w.])(/[\w.@+-]+)+/?", "PATH", line).rstrip()


def transcript(output: str) -> dict[str, list[str]]:
    """Return the lines that each command of a transcript printed, in all of its runs."""
    found: dict[str, list[str]] = {}
    for command, lines in _commands(output):
        found.setdefault(command, []).extend(map(likeness, lines))
    return found
