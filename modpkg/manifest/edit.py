"""Editing a manifest's dependencies and registries: the edited key changes, every other byte stays.

Edits are cuts in the text, not a parse and a dump, so comments, spacing and line endings stay.
(tomlkit 0.15 loses comments after a table that it replaces, writes LF into a CRLF file, and
refuses a byte order mark and the inline tables of TOML 1.1.) TOML can write one table in many
ways: under its header, with dotted keys, inline, or as a separate table for each key. Each cut
returns a new text, scanned again, so that none has to know what an earlier one moved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tomli

from modpkg.core.errors import InstallError, ManifestError
from modpkg.core.filenames import MANIFEST, PYPROJECT
from modpkg.core.names import module_name
from modpkg.manifest.values import normal
from modpkg.toml.document import read_document
from modpkg.toml.node import hint
from modpkg.toml.positions import KeyPath, Places, Statement, scan
from modpkg.toml.text import BOM

DEPENDENCIES, REGISTRIES, MODULE, TRUST = "dependencies", "registries", "module", "trust"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_OTHERS = ("tool", "project", "build-system")
_OTHER_HEADER = re.compile(r"^\s*\[\[?\s*(?:tool|project|build-system)\b", re.MULTILINE)


def set_dependency(text: str, name: str, value: str | dict[str, Any]) -> str:
    """Return the manifest ``text`` with ``name`` under ``[dependencies]`` set to ``value``.

    A key that is there, under any spelling of the name, keeps its place, spelling and comment; a
    new one comes last. In a pyproject.toml the table is ``[tool.modpkg.dependencies]``.

    Raises:
        InvalidValue: ``name`` is not a module name.
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text)
    key = module_name(name)
    held = edited.keys_of(key)
    wanted = {old: spec for old, spec in edited.entries.items() if old not in held[1:]}
    wanted[held[0] if held else key] = value
    shown = toml_value(value)
    for extra in held[1:]:
        edited = edited.without(extra)
    pair = edited.pair((*edited.path, held[0])) if held else None
    if pair is not None:
        return edited.cut(pair.value, pair.end, shown).checked(wanted)
    if held:
        edited = edited.without(held[0])
    return edited.added(held[0] if held else key, shown).checked(wanted)


def remove_dependency(text: str, name: str) -> str:
    """Return the manifest ``text`` without ``name``, under any spelling, in ``[dependencies]``.

    Raises:
        InvalidValue: ``name`` is not a module name.
        InstallError: ``name`` is not a dependency.
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text)
    key = module_name(name)
    held = edited.keys_of(key)
    if not held:
        near = hint(key, edited.entries).removesuffix("?")
        raise InstallError("M507", name=key, manifest=edited.file, hint=near)
    wanted = {old: spec for old, spec in edited.entries.items() if old not in held}
    for old in held:
        edited = edited.without(old)
    return edited.checked(wanted)


def set_registry(text: str, alias: str, address: str) -> str:
    """Return the manifest ``text`` with a new ``alias`` under ``[registries]``.

    Raises:
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text, REGISTRIES)
    wanted = {**edited.entries, alias: address}
    return edited.added(toml_key(alias), toml_value(address)).checked(wanted)


def add_trust(text: str, pattern: str, signer: str) -> str:
    """Return the manifest ``text`` with a signer more in the entry of a pattern under ``[trust]``.

    The entry stands before those that fit all its names: behind one it would hold for none.

    Raises:
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text, TRUST)
    had = edited.entries.get(pattern, [])
    several = [*dict.fromkeys([*([had] if isinstance(had, str) else had), signer])]
    value = several if len(several) > 1 else several[0]
    wanted = {**edited.entries, pattern: value}
    earlier = list(edited.entries)
    earlier = earlier[: earlier.index(pattern)] if pattern in earlier else earlier
    wider = next((other for other in earlier if fnmatchcase(pattern, other)), None)
    if wider is not None:
        placed = edited.without(pattern).added_before(wider, pattern, toml_value(value))
        return placed.checked(wanted, order=[*earlier[: earlier.index(wider)], pattern])
    if value == had:
        return text
    if (pair := edited.pair((*edited.path, pattern))) is not None:
        return edited.cut(pair.value, pair.end, toml_value(value)).checked(wanted)
    return edited.added(toml_key(pattern), toml_value(value)).checked(wanted)


def set_version(text: str, version: str) -> str:
    """Return the manifest ``text`` with another ``version`` under ``[module]``.

    Raises:
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text, MODULE)
    pair = edited.pair((*edited.path, "version"))
    wanted = {**edited.entries, "version": version}
    if pair is not None:
        return edited.cut(pair.value, pair.end, toml_value(version)).checked(wanted)
    return edited.without("version").added("version", toml_value(version)).checked(wanted)


