"""A value of a manifest with its position, validated strictly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from typing import Any, TypeVar

from msgspec import Struct

from modpkg.core.errors import ManifestError, ModpkgError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.printable import one_line
from modpkg.core.redacted import HIDDEN
from modpkg.toml.positions import KeyPath, Places

T = TypeVar("T")

_BARE = lazy_pattern(r"[A-Za-z0-9_-]{1,60}")
_UNSHOWN = lazy_pattern("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u2066-\u2069]")
"""What a text of several lines, such as a prompt, cannot have."""
_TYPES = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (list, "an array"),
    (dict, "a table"),
    (datetime, "a date"),
    (date, "a date"),
    (time, "a time"),
    (type(None), "null"),
)


def hint(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` if one of ``known`` is similar to ``word``, else "".

    >>> hint("licence", ["license", "name"])
    "; did you mean 'license'?"
    """
    if len(word) > 60:
        return ""
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), list(known), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def brief(text: str) -> str:
    """Return ``text`` quoted, shortened if it is long."""
    return repr(text if len(text) <= 60 else text[:60] + "…")


class ManifestSource(Struct, frozen=True):
    """The source of a manifest's data: a file with lines, or a release record without."""

    name: str
    places: Places | None = None
    prefix: KeyPath = ()
    """Path of the manifest inside the file: ``tool.modpkg`` in a pyproject.toml."""
    may_be_secret: Callable[[KeyPath], bool] | None = None
    """Return whether the last key of a path is not to be shown, for a file that has secrets."""

    @property
    def is_record(self) -> bool:
        return self.places is None

    def where(self, path: KeyPath) -> str:
        if self.places is None:
            return self.name
        return f"{self.name}:{self.places.line(self.prefix + path)}"

    def dotted(self, path: KeyPath) -> str:
        """Return ``path`` as TOML has it: ``tool.modpkg.tests[0].metric``."""
        shown = ""
        whole = self.prefix + path
        for number, part in enumerate(whole, 1):
            if isinstance(part, int):
                shown += f"[{part}]"
            else:
                key = part if _BARE.fullmatch(part) else brief(part)
                if self.may_be_secret is not None and self.may_be_secret(whole[:number]):
                    key = HIDDEN
                shown += f".{key}" if shown else key
        return shown


class Node(Struct, frozen=True):
    """A value and its path."""

    source: ManifestSource
    path: KeyPath
    value: Any

    @property
    def where(self) -> str:
        return self.source.where(self.path)

    @property
    def dotted(self) -> str:
        return self.source.dotted(self.path)

    def child(self, key: str | int, value: Any) -> Node:
        return Node(self.source, (*self.path, key), value)

    def fail(self, problem: str) -> ManifestError:
        """Return an error about this key: its path, then ``problem``."""
        end = "" if problem.endswith((".", "?")) else "."
        subject = self.dotted or "the manifest"
        return ManifestError("M110", where=self.where, message=f"{subject} {problem}{end}")

    def wrong_type(self, wanted: str) -> ManifestError:
        actual = next((name for kind, name in _TYPES if isinstance(self.value, kind)), "this")
        return self.fail(f"has to be {wanted}, not {actual}")

    def text(self, most: int = 500) -> str:
        """Return a string of one line."""
        bad = isinstance(self.value, str) and one_line(self.value) != self.value
        return self._text(most, bad, "a line break or a control character")

    def lines(self, most: int = 100_000) -> str:
        """Return a string that may have several lines."""
        bad = (
            isinstance(self.value, str)
            and not self.value.isprintable()
            and _UNSHOWN.search(self.value) is not None
        )
        return self._text(most, bad, "a control character")

    def _text(self, most: int, bad: bool, what: str) -> str:
        if not isinstance(self.value, str):
            raise self.wrong_type("a string")
        if not self.value.strip():
            raise self.fail("is empty; fill it in or leave it out")
        if len(self.value) > most:
            raise self.fail(f"is {len(self.value)} characters long; at most {most} are allowed")
        if bad:
            raise self.fail(f"contains {what}; remove it")
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wrong_type("true or false")
        return self.value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong_type("a number")
        if not abs(self.value) <= 1e30:  # so that NaN fails too
            raise self.fail("has to be a finite number, of at most 1e30")
        return float(self.value)

    def integer(self, least: int, most: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong_type("an integer")
        if not least <= self.value <= most:
            raise self.fail(f"has to be from {least} to {most}")
        return self.value

    def items(self) -> list[Node]:
        """Return the elements of an array."""
        if not isinstance(self.value, list):
            raise self.wrong_type("an array")
        return [self.child(position, value) for position, value in enumerate(self.value)]

    def entries(self) -> dict[str, Node]:
        """Return the values of a table with arbitrary keys."""
        if not isinstance(self.value, dict):
            raise self.wrong_type("a table")
        return {key: self.child(key, value) for key, value in self.value.items()}

    def table(self, keys: tuple[str, ...]) -> Table:
        """Return a table that may have only these keys."""
        entries = self.entries()
        for key, node in entries.items():
            if key not in keys:
                inside = f"[{self.dotted}]" if self.dotted else self.source.name
                known = hint(key, keys) or f"; known are {', '.join(keys)}"
                raise node.fail(f"is not a key of {inside}{known}")
        return Table(self, entries)

    def choice(self, options: tuple[str, ...], noun: str) -> str:
        """Return one of ``options``; ``noun`` describes them in the error."""
        text = self.text()
        if text not in options:
            near = hint(text, options) or f"; known are {', '.join(options)}"
            raise self.fail(f"is {brief(text)}, which is no {noun}{near}")
        return text

    def parsed(self, parse: Callable[[str], T]) -> T:
        """Return a string of one line, parsed by ``parse``."""
        return self.parse_text(parse, self.text())

    def key_parsed(self, parse: Callable[[str], T]) -> T:
        """Return this value's own key, parsed by ``parse``."""
        return self.parse_text(parse, str(self.path[-1]))

    def parse_text(self, parse: Callable[[str], T], text: str) -> T:
        """Return ``text``, parsed; an error names this key."""
        try:
            return parse(text)
        except ModpkgError as error:
            problem = str(error)
        except (ValueError, OverflowError):  # of packaging, for some strings
            problem = f"{brief(text)} cannot be read."
        raise ManifestError("M110", where=self.where, message=f"{self.dotted}: {problem}")


class Table(Struct, frozen=True):
    """A table with known keys."""

    node: Node
    entries: dict[str, Node]

    def get(self, key: str) -> Node | None:
        return self.entries.get(key)

    def need(self, key: str, example: str) -> Node:
        """Return the value of a required key; ``example`` is shown if it is missing."""
        node = self.entries.get(key)
        if node is None:
            missing = self.node.child(key, None)
            raise missing.fail(f"is missing; add it, like: {example}")
        return node
