"""What an index takes back of what it said before: a version, a release, a yank.

A registry only ever adds releases, and yanks them. One whose index goes back was replaced by an
earlier copy of itself, repaired, or taken over: it is not refused, but reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.digests import digest_bytes
from modpkg.core.errors import InstallError, ModpkgError
from modpkg.core.files import write_atomically
from modpkg.core.names import listed, parse_version
from modpkg.core.records import IndexLine
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal
from modpkg.registry.index import parse_index
from modpkg.registry.revalidation import write_changed
from modpkg.registry.source import FileMissing

SHOWN = 5
"""Versions that one sentence names."""


class _LastSeen(Struct):
    """The digests of index files as they were when they were read last, by name."""

    digests: dict[str, str]


class IndexMemory:
    """Copies of a registry's index files, as they were when they were read before.

    Of a registry in a folder their digests are in one file more: as long as an index is as it was,
    its copy is not read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._summary = folder.with_name("seen.json")
        self._names: frozenset[str] | None = None
        self._digests: dict[str, str] = {}
        self._noted: dict[str, bytes] = {}
        self._lost: dict[str, str] = {}
        self._unreported: set[str] = set()
        self.same: set[str] = set()
        """Names of which the copy is what was read."""

    def note(self, name: str) -> None:
        """Remember the copy of an index file that is about to be read, and perhaps replaced."""
        if self._names is None:  # of many registries there is none: one look for all names
            files = self._folder.iterdir() if self._folder.is_dir() else ()
            self._digests = self._read_summary()
            self._names = frozenset(file.name for file in files)
        if name not in self._digests:
            self._note_copy(name)

    def _note_copy(self, name: str) -> None:
        if f"{name}.jsonl" in (self._names or ()) and name not in self._noted:
            with suppress(OSError):
                self._noted[name] = read_file(self._path(name))

    def taken_back(
        self,
        name: str,
        registry: str,
        data: bytes,
        now: Iterable[IndexLine],
        expected: str | None = None,
    ) -> list[str]:
        """Return what `taken_back` yields for an index that was read after it was noted.

        ``data`` is the index file, and ``now`` has its lines. A file that is missing is in `lost`.
        """
        known = self._digests.get(name)
        if known is not None and known == digest_bytes(data):
            self.same.add(name)
            return []
        if known is not None:
            self._note_copy(name)  # it is still there: only `keep` replaces it
        earlier = self._noted.pop(name, None)
        if earlier == data:
            self.same.add(name)
            return []
        if earlier is None:
            return []
        with suppress(ModpkgError):  # the copy has two lines of one version
            before = parse_index(earlier, name, registry)
            if not data:
                self._lost[name] = _in_order([line.version for line in before])
                self._unreported.add(name)
                return []
            return list(taken_back(name, registry, before, now, expected))
        return []

    def lost(self, name: str) -> str:
        """Return the versions of a module that had an index file, which is missing; else nothing.

        Whoever asks says so, in an error.
        """
        self._unreported.discard(name)
        return self._lost.get(name, "")

    def unreported(self, registry: str) -> Iterator[str]:
        """Yield a sentence for each module that is lost, unless somebody has asked for it."""
        for name in sorted(self._unreported):
            yield _gone(name, registry, self.lost(name))

    def keep(self, names: Iterable[str], read: Callable[[str], bytes]) -> None:
        """Keep copies of the index files that can be ``read``, by name."""
        digests = {}
        for name in names:
            with suppress(OSError, FileMissing, ModpkgError):  # it is only a help
                data = read(name)
                write_changed(self._path(name), data)
                digests[name] = digest_bytes(data)
        if digests:  # after the copies: none is older than what is said of it
            with suppress(OSError, InstallError):
                write_atomically(self._summary, seal(_LastSeen(self._read_summary() | digests)))

    def _read_summary(self) -> dict[str, str]:
        try:
            return unseal(read_file(self._summary), _LastSeen).digests
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"


def taken_back(
    name: str,
    registry: str,
    before: Iterable[IndexLine],
    now: Iterable[IndexLine],
    expected: str | None = None,
) -> Iterator[str]:
    """Yield a sentence for each kind of change that an index never makes.

    Args:
        name: The module.
        registry: The registry, as it is shown.
        before: What its index had when it was read before.
        now: What it has.
        expected: The version of which whoever asks tells by himself that it was lost or replaced.
    """
    after = {parse_version(line.version): line for line in now}
    gone, replaced, unyanked = [], [], []
    for line in before:
        same = after.get(parse_version(line.version))
        is_told = expected is not None and parse_version(expected) == parse_version(line.version)
        if same is None:
            gone += [] if is_told else [line.version]
        elif same.release != line.release:
            replaced += [] if is_told else [line.version]
        elif line.yanked is not None and same.yanked is None:
            unyanked.append(f"{line.version} ({line.yanked or 'no reason was given'})")
    if gone:
        yield _gone(name, registry, _in_order(gone))
    if replaced:
        yield (
            f"the registry {registry} has another release as {name} {_in_order(replaced)} than "
            "when it was read before"
        )
    if unyanked:
        yield f"the registry {registry} has taken back the yank of {name} {_in_order(unyanked)}"


def _gone(name: str, registry: str, versions: str) -> str:
    return (
        f"the registry {registry} had {name} {versions} and does not have it any more: "
        "its index went back behind what was read of it before"
    )


def _in_order(versions: list[str]) -> str:
    """Return versions, some with a reason behind them, by version."""
    return listed(versions, SHOWN, key=lambda text: parse_version(text.partition(" ")[0]))
