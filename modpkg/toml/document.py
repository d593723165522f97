"""A TOML text as data with positions, and errors that name the line."""

from __future__ import annotations

from typing import Any

import tomli
from msgspec import Struct

from modpkg.core.bounds import MANIFEST_BYTES
from modpkg.core.errors import ManifestError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.toml.positions import OverLimit, Places, scan
from modpkg.toml.text import BOM

_POSITION = lazy_pattern(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_CLEARER = {
    "Cannot overwrite a value": "a key is given twice",
    "Expected '=' after a key in a key/value pair": "a key needs '=' and a value after it",
    "Illegal character '\\n'": "a string is not closed on its line",
    'Expected "\'"': "a string is not closed",
    "Unterminated string": "a string is not closed",
    "Invalid value": "this is not a value (strings need quotes)",
}
_DECLARED_TWICE = lazy_pattern(r"Cannot declare \((.*?),?\) twice")


class Document(Struct, frozen=True):
    """The data of a TOML text, and the position of each key."""

    data: dict[str, Any]
    places: Places


def decoded(content: bytes, name: str) -> str:
    """Return the text in ``content``.

    Raises:
        ManifestError: It is larger than 1 MiB or not UTF-8; the message names the file `name`.
    """
    if len(content) > MANIFEST_BYTES:
        raise ManifestError(
            "M110", where=name, message="it is larger than 1 MiB, too large to read."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8."
        raise ManifestError("M110", where=f"{name}:{line}", message=message) from None


def read_document(text: str, name: str, *, is_private: bool = False) -> Document:
    """Parse ``text``, with or without a byte order mark.

    Errors about a private one repeat nothing of it.

    Raises:
        ManifestError: `text` is too large, nested too deeply, or not TOML.
    """
    text = text.removeprefix(BOM)
    if len(text) > MANIFEST_BYTES:
        raise ManifestError(
            "M110", where=name, message="it is larger than 1 MiB, too large to read."
        )
    try:
        # Scan first: it refuses nesting and numbers that take tomli long.
        places = scan(text)
    except OverLimit as limit:
        where = f"{name}:{text.count(chr(10), 0, limit.offset) + 1}"
        raise ManifestError("M110", where=where, message=f"the file {limit.problem}.") from None
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        reason = str(error)
        if is_private:
            reason = _DECLARED_TWICE.sub("a table is given twice", reason)
        raise _not_toml(reason, text, name) from None
    except (ValueError, RecursionError) as error:
        message = f"this is not TOML: {error}."
        raise ManifestError("M110", where=name, message=message) from None
    return Document(data, places)


def _not_toml(reason: str, text: str, name: str) -> ManifestError:
    position = _POSITION.search(reason)
    reason = reason[: position.start()] if position else reason
    line, column = text.rstrip().count("\n") + 1, "at the end"
    if position and position[1]:
        line, column = int(position[1]), f"column {position[2]}"
    if twice := _DECLARED_TWICE.match(reason):
        table = twice[1].replace("'", "").replace(", ", ".")
        reason = f"table [{table}] is given twice"
    reason = _CLEARER.get(reason, reason[:1].lower() + reason[1:200])
    return ManifestError(
        "M110", where=f"{name}:{line}", message=f"this is not TOML ({column}): {reason}."
    )
