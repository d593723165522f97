"""The entries of a log: what an index file says that it did not say before.

An entry is canonical JSON. Reasons are left out: a log is for ever, and they are free text. Of a
private module there is only that something was released, under a digest of its name: nobody reads
the name there, and nobody can pass a release of a public module off as a private one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path, digest_bytes
from modpkg.core.errors import InvalidValue
from modpkg.core.names import parse_version
from modpkg.core.records import SPEC, DigestText, IndexLine, Line, canonical_json
from modpkg.manifest.cutoff import parse_moment
from modpkg.trust.log.tiles import LOG

Action = Literal[
    "publish",
    "yank",
    "unyank",
    "deprecate",
    "undeprecate",
    "remove",
    "transfer",
    "succeed",
    "void",
]
"""``succeed`` says that a signer of a module has named the one after it, and ``void`` that this, or
a release, was logged, and never written."""


class LogEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of a log."""

    spec: int
    action: Action
    at: Annotated[str, Meta(max_length=40)]
    """When it was logged, UTC."""
    name: Annotated[str, Meta(max_length=100)] = ""
    """Left out of a private module."""
    private: DigestText | UnsetType = UNSET
    """Of a private module: the SHA-256 of the log's origin, a line feed and the name."""
    version: Annotated[str, Meta(max_length=100)] = ""
    """Left out where it is about the module, and of a private one."""
    release: DigestText | UnsetType = UNSET
    """The release digest; left out where it is about the module."""
    successor: Line = ""
    """What to use instead of a deprecated release, if the registry says so."""
    owner: Line = ""
    """The account that owns the module from now on, of a transfer."""
    statement: DigestText | UnsetType = UNSET
    """The SHA-256 of the bundle by which a signer of the module names the one after it."""


class LoggedRelease(Struct, frozen=True):
    """``log/releases/<aa>/<hex>.json``: where in the log a release is; its proof is the log's."""

    index: Annotated[int, Meta(ge=0, le=bounds.LOG_ENTRIES)]
    """Of the entry; the first has 0."""
    entry: Annotated[str, Meta(max_length=bounds.LOG_ENTRY_BYTES)]
    """The entry itself."""


def logged_path(release: Digest) -> str:
    """Return the path of what says where a release is in the log.

    >>> logged_path(Digest("sha256:" + "ab" * 32))[:20]
    'log/releases/ab/abab'
    """
    return f"{LOG}/releases/{blob_path(release).removeprefix('blobs/sha256/')}.json"


_LOGGED = msgspec.json.Decoder(LoggedRelease)
"""Made before threads use it: msgspec may crash where several use a record for the first time."""


def parse_logged(data: bytes) -> LoggedRelease:
    """Return what a file says of where a release is in the log.

    Raises:
        ValueError: It is malformed.
    """
    try:
        return _LOGGED.decode(data)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def parse_entry(data: bytes) -> LogEntry:
    """Return the entry of these bytes.

    Raises:
        ValueError: They are none, or one of a newer version.
    """
    try:
        entry = msgspec.json.decode(data, type=LogEntry)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if entry.spec > SPEC:
        raise ValueError(f"it follows spec version {entry.spec}")
    try:
        parse_moment(entry.at)
    except InvalidValue:
        raise ValueError("it does not say when it was logged") from None
    if canonical_json(entry) != data:  # others may read another of two keys
        raise ValueError("it is not canonical JSON, or has what this version does not know")
    return entry


class LoggedStanding(Struct, frozen=True, kw_only=True):
    """What a log has of a release, besides that it was published: what an index line may change."""

    yanked: bool = False
    deprecated: bool = False
    successor: str = ""
    removed: bool = False

    def after(self, entry: LogEntry) -> LoggedStanding:
        """Return it as it is after an entry about the release."""
        change = msgspec.structs.replace
        if entry.action in ("yank", "unyank"):
            return change(self, yanked=entry.action == "yank")
        if entry.action in ("deprecate", "undeprecate"):
            deprecated = entry.action == "deprecate"
            return change(self, deprecated=deprecated, successor=entry.successor)
        return change(self, removed=True, yanked=True) if entry.action == "remove" else self

    def other_than(self, log: LoggedStanding) -> Iterator[str]:
        """Yield what an index, whose standing this is, says and a log does not, or that one says.

        Whoever has removed a release says nothing else of it.
        """
        if self.removed and log.removed:
            return
        for word in ("removed", "yanked", "deprecated"):
            there, logged = getattr(self, word), getattr(log, word)
            if there != logged:
                said = f"is {'' if there else 'not '}{word} in the index"
                yield f"{said}, and the log says otherwise"
        if self.deprecated and log.deprecated and self.successor != log.successor:
            yield (
                f"has the successor {self.successor or '-'} in the index, and "
                f"{log.successor or '-'} in the log"
            )


