"""Index files that have not changed are revalidated: the server sends them once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.tree import BlobTree
from modpkg.manifest.config import RegistrySettings, Settings
from modpkg.registry.reader import Registry
from modpkg.registry.validator import SETTLED
from tests.registry.servers import Handler, Server, serve
from tests.resolve.universe import Universe


def with_etags(handler: Handler, number: int) -> bool:
    """Answer as servers with ETags do."""
    data = handler.file()
    if data is None:
        return False
    tag = f'"{hashlib.sha256(data).hexdigest()}"'
    if handler.headers.get("If-None-Match") == tag:
        handler.answer(304, ETag=tag)
    else:
        handler.answer(200, data, ETag=tag)
    return True


def with_dates(handler: Handler, number: int) -> bool:
    """Answer as servers with dates do, such as Python's own."""
    data = handler.file()
    if data is None:
        return False
    path = handler.server.state.folder / handler.path.lstrip("/")
    date = handler.date_time_string(path.stat().st_mtime)
    if handler.headers.get("If-Modified-Since") == date:
        handler.answer(304, Last_Modified=date)
    else:
        handler.answer(200, data, Last_Modified=date)
    return True


@pytest.fixture
def universe(tmp_path: Path) -> Universe:
    universe = Universe(tmp_path / "registry")
    universe.add("a", "1")
    return universe


@pytest.fixture
def server(universe: Universe) -> Iterator[Server]:
    with serve(universe.folder) as server:
        server.fault = with_etags
        yield server


def versions(server: Server, store: Path, settings: Settings | None = None) -> list[str]:
    registry = Registry(server.url, cache=BlobTree(store), settings=settings)
    return [line.version for line in registry.index("a")]


def conditions(server: Server) -> list[str | None]:
    return [
        seen.headers.get("if-none-match") or seen.headers.get("if-modified-since")
        for seen in server.seen
        if seen.path == "/index/a.jsonl"
    ]


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_an_unchanged_file_is_sent_once_and_a_changed_one_again(
    universe: Universe, server: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert versions(server, store) == ["1"]
    assert versions(server, store) == ["1"]
    universe.add("a", "2")
    assert versions(server, store) == ["1", "2"]
    assert versions(server, store) == ["1", "2"]
    first, second, third, fourth = conditions(server)
    assert first is None
    assert second == third != fourth is not None


def test_a_date_stands_for_a_file_that_has_settled(
    universe: Universe, server: Server, tmp_path: Path
) -> None:
    server.fault = with_dates
    store, index = tmp_path / "store", universe.folder / "index" / "a.jsonl"
    age(index, -60)  # changed a moment ago for as long as this test takes
    assert versions(server, store) == versions(server, store) == ["1"]
    assert conditions(server) == [None, None]  # it could change within the same second
    age(index, SETTLED.total_seconds() + 60)
    versions(server, store)
    versions(server, store)
    assert conditions(server)[-1] is not None
    universe.add("a", "2")
    assert versions(server, store) == ["1", "2"]


@pytest.mark.parametrize("what", ["a.jsonl", "a.jsonl.validator"])
@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff"])
def test_a_damaged_copy_is_fetched_anew(
    server: Server, tmp_path: Path, what: str, damage: bytes
) -> None:
    store = tmp_path / "store"
    versions(server, store)
    (cached,) = store.glob(f"index-cache/*/index/{what}")
    cached.write_bytes(damage)
    assert versions(server, store) == ["1"]
    assert conditions(server) == [None, None]
    assert versions(server, store) == ["1"]


def test_an_endless_tag_is_ignored(server: Server, tmp_path: Path) -> None:
    def strange(handler: Handler, number: int) -> bool:
        handler.answer(200, handler.file() or b"", ETag='"' + "x" * 600 + '"')
        return True

    server.fault = strange
    assert versions(server, tmp_path / "store") == versions(server, tmp_path / "store") == ["1"]
    assert conditions(server) == [None, None]


def test_a_mirrors_tag_is_not_sent_to_the_registry(
    universe: Universe, server: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with serve(universe.folder) as mirror:
        mirror.fault = with_etags
        settings = Settings({server.url: RegistrySettings(mirrors=(mirror.url,))})
        assert versions(server, store, settings) == ["1"]
        assert versions(server, store, settings) == ["1"]
        assert [condition is None for condition in conditions(mirror)] == [True, False]
    assert versions(server, store) == ["1"]
    assert conditions(server) == [None]
