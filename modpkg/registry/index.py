"""Index files, with one line per release: parsing and formatting, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct
from packaging.version import Version

from modpkg.core.errors import RecordError
from modpkg.core.names import module_name, parse_version, read_requirement
from modpkg.core.printable import in_sentence
from modpkg.core.records import SPEC, IndexLine, canonical_json

_DECODER = msgspec.json.Decoder(IndexLine)


class _SpecOnly(Struct):
    spec: int = SPEC


def parse_index(
    data: bytes, name: str, source: str, warn: Callable[[str], None] | None = None
) -> list[IndexLine]:
    """Return the releases of an index file, in its order.

    A line that is malformed, or of a newer spec version, is skipped, with one warning for all: it
    must not make the whole module unusable.

    Raises:
        RecordError: Two lines are of the same version.
    """
    lines = _parse_at_once(data, name)
    if lines is None:
        lines = _parse_each(data, name, source, warn or (lambda message: None))
    numbers: dict[Version, int] = {}
    for number, line in lines.items():
        other = numbers.setdefault(parse_version(line.version), number)
        if other != number:
            raise RecordError(
                "M209",
                what=f"{source}/index/{name}.jsonl",
                kind="index",
                reason=f"lines {other} and {number} are both of version "
                f"{parse_version(line.version)}, and a version is published only once",
                remedy="ask the registry's owner to repair it",
            )
    return list(lines.values())


def _parse_at_once(data: bytes, name: str) -> dict[int, IndexLine] | None:
    """Return the lines by number; None if any is malformed."""
    try:
        lines = _DECODER.decode_lines(data)
        # Only if there is one newline after each, and none within, are these their numbers.
        between, ends = data.count(b"}\n{"), data.count(b"\n")
        if not data.endswith(b"}\n") or (between + 1, ends) != (len(lines), len(lines)):
            return None
        for line in lines:
            _check(line, name)
    except Exception:
        return None
    return dict(enumerate(lines, 1))


def _parse_each(
    data: bytes, name: str, source: str, warn: Callable[[str], None]
) -> dict[int, IndexLine]:
    """Return the well-formed lines by number, and warn of the others: once, with their number."""
    lines: dict[int, IndexLine] = {}
    first, skipped = "", 0
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = _DECODER.decode(raw)
            _check(line, name)
        except Exception as error:
            skipped += 1
            if skipped == 1:
                first = f"{source}/index/{name}.jsonl:{number}: skipped, {_reason(raw, error)}"
        else:
            lines[number] = line
    if skipped > 1:
        first += f"; {skipped - 1:,} other line{'s' * (skipped > 2)} of the file skipped too"
    if skipped:
        warn(first)
    return lines


def _reason(raw: bytes, error: Exception) -> str:
    newer = _spec_of(raw)
    if newer > SPEC:
        return f"it follows spec version {newer}, newer than {SPEC}: update modpkg to use it"
    return str(in_sentence(str(error)))


def _check(line: IndexLine, name: str) -> None:
    """Raise an error if a line would break the resolver."""
    if line.spec > SPEC:
        raise ValueError(f"it follows spec version {line.spec}")
    parse_version(line.version)
    if line.name != name:
        raise ValueError(f"its name is {line.name!r}")
    for text in line.requires:
        read_requirement(text)
    for extra, group in line.extras.items():
        module_name(extra)
        for text in group:
            read_requirement(text)


def _spec_of(raw: bytes) -> int:
    try:
        return msgspec.json.decode(raw, type=_SpecOnly).spec
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0


def format_index(lines: Iterable[IndexLine]) -> bytes:
    """Return the index file of these releases, oldest version first."""
    ordered = sorted(lines, key=lambda line: parse_version(line.version))
    return b"".join(canonical_json(line) + b"\n" for line in ordered)
