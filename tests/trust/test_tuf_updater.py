"""python-tuf's client reads what modpkg signs: an implementation that shares no code with it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from modpkg.trust.private_key import new_key, read_key
from tests.trust.signed_registry import HostileSource, SignedRegistry, read
from tests.trust.test_signed_index import signed_by

URL = "https://models.example/"


class Fetcher(FetcherInterface):
    """Reads what a server shows."""

    def __init__(self, source: HostileSource) -> None:
        self.source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        from modpkg.registry.source import FileMissing

        try:
            yield self.source.read(url.removeprefix(URL))
        except FileMissing:
            raise DownloadHTTPError("missing", 404) from None


class OtherReader:
    """Somebody who reads a registry with python-tuf, and remembers what he saw."""

    def __init__(self, source: HostileSource, folder: Path, now: datetime.datetime) -> None:
        self.source = source
        self._folder = folder
        self._now = now
        self._first = source.read("tuf/1.root.json")
        folder.mkdir()

    def read(self, name: str) -> bytes | None:
        updater = Updater(
            str(self._folder),
            URL + "tuf/",
            str(self._folder),
            URL,
            fetcher=Fetcher(self.source),
            config=UpdaterConfig(prefix_targets_with_hash=False),
            bootstrap=self._first,
        )
        updater._trusted_set.reference_time = self._now
        file = updater.get_targetinfo(f"index/{name}.jsonl")
        return None if file is None else Path(updater.download_target(file)).read_bytes()


@pytest.fixture
def registry(tmp_path: Path) -> SignedRegistry:
    made = SignedRegistry(tmp_path / "registry")
    new_key(tmp_path / "person.pem", "ecdsa-p256", None)
    made.people[0] = read_key(tmp_path / "person.pem", str)  # of each kind there is one
    made.write_root(2)
    return made


def test_both_take_what_is_published(registry: SignedRegistry, tmp_path: Path) -> None:
    source = HostileSource(registry.folder)
    other = OtherReader(source, tmp_path / "other", registry.clock())
    for data in (b"one\n", b"one\ntwo\n"):
        registry.publish("words", data)
        assert other.read("words") == data
        assert read(source, registry.clock) == data
    assert other.read("missing") is None
    registry.online = registry.people[2]
    registry.write_root(3)
    registry.writer = registry.opened()
    registry.writer.sign_all(bits=2)
    assert other.read("words") == data


@pytest.mark.parametrize("name", ["timestamp", "3.snapshot", "1.targets", "3.index-0"])
@pytest.mark.parametrize("attack", ["key", "old", "expired"])
def test_both_refuse_the_same(
    registry: SignedRegistry, tmp_path: Path, name: str, attack: str
) -> None:
    source = HostileSource(registry.folder)
    other = OtherReader(source, tmp_path / "other", registry.clock())
    path = registry.folder / "tuf" / f"{name}.json"
    before = path.read_bytes() if path.exists() else b""
    registry.publish("words", b"one\n")
    if attack == "key":
        source.shown[f"tuf/{name}.json"] = signed_by(7, path)
    elif attack == "expired":
        expired = {"expires": "2026-11-28T11:59:59Z"}
        source.shown[f"tuf/{name}.json"] = signed_by(9, path, **expired)
    elif before:
        assert other.read("words") == b"one\n"
        assert read(source, registry.clock) == b"one\n"
        source.shown[f"tuf/{name}.json"] = before
        if name == "1.targets":
            return  # it is the same file
    else:
        source.shown[f"tuf/{name}.json"] = (
            registry.folder / "tuf" / f"1.{name.partition('.')[2]}.json"
        ).read_bytes()
    with pytest.raises(RepositoryError):
        other.read("words")
    with pytest.raises(Exception, match="M56|tuf/"):
        read(source, registry.clock)
