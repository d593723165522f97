"""Reading candidates: releases that are proposed, and what was said about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.candidates import CandidateLine, ThreadEntry
from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import InstallError, ModpkgError, NotFound, PublishError, RecordError
from modpkg.core.records import SPEC, canonical_json
from modpkg.registry.index import parse_index
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing

CANDIDATES = "candidates"
"""The folder of a registry that has them."""

L = TypeVar("L", CandidateLine, ThreadEntry)

_CANDIDATES = msgspec.json.Decoder(CandidateLine)
_ENTRIES = msgspec.json.Decoder(ThreadEntry)


class CandidateFile(Struct):
    """What is in ``candidates/<name>.jsonl``."""

    lines: list[CandidateLine]
    """By number."""
    unreadable: list[bytes]
    """Lines that are malformed, or of a newer version of the format."""


class ThreadFile(Struct):
    """What is in ``candidates/<name>/<number>.jsonl``."""

    entries: list[ThreadEntry]
    """In their order."""
    unreadable: list[bytes]


def candidates_path(name: str) -> str:
    """Return the path of the file that lists a module's candidates.

    >>> candidates_path("summarizer")
    'candidates/summarizer.jsonl'
    """
    return f"candidates/{name}.jsonl"


def thread_path(name: str, number: int) -> str:
    """Return the path of what was said about a candidate.

    >>> thread_path("summarizer", 7)
    'candidates/summarizer/7.jsonl'
    """
    return f"candidates/{name}/{number}.jsonl"


def candidate_names(paths: Iterable[str]) -> list[str]:
    """Return the modules that have candidates, by the paths of files.

    >>> candidate_names(["candidates/words.jsonl", "candidates/words/1.jsonl"])
    ['words']
    """
    names = (path.removeprefix(f"{CANDIDATES}/") for path in paths)
    return sorted(
        name[: -len(".jsonl")] for name in names if name.endswith(".jsonl") and "/" not in name
    )


def parse_candidates(data: bytes, name: str, source: str) -> CandidateFile:
    """Return the candidates in a file; a line that cannot be read stands beside them.

    Raises:
        RecordError: Two lines have one number, or there are too many.
    """
    path = f"{source}/{candidates_path(name)}"
    lines, unreadable = _lines(data, _CANDIDATES, path, bounds.CANDIDATES)
    found: dict[int, CandidateLine] = {}
    for raw, one in lines:
        try:
            checked = parse_index(canonical_json(one.line) + b"\n", name, source)
        except ModpkgError:
            checked = []
        if len(checked) != 1:
            unreadable.append(raw)
        elif one.number in found:
            raise RecordError("M465", path=path, reason=f"two lines have the number {one.number}")
        else:
            one.line = checked[0]
            found[one.number] = one
    return CandidateFile([found[number] for number in sorted(found)], unreadable)


def parse_thread(data: bytes, name: str, number: int, source: str) -> ThreadFile:
    """Return what was said about a candidate.

    Raises:
        RecordError: That is too much.
    """
    path = f"{source}/{thread_path(name, number)}"
    lines, unreadable = _lines(data, _ENTRIES, path, bounds.THREAD_ENTRIES)
    return ThreadFile([entry for _, entry in lines], unreadable)


def _lines(
    data: bytes, decoder: msgspec.json.Decoder[L], path: str, most: int
) -> tuple[list[tuple[bytes, L]], list[bytes]]:
    found: list[tuple[bytes, L]] = []
    unreadable: list[bytes] = []
    if data.count(b"\n") > most:
        raise RecordError("M465", path=path, reason=f"it has over {most:,} lines")
    if data.count(b",") > bounds.RECORD_VALUES:
        raise RecordError("M465", path=path, reason=f"it has over {bounds.RECORD_VALUES:,} values")
    for raw in data.split(b"\n"):
        if not raw or raw.isspace():
            continue
        one = _decoded(raw, decoder)
        if one is None or one.spec > SPEC:
            unreadable.append(raw)
        else:
            found.append((raw, one))
    return found, unreadable


def _decoded(raw: bytes, decoder: msgspec.json.Decoder[L]) -> L | None:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def format_candidates(file: CandidateFile) -> bytes:
    """Return the bytes of a file of candidates: by number, then what cannot be read here."""
    ordered = sorted(file.lines, key=lambda one: one.number)
    return _joined([*map(canonical_json, ordered), *file.unreadable])


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def encoded_entry(entry: ThreadEntry) -> bytes:
    """Return an entry as a line of its file, checked as a reader does.

    Raises:
        RecordError: It is not one, or too large.
    """
    try:
        raw = canonical_json(entry)
        _ENTRIES.decode(raw)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise RecordError("M466", reason=decoding_reason(error)) from None
    if len(raw) > bounds.CANDIDATE_REPORT_BYTES:
        reason = f"it has over {bounds.CANDIDATE_REPORT_BYTES >> 20} MiB"
        raise RecordError("M466", reason=reason)
    return raw + b"\n"


def check_candidate_texts(one: CandidateLine) -> None:
    """Check that the texts of a candidate are such that a reader takes them.

    Raises:
        RecordError: One has a control character, or is too long.
    """
    try:
        _CANDIDATES.decode(canonical_json(one))
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise RecordError("M466", reason=decoding_reason(error)) from None


def read_candidates(registry: Registry, name: str) -> list[CandidateLine]:
    """Return the candidates of a module, by number; none where a registry has none.

    Lines that cannot be read are left out, with a warning.

    Raises:
        RecordError: The file is not one of candidates.
        RegistryUnreachable, RegistryError: It cannot be read.
        InstallError: It is read offline, and there is no copy.
    """
    path = candidates_path(name)
    try:
        data = registry.files.read(path, bounds.CANDIDATES_BYTES)
    except FileMissing:
        return []
    file = parse_candidates(data, name, registry.url)
    _tell(registry, path, file.unreadable)
    return file.lines


def read_candidate(registry: Registry, name: str, number: int) -> CandidateLine:
    """Return one candidate.

    Raises:
        NotFound: There is no such one.
        RecordError, RegistryUnreachable, RegistryError: See `read_candidates`.
    """
    found = read_candidates(registry, name)
    for one in found:
        if one.number == number:
            return one
    raise no_such_candidate(name, number, registry.shown, found)


def read_thread(registry: Registry, name: str, number: int) -> list[ThreadEntry]:
    """Return what was said about a candidate, the first first.

    Raises:
        RecordError, RegistryUnreachable, RegistryError: It cannot be read.
    """
    path = thread_path(name, number)
    try:
        data = registry.files.read(path, bounds.THREAD_BYTES)
    except (FileMissing, InstallError):
        return []
    file = parse_thread(data, name, number, registry.url)
    _tell(registry, path, file.unreadable)
    return file.entries


def _tell(registry: Registry, path: str, unreadable: list[bytes]) -> None:
    if unreadable and registry.warn is not None:
        lines = "1 line that is" if len(unreadable) == 1 else f"{len(unreadable)} lines that are"
        registry.warn(f"{registry.url}/{path}: skipped {lines} malformed or of a newer version")


def no_such_candidate(
    name: str, number: int, shown: str, found: Iterable[CandidateLine]
) -> NotFound:
    """Return the error for a number that no candidate of a module has."""
    numbers = [f"{one.label} ({one.line.version}, {one.status})" for one in found][-5:]
    hint = f"; it has {', '.join(numbers)}" if numbers else ""
    return NotFound("M467", label=f"{name}#{number}", registry=shown, hint=hint)


def check_open(one: CandidateLine) -> None:
    """Check that nobody has decided about a candidate yet.

    Raises:
        PublishError: Somebody has.
    """
    if one.status != "open":
        remedy = "submit a new candidate with 'modpkg submit'"
        if one.status == "accepted":
            remedy = f"it is the release {one.line.name}=={one.line.version} now"
        raise PublishError("M468", label=one.label, decision=decision_of(one), remedy=remedy)


def decision_of(one: CandidateLine) -> str:
    """Return what was decided about a candidate, by whom and why, as a clause."""
    reason = f": {' '.join(one.reason.split())}" if one.reason else ""
    return f"was {one.status} by {one.decided_by}{reason}"
