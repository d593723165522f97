"""Index files: one line per release. Parsing and writing, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct
from packaging.version import Version

from modpkg.errors import BadRecord
from modpkg.names import module_name, parse_version, read_requirement
from modpkg.records import SPEC, IndexLine, canonical_json

_DECODER = msgspec.json.Decoder(IndexLine)


class _SpecOnly(Struct):
    spec: int = SPEC


def parse_index(
    data: bytes, name: str, source: str, warn: Callable[[str], None] | None = None
) -> list[IndexLine]:
    """Return the releases of an index file, in its order.

    A malformed line is left out with a warning, and so is one of a newer spec version: one bad
    line must not make a whole module unusable.

    Raises:
        BadRecord: two lines are of one version.
    """
    warn = warn or (lambda message: None)
    lines: list[IndexLine] = []
    places: dict[Version, int] = {}
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        where = f"{source}/index/{name}.jsonl:{number}"
        try:
            line = _DECODER.decode(raw)
            if line.spec > SPEC:
                warn(f"{where}: skipped, it follows spec version {line.spec}, newer than {SPEC}")
                continue
            version = parse_version(line.version)
            if line.name != name:
                raise ValueError(f"it is of {line.name!r}")
            _check_requirements(line)
        except Exception as error:
            newer = _spec_of(raw)
            reason = f"it follows spec version {newer}" if newer > SPEC else str(error)
            warn(f"{where}: skipped, {reason}")
            continue
        if version in places:
            raise BadRecord(
                what=f"{source}/index/{name}.jsonl",
                kind="index",
                reason=f"lines {places[version]} and {number} are both of version {version}; "
                "a version is published once, so the registry has to be mended",
            )
        places[version] = number
        lines.append(line)
    return lines


def _check_requirements(line: IndexLine) -> None:
    """Raise what is wrong with a line's requirements: a resolver must not stumble over them."""
    for extra, group in line.extras.items():
        module_name(extra)
        for text in group:
            read_requirement(text)
    for text in line.requires:
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
