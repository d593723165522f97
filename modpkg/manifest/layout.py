"""How a manifest's dependencies are laid out in its text, and the cuts that edits are made of.

TOML can say one table in many ways: under its header, with dotted keys, inline, or in a table of
its own for each key. Each cut returns a new layout, scanned anew, so that none has to know what
the one before it moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import tomli

from modpkg.core.errors import ManifestError
from modpkg.core.filenames import MANIFEST, PYPROJECT
from modpkg.manifest.values import normal
from modpkg.toml.document import read_document
from modpkg.toml.positions import Path, Places, Statement, scan
from modpkg.toml.text import BOM

_OTHERS = ("tool", "project", "build-system")
_OTHER_HEADER = re.compile(r"^\s*\[\[?\s*(?:tool|project|build-system)\b", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """A manifest's text, and where its dependencies stand in it."""

    text: str
    """Without a byte order mark."""
    mark: str
    """The byte order mark, or nothing."""
    original: str
    """The text before any cut."""
    data: dict[str, Any]
    """What it said."""
    places: Places
    root: Path
    """Path of the manifest inside the file."""

    @classmethod
    def of(cls, text: str) -> Layout:
        """Return the layout of a modpkg.toml or of a pyproject.toml; the text tells which.

        Raises:
            ManifestError: ``text`` is not TOML, or a pyproject.toml without ``[tool.modpkg]``.
        """
        mark = BOM if text.startswith(BOM) else ""
        text = text.removeprefix(BOM)
        document = read_document(text, PYPROJECT if _OTHER_HEADER.search(text) else MANIFEST)
        data = document.data
        root: Path = ()
        if isinstance(data.get("tool"), dict) and "modpkg" in data["tool"]:
            root = ("tool", "modpkg")
        elif any(key in data for key in _OTHERS):
            message = "it has no [tool.modpkg]; 'modpkg init' makes one."
            raise ManifestError("M110", where=PYPROJECT, message=message)
        return cls(text, mark, text, data, document.places, root)

    @property
    def file(self) -> str:
        return PYPROJECT if self.root else MANIFEST

    @property
    def path(self) -> Path:
        """Path of the dependencies inside the file."""
        return (*self.root, "dependencies")

    @property
    def dependencies(self) -> dict[str, Any]:
        """What the text said under the dependencies before any cut.

        Raises:
            ManifestError: it said something that is no table.
        """
        table: Any = self.data
        for key in self.path:
            table = table.get(key, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            return table
        where = f"{self.file}:{self.places.line(self.path)}"
        shown = ".".join(map(str, self.path))
        raise ManifestError("M110", where=where, message=f"{shown} has to be a table.")

    def keys_of(self, name: str) -> list[str]:
        """Return the keys that are spellings of ``name``."""
        return [key for key in self.dependencies if normal(key) == name]

    def pair(self, path: Path) -> Statement | None:
        """Return the statement that gives ``path`` its value, where one does."""
        for statement in self.places.statements:
            if statement.path == path and statement.form != "header":
                return statement
        return None

    def cut(self, start: int, end: int, new: str = "") -> Layout:
        """Return the layout with ``new`` in the place of what stands from ``start`` to ``end``."""
        text = self.text[:start] + new + self.text[end:]
        return replace(self, text=text, places=scan(text))

    # Removing -----------------------------------------------------------------------------

    def without(self, key: str) -> Layout:
        """Return the layout without anything that says ``key`` of the dependencies."""
        path = (*self.path, key)
        layout = self
        while (shorter := layout._without_first(path)) is not None:
            layout = shorter
        return layout

    def _without_first(self, path: Path) -> Layout | None:
        for position, statement in enumerate(self.places.statements):
            if not _begins(statement.path, path):
                continue
            if statement.form == "inline":
                return self._without_inline(statement)
            return self._without_lines(statement, self._last_of(position))
        return None

    def _without_lines(self, first: Statement, last: Statement) -> Layout:
        return self.cut(self.text.rfind("\n", 0, first.start) + 1, self._line_end(last.end))

    def _without_inline(self, pair: Statement) -> Layout:
        after = re.compile(r"[ \t]*,[ \t]*").match(self.text, pair.end)
        if after is not None:
            return self.cut(pair.start, after.end())
        before = re.search(r",\s*$", self.text[: pair.start])
        return self.cut(before.start() if before else pair.start, pair.end)

    def _line_end(self, offset: int) -> int:
        """Return where the line ends, its comment and line break included."""
        found = self.text.find("\n", offset)
        return len(self.text) if found < 0 else found + 1

    # Adding -------------------------------------------------------------------------------

    def added(self, key: str, value: str) -> Layout:
        """Return the layout with a new key, the last of the dependencies."""
        return (
            self._added_inline(key, value)
            or self._added_under_header(key, value)
            or self._added_dotted(key, value)
            or self._added_section(key, value)
        )

    def _added_inline(self, key: str, value: str) -> Layout | None:
        for depth in range(len(self.path), 0, -1):
            table = self.pair(self.path[:depth])
            if table is None or not self.text.startswith("{", table.value):
                continue
            new = f"{'.'.join(map(str, (*self.path[depth:], key)))} = {value}"
            inner = [
                statement
                for statement in self.places.statements
                if statement.form == "inline" and table.value < statement.start < table.end
            ]
            if not inner:
                return self.cut(table.value, table.end, f"{{ {new} }}")
            end = max(statement.end for statement in inner)
            return self.cut(end, end, f", {new}")
        return None

    def _added_under_header(self, key: str, value: str) -> Layout | None:
        for position, statement in enumerate(self.places.statements):
            if statement.form == "header" and statement.path == self.path:
                return self._inserted(self._last_of(position), [f"{key} = {value}"])
        return None

    def _added_dotted(self, key: str, value: str) -> Layout | None:
        found: tuple[Statement, Path] | None = None
        for position, statement in enumerate(self.places.statements):
            section = _section(self.places.statements, position)
            is_dotted = len(section) < len(self.path) < len(statement.path)
            if statement.form == "pair" and is_dotted and _begins(statement.path, self.path):
                found = statement, self.path[len(section) :]
        if found is None:
            return None
        last, prefix = found
        return self._inserted(last, [f"{'.'.join(map(str, (*prefix, key)))} = {value}"])

    def _added_section(self, key: str, value: str) -> Layout:
        lines = [f"[{'.'.join(map(str, self.path))}]", f"{key} = {value}"]
        statements = self.places.statements
        owners = ((*self.root, "module"), (*self.root, "app"), self.root)
        for position, statement in enumerate(statements):
            if statement.form == "header" and _begins(statement.path, self.path):
                start = self.text.rfind("\n", 0, statement.start) + 1
                return self.cut(start, start, self._joined([*lines, ""]))
            if statement.form == "header" and statement.path in owners:
                following = statements[position + 1 :]
                if not any(_begins(other.path, self.path) for other in following):
                    return self._inserted(self._last_of(position), ["", *lines])
        blank = [""] if self.text.strip() else []
        return self._inserted(None, [*blank, *lines])

    def _last_of(self, position: int) -> Statement:
        """Return the last statement under the header at ``position``; of a pair, itself."""
        last = self.places.statements[position]
        if last.form == "pair":
            return last
        for statement in self.places.statements[position + 1 :]:
            if statement.form == "header":
                break
            last = statement if statement.form == "pair" else last
        return last

    def _inserted(self, after: Statement | None, lines: list[str]) -> Layout:
        """Return the layout with ``lines`` after a statement's line, or at the end."""
        at = len(self.text) if after is None else self._line_end(after.end)
        is_open = at > 0 and self.text[at - 1] != "\n"
        return self.cut(at, at, (self._newline if is_open else "") + self._joined(lines))

    def _joined(self, lines: list[str]) -> str:
        return "".join(line + self._newline for line in lines)

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    # Checking -----------------------------------------------------------------------------

    def checked(self, wanted: dict[str, Any]) -> str:
        """Return the text, once it is certain that it says what it said, and ``wanted``.

        Raises:
            ManifestError: it does not; the text is laid out in a way that no cut foresaw.
        """
        try:
            after = Layout.of(self.text)
            if after.root == self.root and after.dependencies == wanted:
                before = _others(self.original, self.path)
                if _others(self.text, self.path) == before:
                    return self.mark + self.text
        except ManifestError:
            pass
        message = "the dependencies are laid out in a way that cannot be edited; edit them by hand."
        raise ManifestError("M110", where=self.file, message=message)


def _begins(path: Path, start: Path) -> bool:
    return path[: len(start)] == start


def _section(statements: list[Statement], position: int) -> Path:
    """Return the path of the table under whose header a statement stands."""
    for statement in reversed(statements[:position]):
        if statement.form == "header":
            return statement.path
    return ()


def _others(text: str, path: Path) -> dict[str, Any]:
    """Return all that ``text`` says but for the table at ``path``; floats as they are written."""
    data = tomli.loads(text, parse_float=str)
    table: Any = data
    for key in path[:-1]:
        table = table.get(key, {})
    table.pop(path[-1], None)
    return data
