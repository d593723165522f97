"""Index files, with one line per release: parsing and formatting, without I/O."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from sys import intern

import msgspec
from msgspec import UNSET, Struct, UnsetType
from packaging.version import Version

from modpkg.core.bounds import INDEX_LINE_BYTES
from modpkg.core.decoding import LINE_CHARACTERS, clean_texts, decoding_reason
from modpkg.core.errors import RecordError
from modpkg.core.files import human_bytes
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.names import check_requirements, module_name, parse_version
from modpkg.core.printable import ONE_LINE, in_sentence
from modpkg.core.records import SPEC, IndexLine, canonical_json, record_decoder


class _Unmatched(IndexLine, kw_only=True, gc=False):
    """A line of which the texts were not matched with their patterns: `_match` does it for many.

    One by one that takes longer than all the rest of reading a line.
    """

    extras: dict[str, list[str]] | UnsetType = UNSET  # type: ignore[assignment]
    provides: str | None = None
    expects: dict[str, str] | UnsetType = UNSET  # type: ignore[assignment]
    release: str
    published: str = ""
    yanked: str | None = None
    deprecated: str | UnsetType = UNSET
    successor: str | UnsetType = UNSET
    removed: str | UnsetType = UNSET


_UNMATCHED = msgspec.json.Decoder(_Unmatched)
_DIGEST_CHARACTERS = 71
_HEX_DIGITS = b"0123456789abcdef"
_LINE = lazy_pattern(ONE_LINE)
_SHOWN = ("published", "yanked", "deprecated", "successor", "removed")
"""The texts of a line that are shown to people, and that nothing else depends on."""


_NO_EXTRAS: dict[str, list[str]] = {}
_NO_INTERFACES: dict[str, str] = {}


class _SpecOnly(Struct):
    spec: int = SPEC


class _VersionOnly(Struct):
    version: str


_SPEC_ONLY = msgspec.json.Decoder(_SpecOnly)
"""Made before threads use it."""


def parse_index(
    data: bytes,
    name: str,
    source: str,
    warn: Callable[[str], None] | None = None,
    count: Callable[[int], None] | None = None,
) -> list[IndexLine]:
    """Return the releases of an index file, in its order.

    A line that is malformed, or of a newer spec version, is skipped, with one warning for all: it
    must not make the whole module unusable. One of which only a text for people is wrong is used,
    with that text made such that it can be shown; that is reported in the same way.

    Args:
        data: The file.
        name: The module.
        source: The registry, for messages.
        warn: Is called with the warnings.
        count: Is called with the number of requirements so far, and may raise an error.

    Raises:
        RecordError: Two lines are of the same version.
    """
    found = _Lines(name)
    for first, part in _parts(data):
        found.read(part, first)
        if count is not None:
            count(found.requirements)
    if warn is not None:
        for sentence in found.warnings(f"{source}/index/{name}.jsonl"):
            warn(sentence)
    if found.twice is not None:
        one, other, version = found.twice
        raise RecordError(
            "M209",
            what=f"{source}/index/{name}.jsonl",
            kind="index",
            reason=f"lines {one} and {other} are both of version {version}, and a version is "
            "published only once",
            remedy="ask the registry's owner to repair it",
        )
    return found.lines


_PART = 1 << 20
"""Bytes that are decoded at once."""


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield some lines at a time, and the number of the first of them."""
    at, number = 0, 1
    while at < len(data):
        stop = data.rfind(b"\n", at, at + _PART) + 1 or data.find(b"\n", at) + 1 or len(data)
        part = data[at:stop]
        yield number, part
        at = stop
        if at < len(data):
            number += part.count(b"\n")


class _Told:
    """Lines of which something is to be reported: the first, and how many there are."""

    def __init__(self) -> None:
        self.number, self.reason, self.count = 0, "", 0

    def add(self, number: int, reason: Callable[[], str]) -> None:
        if not self.count:
            self.number, self.reason = number, reason()
        self.count += 1

    def sentence(self, path: str, what: str, done: str) -> Iterator[str]:
        if self.count:
            more, many = self.count - 1, self.count > 2
            others = f"; {more:,} other line{'s' * many} of the file {done}" if more else ""
            yield f"{path}:{self.number}: {what}{self.reason}{others}"