def set_against(text: str, release: str) -> str:
    """Return the manifest ``text`` with another ``against`` under ``[module]``.

    Raises:
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text, MODULE)
    wanted = {**edited.entries, "against": release}
    return edited.without("against").added("against", toml_value(release)).checked(wanted)


def with_absolute_registries(text: str, folder: Path) -> str:
    """Return the manifest ``text`` with registry paths relative to ``folder`` made absolute.

    Raises:
        ManifestError: ``text`` is not TOML, or cannot be edited.
    """
    edited = EditableText.of(text, REGISTRIES)
    for alias, address in edited.entries.items():
        written = address.get("url") if isinstance(address, dict) else address
        if not isinstance(written, str) or "://" in written:
            continue
        place = str((folder / Path(written).expanduser()).absolute())
        path = (*edited.path, alias)
        if (pair := edited.pair((*path, "url"))) is not None:
            edited = edited.cut(pair.value, pair.end, toml_value(place))
        elif (pair := edited.pair(path)) is not None:
            value = {**address, "url": place} if isinstance(address, dict) else place
            edited = edited.cut(pair.value, pair.end, toml_value(value))
    return edited.mark + edited.text


def toml_value(value: Any) -> str:
    """Return ``value`` as TOML on one line.

    >>> toml_value({"version": ">=1", "extras": ["fast"]})
    '{ version = ">=1", extras = ["fast"] }'
    """
    if isinstance(value, str):
        # A JSON string is a TOML string, except for DEL, which JSON allows.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = [f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)


def toml_key(key: str) -> str:
    """Return ``key`` as TOML, without quotes where possible."""
    return key if _BARE.fullmatch(key) else toml_value(key)


@dataclass(frozen=True)
class EditableText:
    """A manifest's text, and the positions of one of its tables: the dependencies by default."""

    text: str
    """Without a byte order mark."""
    mark: str
    """The byte order mark, or nothing."""
    original: str
    """The text before any cut."""
    data: dict[str, Any]
    """The data of the original text."""
    places: Places
    root: KeyPath
    """KeyPath of the manifest inside the file."""
    table: str = DEPENDENCIES
    """Key of the table that is edited."""

    @classmethod
    def of(cls, text: str, table: str = DEPENDENCIES) -> EditableText:
        """Parse a modpkg.toml or a pyproject.toml; the text shows which.

        Raises:
            ManifestError: ``text`` is not TOML, or a pyproject.toml without ``[tool.modpkg]``.
        """
        mark = BOM if text.startswith(BOM) else ""
        text = text.removeprefix(BOM)
        document = read_document(text, PYPROJECT if _OTHER_HEADER.search(text) else MANIFEST)
        data = document.data
        root: KeyPath = ()
        if isinstance(data.get("tool"), dict) and "modpkg" in data["tool"]:
            root = ("tool", "modpkg")
        elif any(key in data for key in _OTHERS):
            message = "it has no [tool.modpkg]; 'modpkg init' makes one."
            raise ManifestError("M110", where=PYPROJECT, message=message)
        return cls(text, mark, text, data, document.places, root, table)

    @property
    def file(self) -> str:
        return PYPROJECT if self.root else MANIFEST

    @property
    def path(self) -> KeyPath:
        """KeyPath of the table inside the file."""
        return (*self.root, self.table)

    @property
    def entries(self) -> dict[str, Any]:
        """The table's entries in the original text.

        Raises:
            ManifestError: It is not a table.
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
        return [key for key in self.entries if normal(key) == name]

    def pair(self, path: KeyPath) -> Statement | None:
        """Return the statement that gives ``path`` its value, where one does."""
        for statement in self.places.statements:
            if statement.path == path and statement.form != "header":
                return statement
        return None

    def cut(self, start: int, end: int, new: str = "") -> EditableText:
        """Return the text with ``new`` in place of the characters from ``start`` to ``end``."""
        text = self.text[:start] + new + self.text[end:]
        return replace(self, text=text, places=scan(text))

    # Removing -----------------------------------------------------------------------------

    def without(self, key: str) -> EditableText:
        """Return the text without any statement about ``key`` of the table."""
        path = (*self.path, key)
        edited = self
        while (shorter := edited._without_first(path)) is not None:
            edited = shorter
        return edited

    def _without_first(self, path: KeyPath) -> EditableText | None:
        for position, statement in enumerate(self.places.statements):
            if not _begins(statement.path, path):
                continue
            if statement.form == "inline":
                return self._without_inline(statement)
            return self._without_lines(statement, self._last_of(position))
        return None

    def _without_lines(self, first: Statement, last: Statement) -> EditableText:
        return self.cut(self.text.rfind("\n", 0, first.start) + 1, self._line_end(last.end))

    def _without_inline(self, pair: Statement) -> EditableText:
        after = re.compile(r"[ \t]*,[ \t]*").match(self.text, pair.end)
        if after is not None:
            return self.cut(pair.start, after.end())
        before = re.search(r",\s*$", self.text[: pair.start])
        return self.cut(before.start() if before else pair.start, pair.end)

    def _line_end(self, offset: int) -> int:
        """Return where the line ends, its comment and line break included."""
        newline = self.text.find("\n", offset)
        return len(self.text) if newline < 0 else newline + 1

    # Adding -------------------------------------------------------------------------------

    def added(self, key: str, value: str) -> EditableText:
        """Return the text with a new key, the last of the table."""
        return (
            self._added_inline(key, value)
            or self._added_under_header(key, value)
            or self._added_dotted(key, value)
            or self._added_section(key, value)
        )

    def added_before(self, other: str, key: str, value: str) -> EditableText:
        """Return the text with a new key before another one of the table."""
        pair = self.pair((*self.path, other))
        if pair is None:
            return self
        section = _section(self.places.statements, self.places.statements.index(pair))
        written = f"{'.'.join([*map(str, self.path[len(section) :]), toml_key(key)])} = {value}"
        if pair.form == "inline":
            return self.cut(pair.start, pair.start, f"{toml_key(key)} = {value}, ")
        start = self.text.rfind("\n", 0, pair.start) + 1
        return self.cut(start, start, self._joined([written]))

    def _added_inline(self, key: str, value: str) -> EditableText | None:
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

    def _added_under_header(self, key: str, value: str) -> EditableText | None:
        for position, statement in enumerate(self.places.statements):
            if statement.form == "header" and statement.path == self.path:
                return self._inserted(self._last_of(position), [f"{key} = {value}"])
        return None

    def _added_dotted(self, key: str, value: str) -> EditableText | None:
        last_match: tuple[Statement, KeyPath] | None = None
        for position, statement in enumerate(self.places.statements):
            section = _section(self.places.statements, position)
            is_dotted = len(section) < len(self.path) < len(statement.path)
            if statement.form == "pair" and is_dotted and _begins(statement.path, self.path):
                last_match = statement, self.path[len(section) :]
        if last_match is None:
            return None
        last, prefix = last_match
        return self._inserted(last, [f"{'.'.join(map(str, (*prefix, key)))} = {value}"])

    def _added_section(self, key: str, value: str) -> EditableText:
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

    def _inserted(self, after: Statement | None, lines: list[str]) -> EditableText:
        """Return the text with ``lines`` after a statement's line, or at the end."""
        at = len(self.text) if after is None else self._line_end(after.end)
        is_open = at > 0 and self.text[at - 1] != "\n"
        return self.cut(at, at, (self._newline if is_open else "") + self._joined(lines))

    def _joined(self, lines: list[str]) -> str:
        return "".join(line + self._newline for line in lines)

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    # Checking -----------------------------------------------------------------------------

    def checked(self, wanted: dict[str, Any], *, order: Sequence[str] = ()) -> str:
        """Return the text, checked to have ``wanted`` as its table and no other change.

        The table begins with the keys of ``order``.

        Raises:
            ManifestError: The text has a layout that these edits do not support.
        """
        try:
            after = EditableText.of(self.text, self.table)
            begins = list(after.entries)[: len(order)] == list(order)
            if after.root == self.root and after.entries == wanted and begins:
                before = _others(self.original, self.path)
                if _others(self.text, self.path) == before:
                    return self.mark + self.text
        except ManifestError:
            pass
        message = f"the {self.table} are written in a way that cannot be edited; edit them by hand."
        raise ManifestError("M110", where=self.file, message=message)


def _begins(path: KeyPath, start: KeyPath) -> bool:
    return path[: len(start)] == start


def _section(statements: list[Statement], position: int) -> KeyPath:
    """Return the path of the table under whose header a statement stands."""
    for statement in reversed(statements[:position]):
        if statement.form == "header":
            return statement.path
    return ()


def _others(text: str, path: KeyPath) -> dict[str, Any]:
    """Return the data of ``text`` without the table at ``path``; floats stay text."""
    data = tomli.loads(text, parse_float=str)
    table: Any = data
    for key in path[:-1]:
        table = table.get(key, {})
    table.pop(path[-1], None)
    return data
