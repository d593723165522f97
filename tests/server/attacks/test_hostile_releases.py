"""The hostile releases that clients are attacked with, sent to a server to be published.

Deltas that unpack to gigabytes, paths that lead out, records that lie: each is refused with a code,
or it is a sound release; nothing of a refused one stays, and memory stays bounded.
"""

from __future__ import annotations

import hashlib
import json
import resource
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from litestar.testing import TestClient

from modpkg.core.digests import parse_digest
from modpkg.core.tree import BlobTree
from modpkg.release.verify import verify_release
from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import ServerLimits, ServerSettings
from modpkg.server.state import Server
from tests.hostile.inputs import INPUTS
from tests.hostile.registries import _encoded
from tests.hostile.world import World
from tests.server.conftest import token_for
from tests.server.publisher import Publisher

KINDS = ("delta", "record", "paths", "config", "text")
MOST = 500 << 20
"""Bytes by which the process may grow at any moment."""
SENT = [one for one in INPUTS if one.kind in KINDS and not one.heavy]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A registry of which each release is made again."""
    made = World(tmp_path_factory.mktemp("hostile") / "world")
    made.build()
    made.keep("new")
    return made


@pytest.fixture
def server(tmp_path: Path) -> Server:
    folder = tmp_path / "registry"
    limits = ServerLimits(requests_per_second=0, open_sessions=10_000)
    server = Server(ServerSettings(storage=str(folder), name="test", limits=limits))
    server.prepare()
    return server


@pytest.fixture
def client(server: Server) -> Iterator[TestClient[ServerApp]]:
    with TestClient(make_app(server)) as made:
        yield made


def sent(publisher: Publisher, world: World) -> Iterator[Response]:
    """Yield the answers to whatever of a release a publisher can send."""
    file = world.registry / "index" / "evil.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else []
    tree = BlobTree(world.registry)
    for raw in lines[:3]:
        line = json.loads(raw)
        record = tree.read(parse_digest(line["release"]), "a record")
        digests = [
            f"sha256:{path.name}"
            for path in (world.registry / "blobs").rglob("*")
            if path.is_file() and (path.name.encode() in record or path.name in line["release"])
        ]
        blobs = [
            {"digest": one, "size": tree.path(parse_digest(one)).stat().st_size} for one in digests
        ]
        body: dict[str, Any] = {"line": line | {"yanked": None}, "blobs": blobs}
        answer = publisher.request("POST", "sessions", json=body)
        yield answer
        if answer.status_code >= 400:
            continue
        session = answer.json()
        for blob in session["missing"]:
            data = tree.read(parse_digest(blob["digest"]), "a blob")
            yield publisher.put(session["id"], blob["digest"], data)
        yield publisher.commit(session["id"])


def test_hostile_releases_are_refused_and_leave_nothing(
    world: World, server: Server, client: TestClient[ServerApp]
) -> None:
    publisher = Publisher(client, token_for(server, "ada"))
    before, accepted = peak(), 0
    assert len(SENT) > 90
    for given in SENT:
        world.restore("new")
        given.make(world)
        try:
            answers = [*sent(publisher, world)]
        except ValueError:  # the line is no JSON that a program can send
            continue
        if given.kind == "delta":
            assert any(answer.status_code >= 400 for answer in answers), given.name
        for answer in answers:
            assert answer.status_code < 500, (given.kind, given.name, answer.text)
            if answer.status_code >= 400:
                assert answer.json()["code"].startswith("M"), (given.kind, given.name)
        accepted += forget(server)
    assert peak() - before < MOST
    assert 0 < accepted < len(SENT) / 2  # sound ones, such as with an odd summary or config


def zeros(size: int) -> tuple[bytes, str]:
    """Return a sound frame of zeros, of which 128 KiB take four bytes, and their digest."""
    block, count = 128 << 10, size // (128 << 10)
    head = b"\x28\xb5\x2f\xfd\xc0\x38" + struct.pack("<Q", size)
    heads = [struct.pack("<I", last | 1 << 1 | block << 3)[:3] + b"\0" for last in (0, 1)]
    state = hashlib.sha256()
    for _ in range(count):
        state.update(bytes(block))
    return head + heads[0] * (count - 1) + heads[1], f"sha256:{state.hexdigest()}"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is not reset elsewhere")
def test_what_unpacks_from_nothing_takes_no_memory_be_it_sound_or_not(
    world: World, server: Server, client: TestClient[ServerApp]
) -> None:
    """Each is just below what a release may unpack to, and three are committed at once."""
    size = (1 << 30) - (1 << 20)
    sound, digest = zeros(size)
    one_window = b"\x28\xb5\x2f\xfd\xe0" + sound[6:]  # as large as its content
    for payload, answered in ((one_window, 422), (sound, 200)):
        world.restore("new")
        _encoded(payload, [size // 4], digest=digest)(world)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is taken now
        before = peak()
        people = [Publisher(client, token_for(server, f"person{i}")) for i in range(3)]
        with ThreadPoolExecutor(len(people)) as pool:
            done = [*pool.map(lambda one: [*sent(one, world)][-1].status_code, people)]
        assert answered in done
        assert peak() - before < 200 << 20


def forget(server: Server) -> int:
    """Verify what was accepted, and remove it from the index; return how much it was."""
    registry, count = server.registry(), 0
    for name in registry.names():
        for line in registry.index(name):
            verify_release(registry.record(line), BlobTree(Path(registry.url)).path)
            count += 1
        (Path(registry.url) / "index" / f"{name}.jsonl").unlink()
    return count


def peak() -> int:
    """Return the most memory that this process has taken so far, bytes."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
