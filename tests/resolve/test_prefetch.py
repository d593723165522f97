"""Index files are fetched ahead: each once, many at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from modpkg.core.names import parse_requirement
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from tests.resolve.universe import Universe


class Handler(SimpleHTTPRequestHandler):
    """A slow server that notes what it is asked, and how many times at once."""

    asked: ClassVar[Counter[str]] = Counter()
    now = 0
    most = 0
    guard = threading.Lock()

    def do_GET(self) -> None:
        with Handler.guard:
            Handler.asked[self.path] += 1
            Handler.now += 1
            Handler.most = max(Handler.most, Handler.now)
        time.sleep(0.05)
        super().do_GET()
        with Handler.guard:
            Handler.now -= 1

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    universe = Universe(tmp_path / "registry")
    universe.add("top", "1", *(f"m{number}" for number in range(20)))
    for number in range(20):
        universe.add(f"m{number}", "1", "shared")
    universe.add("shared", "1")
    Handler.asked.clear()
    handler = partial(Handler, directory=str(tmp_path / "registry"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_each_index_is_fetched_once_and_many_at_a_time(address: str) -> None:
    roots = root_needs("top", (), parse_requirement("top").specifier, "")
    found = resolve(roots, Catalog(Registry(address)))
    assert len(found.modules) == 22
    indexes = {path: count for path, count in Handler.asked.items() if path.startswith("/index/")}
    assert len(indexes) == 22
    assert set(indexes.values()) == {1}
    assert Handler.most > 4
