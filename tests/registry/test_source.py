"""Reading a registry's files, and parts of them, from a folder and over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from modpkg.registry.object_source import ObjectSource
from modpkg.registry.open_source import open_source
from modpkg.registry.source import (
    FileMissing,
    FolderSource,
    RangesUnsupported,
    Source,
)
from tests.raising import raises
from tests.registry.proxy import Fault, FaultyProxy
from tests.registry.servers import Handler, Server, failing, hanging, serve

ROOT = Path(__file__).parents[2]
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


def test_a_missing_file(source: Source) -> None:
    with pytest.raises(FileMissing):
        list(source.stream("g", 1, 2))
    with pytest.raises(FileMissing):
        source.read("g")


def test_only_the_part_travels(server: Server) -> None:
    list(open_source(server.url).stream("f", 10, 20))
    assert server.seen[-1].headers["range"] == "bytes=10-19"


def test_a_server_without_ranges(server: Server) -> None:
    server.ranges = False
    source = open_source(server.url)
    for part in [(0, 10), (10, None), (0, len(DATA))]:
        with pytest.raises(RangesUnsupported):
            next(source.stream("f", *part))
    assert b"".join(source.stream("f")) == DATA


def test_an_invalid_address() -> None:
    with raises("M845", match="and not at 'gopher'"):
        open_source("gopher://models.example").read("registry.json")
    assert isinstance(open_source("models"), FolderSource)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_failed_request_is_retried(server: Server, status: int) -> None:
    server.fault = failing(2, status)
    assert open_source(server.url).read("f") == DATA
    assert len(server.seen) == 3


def test_a_server_is_left_alone_for_as_long_as_it_asks(server: Server) -> None:
    with FaultyProxy(server.url) as proxy:
        busy = Fault(status=429, headers={"Retry-After": "1"})
        proxy.fault = lambda passed: busy if passed.number < 2 else Fault()
        assert open_source(proxy.url).read("f") == DATA
        assert [passed.method for passed in proxy.seen] == ["GET", "HEAD", "GET"]
        assert proxy.times[2] - proxy.times[1] >= 1


def test_a_connection_that_is_closed_is_opened_again(server: Server) -> None:
    def fault(handler: Handler, number: int) -> bool:
        if number < 2:
            handler.hang_up()
        return number < 2

    server.fault = fault
    assert b"".join(open_source(server.url).stream("f", 5)) == DATA[5:]
    assert len(server.seen) == 3


def test_a_server_that_keeps_failing_is_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectSource, "RETRIES", 1)
    server.fault = failing(100, 503)
    with raises("M302", match=r"it failed on f \(status 503\)"):
        ObjectSource(server.url).read("f")


def test_a_silent_server_is_an_error(server: Server) -> None:
    server.fault = hanging(60)
    with raises("M302", match="it did not answer in time"):
        ObjectSource(server.url, patience=timedelta(seconds=0.5)).read("f")
    assert len(server.seen) <= 3


def cutting(after: int, times: int) -> Callable[[Handler, int], bool]:
    """Return a fault: the first answers break off after so many bytes."""

    def fault(handler: Handler, number: int) -> bool:
        if number >= times:
            return False
        handler.give(handler.server.state, cut=after)
        return True

    return fault


@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, None), (1000, 4_000_000)])
def test_an_interrupted_download_is_resumed(
    server: Server, etag: bool, start: int, stop: int | None
) -> None:
    server.etag = etag
    server.fault = cutting(1_500_000, 2)
    assert b"".join(open_source(server.url).stream("f", start, stop)) == DATA[start:stop]
    ranges = [seen.headers.get("range", "bytes=0-").split("=")[1] for seen in server.seen]
    begins = [int(span.split("-")[0]) for span in ranges]
    assert len(begins) == 3
    assert begins == sorted(begins)
    assert begins[1] > start, "what came is not fetched again"


@pytest.mark.parametrize("etag", [True, False])
def test_an_interrupted_download_without_ranges_is_an_error(server: Server, etag: bool) -> None:
    server.ranges, server.etag = False, etag
    server.fault = cutting(1_500_000, 1)
    with raises("M302", match="closed the connection in the middle of f"):
        list(open_source(server.url).stream("f"))


def test_an_interrupted_read_of_a_mutable_file_starts_again(server: Server) -> None:
    server.fault = cutting(1_500_000, 2)
    assert open_source(server.url).read("f") == DATA
    assert [seen.headers.get("range") for seen in server.seen] == [None] * 3


def test_an_object_store_takes_its_credentials_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server.folder / "bucket/models").mkdir(parents=True)
    (server.folder / "bucket/models/f").write_bytes(b"it")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT", server.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    source = open_source("s3://bucket/models")
    assert source.read("f") == b"it"
    assert server.seen[-1].headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    with raises("M302"):
        source.names("index")


def test_threads_import_the_library_together(tmp_path: Path) -> None:
    package = tmp_path / "obstore"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import time\ntime.sleep(0.5)\nfrom obstore import store\n"
    )
    (package / "store.py").write_text("def from_url(*_, **__):\n    return None\n")
    (package / "exceptions.py").write_text("class NotSupportedError(Exception):\n    pass\n")
    script = """
from concurrent.futures import ThreadPoolExecutor
from modpkg.core.errors import RegistryUnreachable
from modpkg.registry.object_source import ObjectSource

source = ObjectSource("http://127.0.0.1:1")

def read():
    try:
        source.read("f")
    except RegistryUnreachable as error:
        assert "NoneType" in str(error), error  # the store that this library returns

with ThreadPoolExecutor(2) as pool:
    parts = [pool.submit(read), pool.submit(lambda: source.store)]
    for part in parts:
        part.result()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
