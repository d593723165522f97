"""Statements by which signers of modules name the ones after them, as a log has them.

A registry that shows one to somebody alone, or keeps one from him, shows him what the log for all
does not have, or lacks what it has: so his audit names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import UNSET

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import asked_at_once, bundles_in, successors_path
from modpkg.registry.source import FileMissing
from modpkg.trust.log.difference import LogDifference, VoidRelease
from modpkg.trust.log.entries import LogEntry, succeed_entry

Statements = Mapping[str, Collection[str]]
"""By module, the digests of statements."""


def succession_entries(name: str, before: bytes, after: bytes, at: str) -> Iterator[LogEntry]:
    """Yield the entries for a file of successors that is replaced by another."""
    known = bundles_in(before)
    for bundle in bundles_in(after):
        if bundle not in known:
            yield succeed_entry(name, digest_bytes(bundle), at)


def read_successions(registry: Registry, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the statements that a registry shows of modules.

    Raises:
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    wanted = sorted(set(names))
    files = asked_at_once(
        [partial(_read, registry, name) for name in wanted], is_remote=registry.folder is None
    )
    return {
        name: [digest_bytes(bundle) for bundle in bundles_in(data)]
        for name, data in zip(wanted, files, strict=True)
    }


def _read(registry: Registry, name: str) -> bytes:
    try:
        return registry.files.own(successors_path(name), bounds.SUCCESSORS_BYTES)
    except FileMissing:
        return b""


def signed_names(indexes: Mapping[str, Sequence[IndexLine]]) -> set[str]:
    """Return the modules that somebody has signed: others have no successors that count."""
    return {name for name, lines in indexes.items() if any(one.signed is True for one in lines)}


class LoggedSuccessions:
    """What the entries of a log say of such statements, one after the other."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = {}
        """By module and statement, the number of the first entry."""

    def add(self, number: int, entry: LogEntry) -> Iterator[VoidRelease]:
        """Take an entry that names a statement in; yield what it says to be void.

        Raises:
            ValueError: It says nothing that can be so.
        """
        is_one = entry.private is UNSET and entry.action in ("succeed", "void")
        if entry.statement is UNSET or not is_one:
            raise ValueError("it is not about a statement")
        known = self._numbers.setdefault(entry.name, {})
        if entry.action == "succeed":
            known.setdefault(entry.statement, number)
        elif (before := known.pop(entry.statement, None)) is None:
            raise ValueError("it is about a statement that the log does not have")
        else:
            name, statement = entry.name, entry.statement
            yield VoidRelease(name=name, statement=statement, entry=before, void=number)

    def compared(
        self, registry: Registry, shown: Statements, public: Collection[str]
    ) -> Iterator[LogDifference]:
        """Yield the statements that the log has and a registry does not show, or that one alone.

        Args:
            registry: The registry, of which is read again what it did not show.
            shown: What it showed before the log was read.
            public: The modules whose releases are in the log: of private ones nothing else is.

        Raises:
            What `read_successions` raises.
        """
        yield from self._not_logged({name: shown[name] for name in shown if name in public})
        missed = {one.name for one in self._missing(shown)}
        yield from self._missing({**shown, **read_successions(registry, missed)})

    def _not_logged(self, shown: Statements) -> Iterator[LogDifference]:
        for name, statements in shown.items():
            for statement in statements:
                if statement not in self._numbers.get(name, {}):
                    message = (
                        f"A signer of {name} has named the one after it ({statement}), and the "
                        "log does not have that."
                    )
                    yield LogDifference(
                        kind="successor", message=message, name=name, statement=statement
                    )

    def _missing(self, shown: Statements) -> Iterator[LogDifference]:
        for name, logged in self._numbers.items():
            for statement, number in logged.items():
                if statement not in shown.get(name, ()):
                    message = (
                        f"The log has that a signer of {name} named the one after it "
                        f"({statement}, entry {number}), and the registry does not show it."
                    )
                    yield LogDifference(
                        kind="successor",
                        message=message,
                        name=name,
                        statement=statement,
                        entry=number,
                    )