def logged_standing(line: IndexLine) -> LoggedStanding:
    """Return what a log has to have of a release, by its index line."""
    return LoggedStanding(
        yanked=line.yanked is not None or line.removed is not UNSET,
        deprecated=line.deprecated is not UNSET,
        successor=(line.successor or "")[: bounds.LOG_SUCCESSOR],
        removed=line.removed is not UNSET,
    )


def entries_between(
    before: Iterable[IndexLine], after: Iterable[IndexLine], at: str
) -> Iterator[LogEntry]:
    """Yield the entries for an index file that is replaced by another."""
    known = {parse_version(line.version): line for line in before}
    for line in after:
        same = known.get(parse_version(line.version))
        was = LoggedStanding()
        if same is None or same.release != line.release:
            yield _entry(line, "publish", at)
        else:
            was = logged_standing(same)
        yield from _changes(line, was, logged_standing(line), at)


def _changes(
    line: IndexLine, was: LoggedStanding, now: LoggedStanding, at: str
) -> Iterator[LogEntry]:
    if now.removed:
        if not was.removed:
            yield _entry(line, "remove", at)
        return
    if was.yanked != now.yanked:
        yield _entry(line, "yank" if now.yanked else "unyank", at)
    if (was.deprecated, was.successor) != (now.deprecated, now.successor):
        action: Action = "deprecate" if now.deprecated else "undeprecate"
        yield _entry(line, action, at, now.successor)


def _entry(line: IndexLine, action: Action, at: str, successor: str = "") -> LogEntry:
    return LogEntry(
        spec=SPEC,
        action=action,
        at=at,
        name=line.name,
        version=line.version,
        release=line.release,
        successor=successor,
    )


def private_entry(entry: LogEntry, origin: str) -> LogEntry:
    """Return the entry for a release of a private module, by what it would be of a public one."""
    return LogEntry(
        spec=SPEC,
        action=entry.action,
        at=entry.at,
        private=private_name(origin, entry.name),
        release=entry.release,
    )


def private_name(origin: str, name: str) -> str:
    """Return what a log has in the place of a private module's name."""
    return digest_bytes(f"{origin}\n{name}".encode())


def is_release_of(entry: LogEntry, line: IndexLine, origin: str) -> bool:
    """Return whether an entry says that the release of an index line was published."""
    if entry.action != "publish" or entry.release != line.release:
        return False
    if entry.private is not UNSET:
        return entry.private == private_name(origin, line.name)
    return (entry.name, entry.version) == (line.name, line.version)


def is_void_of(entry: LogEntry, line: IndexLine) -> bool:
    """Return whether an entry says that the release of an index line is void."""
    return (entry.action, entry.name, entry.release) == ("void", line.name, line.release)


def void_entry(name: str, version: str, release: str, at: str) -> LogEntry:
    """Return the entry for a release that was logged, and never came into the index."""
    return LogEntry(spec=SPEC, action="void", at=at, name=name, version=version, release=release)


def transfer_entry(name: str, owner: str, at: str) -> LogEntry:
    """Return the entry for a module that somebody else owns now."""
    return LogEntry(spec=SPEC, action="transfer", at=at, name=name, owner=owner)


def succeed_entry(name: str, statement: str, at: str, action: Action = "succeed") -> LogEntry:
    """Return the entry for a statement by which a signer of a module names the one after it."""
    return LogEntry(spec=SPEC, action=action, at=at, name=name, statement=statement)