class _Lines:
    """The lines of an index file, as far as they were read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lines: list[IndexLine] = []
        self.requirements = 0
        self.twice: tuple[int, int, Version] | None = None
        """Two lines of one version, and the version."""
        self._numbers: dict[Version, int] = {}
        self._skipped, self._cleaned = _Told(), _Told()
        self.unreadable: list[bytes] | None = None
        """The lines that are skipped; None if nobody asks for them."""

    def read(self, data: bytes, first: int) -> None:
        """Add the lines in ``data``, of which the first has this number."""
        found = self._at_once(data)
        if found is not None:
            lines, versions, requirements = found
            numbers = dict(zip(versions, itertools.count(first)))
            if len(numbers) == len(lines) and not (
                self._numbers and self._numbers.keys() & numbers
            ):
                self._numbers |= numbers
                self.lines += lines
                self.requirements += requirements
            else:
                for number, (line, version) in enumerate(zip(lines, versions, strict=True), first):
                    self._add(number, line, version)
            return
        for number, raw in enumerate(data.split(b"\n"), first):
            if raw and not raw.isspace():
                self._read_one(number, raw)

    def warnings(self, path: str) -> Iterator[str]:
        """Yield the warnings."""
        yield from self._skipped.sentence(path, "skipped, ", "skipped too")
        yield from self._cleaned.sentence(path, "", "have such texts too")

    def _at_once(self, data: bytes) -> tuple[list[IndexLine], list[Version], int] | None:
        """Return the lines, their versions, and how many requirements they have.

        It is None if any line is malformed.
        """
        if len(data) > INDEX_LINE_BYTES:
            return None  # it has only one line
        try:
            lines: list[IndexLine] = _UNMATCHED.decode_lines(data)  # type: ignore[assignment]
            # Only if there is one newline after each, and none within, are these their numbers.
            between, ends = data.count(b"}\n{"), data.count(b"\n")
            if not data.endswith(b"}\n") or (between + 1, ends) != (len(lines), len(lines)):
                return None
            versions = [_check(line, self._name) for line in lines]
            requirements = _match(lines)
        except Exception:
            return None
        return None if requirements is None else (lines, versions, requirements)

    def _read_one(self, number: int, raw: bytes) -> None:
        try:
            if len(raw) > INDEX_LINE_BYTES:
                raise ValueError(f"it is longer than {human_bytes(INDEX_LINE_BYTES)}")
            line, problem = _decoded(raw)
            version = _check(line, self._name)
            check_requirements(line.requires)
            for group in line.extras.values():
                check_requirements(group)
        except Exception as error:
            self._skipped.add(number, partial(_reason, raw, error))
            if self.unreadable is not None:
                self.unreadable.append(raw)
        else:
            if problem is not None:
                cleaned = problem
                self._cleaned.add(number, lambda: cleaned)
            self._add(number, line, version)

    def _add(self, number: int, line: IndexLine, version: Version) -> None:
        other = self._numbers.setdefault(version, number)
        if other != number and self.twice is None:
            self.twice = other, number, version
        self.lines.append(line)
        self.requirements += requirements_of(line)


def _match(lines: Sequence[IndexLine]) -> int | None:
    """Return how many requirements lines have if their texts match their patterns; else None.

    If they do, they are lines as any other. They are matched together, since each of the patterns
    allows exactly the texts made of such that it allows: digests in a row, and pieces of one line.

    Raises:
        InvalidValue: A requirement cannot be read.
    """
    digests = [line.release for line in lines]
    texts = [line.published for line in lines]
    requires: list[str] = []
    for line in lines:
        requires += line.requires
        if line.provides is not None:
            digests.append(line.provides)
        if line.yanked is not None:
            texts.append(line.yanked)
        if line.deprecated is not UNSET:
            texts.append(line.deprecated)
        if line.successor:
            texts.append(line.successor)
        if line.removed is not UNSET:
            texts.append(line.removed)
        if line.expects:
            digests += line.expects.values()
        if line.extras:
            for group in line.extras.values():
                requires += group
        line.__class__ = IndexLine  # it has the same fields
    check_requirements(requires)
    matched = (
        _are_digests(digests)
        and _LINE.search("".join(texts)) is not None
        and max(map(len, texts)) <= LINE_CHARACTERS
    )
    return len(requires) if matched else None


def _are_digests(texts: Sequence[str]) -> bool:
    """Return whether texts, at least one, are digests; a pattern takes four times as long.

    >>> _are_digests([f"sha256:{64 * '0'}"]), _are_digests([f"sha256:{64 * 'A'}"])
    (True, False)
    """
    count, together = len(texts), "".join(texts)
    return (
        {*map(len, texts)} == {_DIGEST_CHARACTERS}
        # Each has a colon where it has to be, and there is no other one.
        and together[6::_DIGEST_CHARACTERS] == count * ":"
        and together.count("sha256:") == count
        and together.encode().translate(None, _HEX_DIGITS) == count * b"sh:"
    )


def requirements_of(line: IndexLine) -> int:
    """Return how many requirements a release and its extras have."""
    count = len(line.requires)
    return count + sum(map(len, line.extras.values())) if line.extras else count


def _decoded(raw: bytes) -> tuple[IndexLine, str | None]:
    """Return a line, and what was wrong with a text in it that is shown to people."""
    try:
        return record_decoder(IndexLine).decode(raw), None
    except msgspec.ValidationError:
        # Of what it has besides, nothing is decoded: that would take 25 times as much memory.
        record = msgspec.to_builtins(_UNMATCHED.decode(raw))
        if (problem := clean_texts(record, _SHOWN)) is None:
            raise
        return msgspec.convert(record, IndexLine), problem


def _reason(raw: bytes, error: Exception) -> str:
    newer = _spec_of(raw)
    if newer > SPEC:
        return f"it follows spec version {newer}, newer than {SPEC}: update modpkg to use it"
    return str(in_sentence(decoding_reason(error)))


def _check(line: IndexLine, name: str) -> Version:
    """Return the version of a line; raise an error if it would break the resolver.

    Its requirements are not read.
    """
    if line.spec > SPEC:
        raise ValueError(f"it follows spec version {line.spec}")
    version = parse_version(line.version)
    if line.name != name:
        raise ValueError(f"its name is {line.name[:100]!r}")
    # One text for all lines that have it: of thousands of lines they take as much as the rest.
    line.name, line.version = name, intern(line.version)
    line.extras, line.expects = line.extras or _NO_EXTRAS, line.expects or _NO_INTERFACES
    for extra in line.extras:
        module_name(extra)
    if line.removed is not UNSET and line.yanked is None:
        line.yanked = line.removed
    return version


def _spec_of(raw: bytes) -> int:
    if len(raw) > INDEX_LINE_BYTES:
        return 0
    try:
        return _SPEC_ONLY.decode(raw).spec
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0


def format_index(lines: Iterable[IndexLine], before: bytes = b"") -> bytes:
    """Return the index file of these releases, oldest version first.

    Lines of the file ``before`` that cannot be read here stay behind them: a newer modpkg may have
    written them. One goes if its version is there now.
    """
    ordered = sorted(lines, key=lambda line: parse_version(line.version))
    texts = [canonical_json(line) for line in ordered]
    if ordered and before:
        found = _Lines(ordered[0].name)
        found.unreadable = []
        for first, part in _parts(before):
            found.read(part, first)
        versions = {line.version for line in ordered}
        texts += [raw for raw in found.unreadable if _version_of(raw) not in versions]
    return b"".join(text + b"\n" for text in texts)


def _version_of(raw: bytes) -> str | None:
    try:
        return msgspec.json.decode(raw, type=_VersionOnly).version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
