"""Text from outside, made safe to print.

Summaries, reasons, paths and answers of servers are written by others. A terminal obeys what it is
sent: escape sequences move the cursor, rename the window or hide what was printed; bidirectional
overrides show a text in another order than it has; a line feed begins a line that looks like ours.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from modpkg.core.bounds import MESSAGE_CHARACTERS, SHOWN_CHARACTERS
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.redacted import redacted

_INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the direction of text
    "\u200b\u2028\u2029\u2060-\u2064\ufeff\ufff9-\ufffb"  # invisible, or ends a line
    "\U000e0000-\U000e007f"  # tags: invisible copies of ASCII
    "\ud800-\udfff"  # no characters: bytes of a name that is not UTF-8
)
_UNSAFE = lazy_pattern(f"[{_INVISIBLE}]")
_NOT_ASCII = lazy_pattern(r"[^\x20-\x7e\t\n\r]")
_STYLE_OR_UNSAFE = lazy_pattern(rf"(\x1b\[(?:0|1|2|31|32|33)m)|[{_INVISIBLE}]")
"""The styles of `modpkg.cli.output`, which can hide nothing, and what is not safe."""
_BREAKS = lazy_pattern("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")

ONE_LINE = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$(?![\s\S])"
"""A pattern of JSON Schema: text of one line, without control characters or overrides."""
SEVERAL_LINES = ONE_LINE.replace(r"\u0000-\u001f", r"\u0000-\u0008\u000b-\u001f")
"""The same of text that may have several lines, and tabs."""


def printable(text: str) -> str:
    """Return text with each unsafe character written out, as in ``\\x1b``; lines are kept."""
    if text.isprintable():  # as most is; what is unsafe never is
        return text
    return _UNSAFE.sub(_written_out, text)


def printable_styled(text: str) -> str:
    """Return `printable` text that keeps bold, dim, red, green and yellow."""
    if text.isprintable():
        return text
    return _STYLE_OR_UNSAFE.sub(lambda match: match[1] or _written_out(match), text)


def one_line(text: str) -> str:
    """Return text on one line: each line break or tab is a space, what is unsafe is written out."""
    return text if text.isprintable() else printable(_BREAKS.sub(" ", text))


def error_text(error: BaseException) -> str:
    """Return an error of another library for a sentence: its type and text, at most 300 characters.

    >>> error_text(KeyError("head"))
    "KeyError: 'head'"
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def os_reason(error: BaseException) -> str:
    """Return why something failed, of an error of the system without its number and path.

    >>> os_reason(NotADirectoryError(20, "Not a directory", "a"))
    'not a directory'
    """
    text = getattr(error, "strerror", None)
    return text[:1].lower() + text[1:] if text else str(error)


def in_sentence(value: Any, *, lines: bool = False) -> Any:
    """Return a value as it stands in a sentence: text of one bounded line, what is short as it is.

    Secrets in addresses are left out.

    Args:
        value: Anything that a sentence is filled in with.
        lines: Whether the text may have several lines, and any length: it was composed here.
    """
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str):
        try:
            text = str(value)
        except ValueError:  # a number of more digits than Python writes
            return "a number of thousands of digits"
        if len(text) <= SHOWN_CHARACTERS and _UNSAFE.search(text) is None:
            return value
        value = text
    if lines:
        return printable(redacted(value))
    return one_line(_shortened(redacted(value), SHOWN_CHARACTERS))


def bounded(message: str) -> str:
    """Return a message, cut off where it is longer than any that a person reads."""
    return _shortened(message, MESSAGE_CHARACTERS)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def json_ascii(text: str, *, whole: bool = False) -> str:
    """Return a JSON text in which each unsafe character is escaped; its value is the same.

    With ``whole``, all that is not ASCII is escaped.
    """
    return (_NOT_ASCII if whole else _UNSAFE).sub(_json_escape, text)


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
