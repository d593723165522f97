"""Signed registries for tests: in a folder, and as a hostile server shows them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modpkg.core import bounds
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.source import FileMissing, FolderSource, too_large
from modpkg.registry.validator import FetchedFile, Validator
from modpkg.trust.lives import Lives
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.private_key import PrivateKey
from modpkg.trust.root_metadata import name_root, new_root, signed_root, write_root
from modpkg.trust.signed_index import SignedIndex
from modpkg.trust.signing_place import SigningPlace

NOW = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
BITS = 2


def key(number: int) -> PrivateKey:
    """Return one of the keys of tests."""
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime.datetime:
        return self.time


class SignedRegistry:
    """A registry in a folder, with its keys: the root's are 1, 2 and 3, and the online one is 9."""

    def __init__(
        self,
        folder: Path,
        *,
        threshold: int = 2,
        bits: int = BITS,
        online: int = 9,
        now: datetime.datetime = NOW,
    ) -> None:
        self.clock = Clock()
        self.clock.time = now
        self.folder = folder
        self.place = FolderPlace(folder)
        self.place.prepare("signed")
        self.people = [key(1), key(2), key(3)]
        self.threshold = threshold
        self.online = key(online)
        self.writer = self.opened()
        self.write_index("words", b"")
        self.write_root(1)
        name_root(self.place, (folder / "tuf" / "1.root.json").read_bytes())
        self.writer.sign_all(bits=bits)
        self.signing = SigningPlace(self.place, self.writer)

    def opened(self, lives: Lives | None = None) -> MetadataWriter:
        """Return what signs, as another server opens it."""
        lives = lives or Lives(DAY, 7 * DAY)
        return MetadataWriter(self.place, [self.online], lives=lives, now=self.clock)

    def write_root(self, version: int, *, life: datetime.timedelta = 365 * DAY) -> None:
        """Write the next root, with the keys as they are."""
        from modpkg.trust.root_metadata import roots_at

        known = roots_at(self.place)
        before = None if known is None else known[1]
        root = new_root(
            version,
            [one.public for one in self.people],
            self.threshold,
            self.online.public,
            self.clock() + life,
        )
        data = signed_root(root, [*self.people, key(1), key(2)], before and before.root)
        write_root(self.place, data, before)

    def write_index(self, name: str, data: bytes) -> None:
        """Write an index file that nothing is signed of."""
        path = self.folder / "index" / f"{name}.jsonl"
        path.write_bytes(data)

    def publish(self, name: str, data: bytes) -> None:
        """Replace an index file as a server does."""

        def edit(change: object) -> None:
            change.read(f"index/{name}.jsonl", bounds.INDEX_BYTES)  # type: ignore[attr-defined]
            change.replace(f"index/{name}.jsonl", data)  # type: ignore[attr-defined]

        self.signing.change(edit)


class HostileSource:
    """A server that shows other files than the registry has."""

    def __init__(self, folder: Path) -> None:
        self.url = "https://models.example"
        self._files = FolderSource(folder)
        self.shown: dict[str, bytes | None] = {}
        """By path, what is shown in place of a file; None for nothing."""
        self.asked: list[str] = []
        self.before_read: Callable[[str], None] = lambda path: None

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        self.asked.append(path)
        self.before_read(path)
        if path not in self.shown:
            return self._files.read(path, most)
        data = self.shown[path]
        if data is None:
            raise FileMissing(path)
        if len(data) > most:
            raise too_large(self.url, path, most)
        return data

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        return FetchedFile(self.read(path, most))

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        yield self.read(path)[start:stop]

    def names(self, folder: str) -> list[str] | None:
        return None

    def keep(self, *paths: str) -> None:
        """Go on showing files as they are now."""
        for path in paths:
            file = Path(self._files.url, path)
            self.shown[path] = file.read_bytes() if file.exists() else None


def reader(source: HostileSource, clock: Clock) -> SignedIndex:
    """Return what a new command reads the registry with."""

    def info() -> bytes | None:
        try:
            return source.read("registry.json")
        except FileMissing:
            return None

    return SignedIndex(source, source, info, now=clock)


def read(source: HostileSource, clock: Clock, name: str = "words") -> bytes | None:
    """Return an index file as a new command reads it."""
    path = f"index/{name}.jsonl"

    def once() -> bytes | None:
        try:
            return source.read(path)
        except FileMissing:
            return None

    return reader(source, clock).checked(path, once(), once)
