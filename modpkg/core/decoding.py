"""Why JSON is not a record, in words; and the texts in one that can be shown after all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from modpkg.core.errors import InvalidValue
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.printable import one_line

LINE_CHARACTERS = 2000
"""The longest text that is shown to people, as the format has it."""
_AT = lazy_pattern(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<place>.*)`)?", re.DOTALL)
_KINDS = {
    "str": "a text", "int": "a number", "float": "a fraction", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "null", "bytes": "bytes", "date": "a date",
    "datetime": "a time", "time": "a time", "duration": "a span of time", "uuid": "a UUID",
    "decimal": "a decimal number",
}  # fmt: skip
_PARTS = {"str": "characters", "bytes": "bytes", "array": "entries", "object": "entries"}
_COMPARED = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_WRITTEN = {
    "datetime": "a time", "date": "a date", "time": "a time", "timestamp": "a time",
    "duration": "a span of time", "decimal": "a decimal number", "uuid": "a UUID",
    "base64": "in base64",
}  # fmt: skip
_FORMS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`",
        lambda found: f"is {_kinds(found['got'])}, and has to be {_kinds(found['wanted'])}",
    ),
    (r"Expected `(?P<wanted>[^`]*)`", lambda found: f"has to be {_kinds(found['wanted'])}"),
    (
        r"Expected `(?P<kind>\w+)` of (?:length <=|at most length) (?P<most>\d+)(?:, got \d+)?",
        lambda found: (
            f"is longer than {found['most']} characters"
            if found["kind"] == "str"
            else f"has more than {found['most']} {_PARTS[found['kind']]}"
        ),
    ),
    (
        r"Expected `(?P<kind>\w+)` of (?:length >=|at least length) (?P<least>\d+)(?:, got \d+)?",
        lambda found: (
            "is empty"
            if found["least"] == "1"
            else f"has fewer than {found['least']} {_PARTS[found['kind']]}"
        ),
    ),
    (
        r"Expected `array` of length (?P<wanted>\d+(?: to \d+)?)(?:, got \d+)?",
        lambda found: f"is a list of another length than {found['wanted']}",
    ),
    (
        r"Expected `(?:int|float)` (?P<how>[<>]=?) (?P<bound>\S+)",
        lambda found: f"has to be {_COMPARED[found['how']]} {found['bound']}",
    ),
    (r"Expected `str` matching regex '\^\(?sha256.*", lambda _: "is not a digest"),
    (  # `SEVERAL_LINES`, in which line feeds are allowed
        r"Expected `str` matching regex .*u0008.*",
        lambda _: "has a control character or a mark of direction",
    ),
    (
        r"Expected `str` matching regex .*(?:u00|x)00-.*",
        lambda _: (
            "has a line feed, a control character or a mark of direction, or is empty where it "
            "must not be"
        ),
    ),
    (r"Expected `str` matching regex .*", lambda _: "is not written as it has to be"),
    (
        r"Expected `int` that's a multiple of (?P<of>-?\d+)",
        lambda found: f"is no multiple of {found['of']}",
    ),
    (
        r"Expected `(?P<kind>\w+)` with (?P<no>a|no) timezone component",
        lambda found: f"has {'no' if found['no'] == 'a' else 'a'} time zone",
    ),
    (r"Input data was truncated", lambda _: "ends too early"),
    (r"(?:Integer value|Number) out of range", lambda _: "is a number out of range"),
    (r"Object missing required field `(?P<name>[^`]*)`", lambda found: f"has no {found['name']!r}"),
    (
        r"Object contains unknown field `(?P<name>.*)`",
        lambda found: f"has the unknown field {found['name']!r}",
    ),
    (
        r"Invalid (?:enum )?value (?P<value>.*)",
        lambda found: f"is {found['value']}, which is not a known value",
    ),
    (
        r"(?=Invalid|Only|Duration|Timestamp)"
        r".*?\b(?P<kind>(?i:datetime|date|time|timestamp|duration|decimal|uuid|base64))s?\b.*",
        lambda found: f"is not {_WRITTEN[found['kind'].lower()]}",
    ),
)
"""What msgspec says, and what `decoding_reason` does after "it"."""
_UNCLEAN = lazy_pattern("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_SURROGATE = lazy_pattern("[\ud800-\udfff]")  # of no character: JSON in UTF-8 has none


def decoding_reason(error: BaseException) -> str:
    """Return why msgspec could not decode something, without its names of types.

    What is not of msgspec is said as it is.

    >>> decoding_reason(ValueError("Expected `str`, got `int` - at `$.name`"))
    "its 'name' is a number, and has to be a text"
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return f"it has U+{ord(error.object[error.start]):04X}, which is no character"
    if isinstance(error, RecursionError):
        return "it has too many tables and lists inside one another"
    text = str(error)
    match = _AT.fullmatch(text)
    what = text if match is None else match["what"]
    of = "it" if match is None else _named(match["place"] or "", is_key=bool(match["key"]))
    for pattern, said in _FORMS:
        if found := re.fullmatch(pattern, what, re.DOTALL):
            return f"{of} {said(found)}"
    return what if of == "it" else f"{of}: {what}"


def _named(place: str, *, is_key: bool) -> str:
    """Return how the place of a value is named, by its path as msgspec writes that."""
    entry = "[...]"
    depth = 0
    while place.endswith(entry):
        place, depth = place.removesuffix(entry), depth + 1
    its = f"its {place.lstrip('.')!r}" if place else "it"
    return "a key of " * is_key + "an entry of " * depth + its


def _kinds(kinds: str) -> str:
    return " or ".join(_KINDS.get(kind, "something else") for kind in kinds.split(" | "))


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


def check_reason(reason: str) -> None:
    """Check that readers take a reason as it is, so that `clean_texts` would not change it.

    Raises:
        InvalidValue: They would not.
    """
    if bad := _UNCLEAN.search(reason) or _SURROGATE.search(reason):
        problem, remedy = f"has the character U+{ord(bad[0]):04X}", "write it in one line of text"
    elif len(reason) > LINE_CHARACTERS:
        problem = f"has {len(reason):,} characters"
        remedy = f"write it in at most {LINE_CHARACTERS:,}, such as with a link to the rest"
    else:
        return
    raise InvalidValue("M475", problem=problem, remedy=remedy)


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
