"""Reading a registry's files, and parts of them, from a folder and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.errors import RegistryUnreachable
from modpkg.registry.source import FolderSource, NoRanges, NotThere, Source, open_source
from tests.registry.servers import Server, serve

DATA = bytes(range(256)) * 20_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(DATA)
    with serve(tmp_path / "tree") as running:
        yield running


@pytest.fixture(params=["folder", "http"])
def source(request: pytest.FixtureRequest, server: Server) -> Source:
    return open_source(server.url if request.param == "http" else str(server.folder))


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, None), (0, 1), (7, 7), (7, 9), (4_000_000, None), (1000, 4_000_001), (5_000_000, 6**9)],
)
def test_a_part_of_a_file(source: Source, start: int, stop: int | None) -> None:
    assert b"".join(source.stream("f", start, stop)) == DATA[start:stop]


def test_a_file_that_is_not_there(source: Source) -> None:
    with pytest.raises(NotThere):
        list(source.stream("g", 1, 2))
    with pytest.raises(NotThere):
        source.read("g")


def test_only_the_part_travels(server: Server) -> None:
    list(open_source(server.url).stream("f", 10, 20))
    assert server.seen[-1].headers["range"] == "bytes=10-19"


def test_a_server_without_ranges_is_told_apart(server: Server) -> None:
    server.ranges = False
    source = open_source(server.url)
    for part in [(0, 10), (10, None), (0, len(DATA))]:
        with pytest.raises(NoRanges):
            next(source.stream("f", *part))
    assert b"".join(source.stream("f")) == DATA


def test_an_address_that_is_none() -> None:
    with pytest.raises(RegistryUnreachable, match="could not be read"):
        open_source("gopher://models.example").read("registry.json")
    assert isinstance(open_source("models"), FolderSource)
