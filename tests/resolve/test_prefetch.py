"""Index files are fetched ahead: each once, many at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from packaging.version import Version

from modpkg.core.names import parse_requirement
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from tests.registry.servers import LoopbackHttpServer
from tests.resolve.universe import Universe


class Handler(SimpleHTTPRequestHandler):
    """A server that notes what it is asked, and may want to be asked for much at once."""

    asked: ClassVar[Counter[str]] = Counter()
    guard = threading.Lock()
    together: ClassVar[threading.Barrier | None] = None
    """Holds back the answers for modules m… until so many have been asked for."""

    def do_GET(self) -> None:
        with Handler.guard:
            Handler.asked[self.path] += 1
        if self.path.startswith("/index/m") and Handler.together is not None:
            Handler.together.wait(300)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    universe = Universe(tmp_path / "registry")
    universe.add("top", "1", *(f"m{number}" for number in range(20)))
    for number in range(20):
        universe.add(f"m{number}", "1", "shared")
    universe.add("shared", "1")
    Handler.asked.clear()
    monkeypatch.setattr(Handler, "together", threading.Barrier(5))
    handler = partial(Handler, directory=str(tmp_path / "registry"))
    server = LoopbackHttpServer(("127.0.0.1", 0), handler)
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
    assert Handler.together is not None
    assert not Handler.together.broken


def asked(folder: Path, *texts: str, locked: dict[str, str] | None = None) -> list[str]:
    """Resolve over HTTP, and return what was asked for, sorted."""
    Handler.asked.clear()
    server = LoopbackHttpServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        roots = []
        for text in texts:
            wanted = parse_requirement(text)
            roots += root_needs(wanted.name, wanted.extras, wanted.specifier, "")
        kept = {name: Version(version) for name, version in (locked or {}).items()}
        registry = Registry(f"http://127.0.0.1:{server.server_address[1]}")
        resolve(roots, Catalog(registry), locked=kept)
    finally:
        server.shutdown()
        server.server_close()
    assert set(Handler.asked.values()) <= {1}
    return sorted(Path(path).stem for path in Handler.asked)


def test_only_what_can_matter_is_asked_for(tmp_path: Path) -> None:
    universe = Universe(tmp_path)
    for number in range(1, 40):
        universe.add("hub", str(number), f"m{number}", extras={"gpu": [f"g{number}"]})
        universe.add(f"m{number}", "1", "deep")
        universe.add(f"g{number}", "1")
    universe.add("hub", "40", "m40", yanked="")
    universe.add("deep", "1")
    assert asked(tmp_path, "hub>=2") == ["deep", "hub", "m39"]
    assert asked(tmp_path, "hub[gpu]<3") == ["deep", "g2", "hub", "m2"]
    assert asked(tmp_path, "hub", locked={"hub": "7", "m7": "1"}) == ["deep", "hub", "m7"]


def test_after_a_conflict_what_is_in_range_is_asked_for(tmp_path: Path) -> None:
    universe = Universe(tmp_path)
    for number in range(1, 20):
        universe.add("hub", str(number), f"m{number}", extras={"gpu": [f"g{number}"]})
        universe.add(f"m{number}", "1", f"base=={number}")
        universe.add("base", str(number))
    found = ["base", "hub", *(f"m{number}" for number in range(15, 20))]
    assert asked(tmp_path, "hub>=15", "base<17") == sorted(found)


def test_what_moves_is_followed_only_while_something_is_held(tmp_path: Path) -> None:
    universe = Universe(tmp_path)
    universe.add("new", "1", "old", extras={"x": ["far"]})
    universe.add("old", "1")
    universe.add("far", "1")
    assert asked(tmp_path, "new", locked={"old": "1"}) == ["new", "old"]
