"""The position of each key of a TOML text, which tomli does not report.

`scan` follows the same grammar and accepts everything that tomli accepts, and more: where it
cannot continue it stops, and tomli then reports the error.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Literal

import tomli
from msgspec import Struct

from modpkg.core.bounds import MANIFEST_DEPTH, NUMBER_CHARACTERS
from modpkg.core.lazy_pattern import lazy_pattern

KeyPath = tuple[str | int, ...]
"""Keys and array positions from the root: ``("tests", 0, "metric")``."""


_BLANKS = lazy_pattern(r"[ \t]*")
_VOID = lazy_pattern(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = lazy_pattern(r"[A-Za-z0-9_-]+")
_BARE_VALUE = lazy_pattern(r"[^,\]}#\r\n]+")
_STRINGS = (
    lazy_pattern(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    lazy_pattern(r"'''(?:[^']|'(?!''))*'{3,5}"),
    lazy_pattern(r'"(?:[^"\\\r\n]|\\.)*"'),
    lazy_pattern(r"'[^'\r\n]*'"),
)


class OverLimit(Exception):
    """The text exceeds a limit on nesting or on the length of numbers."""

    def __init__(self, offset: int, problem: str) -> None:
        self.offset = offset
        self.problem = problem
        super().__init__(problem)


class _Malformed(Exception):
    pass


class Statement(Struct, frozen=True):
    """A table's header, a key with its value, or such a pair inside an inline table."""

    form: Literal["header", "pair", "inline"]
    path: KeyPath
    """Of the table, or of the value."""
    start: int
    value: int
    """Offset of the value; of a header, of its closing bracket."""
    end: int


class Places(Struct):
    """The statements of a text in order, and the offset of every path."""

    text: str
    statements: list[Statement] = []
    offsets: dict[KeyPath, int] = {}
    _newlines: list[int] = []

    def __post_init__(self) -> None:
        self._newlines = [match.start() for match in re.finditer("\n", self.text)]

    def line(self, path: KeyPath) -> int:
        """Return the line of ``path``, or of the innermost table around it that has a position."""
        while path and path not in self.offsets:
            path = path[:-1]
        return self.line_at(self.offsets.get(path, 0))

    def line_at(self, offset: int) -> int:
        return bisect_left(self._newlines, offset) + 1


def scan(text: str) -> Places:
    """Return the positions in ``text``, up to the first syntax error.

    Raises:
        OverLimit: Tables or arrays are nested deeper than `MANIFEST_DEPTH`, or a number has too
            many digits.
    """
    scanner = _Scanner(text)
    try:
        scanner.document()
    except _Malformed:
        pass
    return scanner.places


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.places = Places(text)
        self.at = 0
        self.section: KeyPath = ()
        self.lengths: dict[KeyPath, int] = {}
        """How many ``[[tables]]`` each array has so far."""

    def document(self) -> None:
        while self.skip(_VOID) < len(self.text):
            if self.text[self.at] == "[":
                self.header()
            else:
                self.pair(self.section, "pair")

    def header(self) -> None:
        start = self.at
        bracket = "[[" if self.text.startswith("[[", start) else "["
        self.at += len(bracket)
        *parents, last = self.key()
        path: KeyPath = ()
        for key in parents:
            path += (key,)
            self.places.offsets.setdefault(path, start)
            if path in self.lengths:
                path += (self.lengths[path] - 1,)
        path += (last,)
        if bracket == "[[":
            self.places.offsets.setdefault(path, start)
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path += (self.lengths[path] - 1,)
        close = self.at
        self.expect("]" * len(bracket))
        self.section = path
        # An earlier [path.child] only implied this table; its own header is the better position.
        self.places.offsets[path] = start
        self.places.statements.append(Statement("header", path, start, close, self.at))

    def pair(self, table: KeyPath, form: Literal["pair", "inline"]) -> None:
        start = self.at
        path = table
        for key in self.key():
            path += (key,)
            self.places.offsets.setdefault(path, start)
        self.expect("=")
        value = self.skip(_BLANKS)
        place = len(self.places.statements)
        self.value(path)
        self.places.statements.insert(place, Statement(form, path, start, value, self.at))

    def key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self.skip(_BLANKS)
            parts.append(self.key_part())
            if len(parts) > MANIFEST_DEPTH:
                raise OverLimit(self.at, f"nests tables more than {MANIFEST_DEPTH} deep")
            self.skip(_BLANKS)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def key_part(self) -> str:
        if match := _BARE_KEY.match(self.text, self.at):
            self.at = match.end()
            return match[0]
        for form in _STRINGS[2:]:
            if match := form.match(self.text, self.at):
                self.at = match.end()
                return _unquoted(match[0])
        raise _Malformed

    def value(self, path: KeyPath) -> None:
        if len(path) > MANIFEST_DEPTH:
            raise OverLimit(self.at, f"nests tables or arrays more than {MANIFEST_DEPTH} deep")
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        elif first in ('"', "'"):
            self.string()
        else:
            self.bare_value()

    def array(self, path: KeyPath) -> None:
        self.at += 1
        position = 0
        while not self.text.startswith("]", self.skip(_VOID)):
            element = (*path, position)
            self.places.offsets[element] = self.at
            self.value(element)
            position += 1
            if not self.text.startswith(",", self.skip(_VOID)):
                break
            self.at += 1
        self.expect("]")

    def inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while not self.text.startswith("}", self.skip(_VOID)):
            self.pair(path, "inline")
            if not self.text.startswith(",", self.skip(_VOID)):
                break
            self.at += 1
        self.expect("}")

    def string(self) -> None:
        for form in _STRINGS:
            if match := form.match(self.text, self.at):
                self.at = match.end()
                return
        raise _Malformed

    def bare_value(self) -> None:
        match = _BARE_VALUE.match(self.text, self.at)
        if match is None:
            raise _Malformed
        if len(match[0].rstrip()) > NUMBER_CHARACTERS:
            # Parsing n digits takes n² steps, and Python refuses more than 4300.
            raise OverLimit(self.at, f"has a number of more than {NUMBER_CHARACTERS} characters")
        self.at += len(match[0].rstrip())

    def skip(self, form: re.Pattern[str]) -> int:
        match = form.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return self.at

    def expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self.at):
            raise _Malformed
        self.at += len(mark)


def _unquoted(key: str) -> str:
    if "\\" not in key:
        return key[1:-1]
    try:
        (name,) = tomli.loads(f"{key}=1")
    except tomli.TOMLDecodeError:
        raise _Malformed from None
    return name
