"""Why JSON is not a record, in words; and the texts in one that can be shown after all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.printable import one_line

LINE_CHARACTERS = 2000
"""The longest text that is shown to people, as the format has it."""
_AT = lazy_pattern(r"(?P<what>.*?)(?: - at `\$(?P<place>.*)`)?", re.DOTALL)
_EXPECTED = lazy_pattern(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_LONGER = lazy_pattern(r"Expected `str` of length <= (?P<most>[0-9]+)")
_LACKS = lazy_pattern(r"Object missing required field `(?P<field>[^`]*)`")
_KINDS = {
    "str": "a text", "int": "a number", "float": "a fraction", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "null",
}  # fmt: skip
_UNCLEAN = lazy_pattern("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def decoding_reason(error: BaseException) -> str:
    """Return why msgspec could not decode something, in words where it has none.

    >>> decoding_reason(ValueError("Expected `str`, got `int` - at `$.name`"))
    "its 'name' is a number, and has to be a text"
    """
    match = _AT.fullmatch(str(error))
    what, place = (match["what"], match["place"]) if match is not None else (str(error), None)
    its = f"its {place.lstrip('.')!r}" if place else "it"
    if found := _EXPECTED.fullmatch(what):
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in found["wanted"].split(" | "))
        return f"{its} is {_KINDS.get(found['got'], found['got'])}, and has to be {wanted}"
    if found := _LONGER.fullmatch(what):
        return f"{its} is longer than {found['most']} characters"
    if found := _LACKS.fullmatch(what):
        return f"{its} has no {found['field']!r}"
    if "matching regex '^sha256" in what:
        return f"{its} is not a digest"
    if r"\\u0008\\u000b" in what:  # of `SEVERAL_LINES`, in which line feeds are allowed
        return f"{its} has a control character or a mark of direction"
    if "matching regex" in what:
        return (
            f"{its} has a line feed, a control character or a mark of direction, or is empty where "
            "it must not be"
        )
    return str(error)


def clean_texts(record: dict[str, Any], fields: Iterable[str]) -> str | None:
    """Make texts of a record such that they can be shown, in place.

    Returns:
        What was wrong with the first of them; None if all are as they have to be.
    """
    problem = None
    for field in fields:
        if (value := record.get(field)) is None:
            continue
        if isinstance(value, list):
            parts = [_cleaned(part) for part in value]
            record[field] = [text for text, _ in parts]
            wrong = next((reason for _, reason in parts if reason), None)
        else:
            record[field], wrong = _cleaned(value)
        if wrong is not None:
            problem = problem or f"its {field!r} {wrong}"
    return problem


def _cleaned(value: Any) -> tuple[Any, str | None]:
    if not isinstance(value, str):
        return value, None
    problem = None
    if bad := _UNCLEAN.search(value):
        problem = f"has the character U+{ord(bad[0]):04X}, which is written out"
        value = one_line(value)
    if len(value) > LINE_CHARACTERS:
        problem = problem or f"is longer than {LINE_CHARACTERS} characters, and is cut off"
        value = value[: LINE_CHARACTERS - 1] + "…"
    return value, problem
