"""Publishing in sessions: what is refused when, what can be resumed, and what appears."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from httpx import Response
from litestar.exceptions import HTTPException
from litestar.testing import TestClient
from msgspec.json import encode
from msgspec.structs import replace
from sqlalchemy import select

from modpkg.core.digests import blob_path, digest_bytes, parse_digest
from modpkg.core.records import Encoding, IndexLine, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.reader import Registry
from modpkg.server import sessions
from modpkg.server.clock import now
from modpkg.server.file_answers import ServerApp
from modpkg.server.rebuilding import rebuild
from modpkg.server.spool import spool_of, spooled_sessions
from modpkg.server.state import Server
from modpkg.server.sweeping import sweep
from modpkg.server.tables import DownloadCount, Event, Module, PublishingSession, Role
from tests.changing import a_little, numbers, write
from tests.modules import publish_collection
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

EMPTY = digest_bytes(b"")
TENSORS = numbers("a", "b", "c")


@pytest.fixture
def ada(server: Server, client: TestClient[ServerApp]) -> Publisher:
    """Somebody with a token for everything."""
    return Publisher(client, token_for(server, "ada"))


def test_a_release_is_published_in_a_session_and_its_update_uploads_what_is_new(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    session = ada.declare(tree, line).json()
    assert (session["state"], session["line"]) == ("open", None)
    assert len(session["missing"]) == 4  # pack, config, interface, record
    assert ada.declare(tree, line).json()["id"] == session["id"]
    ada.upload(tree, session)
    assert server.registry().names() == []
    done = ada.commit(session["id"]).json()
    assert server.registry().index("m")[0].release == line.release == done["line"]["release"]
    assert ada.commit(session["id"]).json() == done
    again = ada.declare(tree, line).json()
    assert (again["id"], again["line"]) == ("", done["line"])
    update = write(tmp_path / "2", a_little(TENSORS, "b"), version="1.0.1")
    tree, line = built(update, server.place)
    sizes = {blob["size"] for blob in ada.declare(tree, line).json()["missing"]}
    assert max(sizes) < server.registry().index("m")[0].size / 3
    assert ada.publish(tree, line)["line"]["version"] == "1.0.1"
    with server.database.begin() as db:
        assert [event.version for event in db.scalars(select(Event))] == ["1.0", "1.0.1"]
        assert [role.role for role in db.scalars(select(Role))] == ["owner"]
        states = db.scalars(select(PublishingSession.state))
        assert set(states) == {"committed"}
    folder = server.place.folder
    assert folder is not None
    assert not list((folder / ".server" / "sessions").iterdir())


def code(answer: Response) -> tuple[int, str]:
    """Return the status and the code of a refusal."""
    return answer.status_code, answer.json()["code"]


@pytest.fixture
def bob(server: Server, client: TestClient[ServerApp]) -> Publisher:
    """Somebody else."""
    return Publisher(client, token_for(server, "bob"))


@pytest.fixture
def release(server: Server, tmp_path: Path) -> tuple[BlobTree, IndexLine]:
    """A release that is built, and not published."""
    return built(write(tmp_path / "release", TENSORS), server.place)


def test_what_came_of_an_upload_is_kept_when_its_sender_has_gone() -> None:
    class Going:
        async def stream(self) -> AsyncIterator[bytes]:
            yield b"some"
            yield b"thing"
            raise HTTPException(status_code=400)

    class Kept:
        data, offset = b"", 0

        def write(self, data: bytes) -> None:
            self.data += data

    kept = Kept()
    request: Any = Going()
    with pytest.raises(HTTPException):
        anyio.run(sessions._receive, request, kept, EMPTY, 100)
    assert kept.data == b"something"


def test_an_upload_goes_on_where_it_ended_and_what_is_wrong_is_thrown_away(
    ada: Publisher, release: tuple[BlobTree, IndexLine]
) -> None:
    tree, line = release
    session = ada.declare(tree, line).json()
    blob = max(session["missing"], key=lambda blob: blob["size"])
    name, digest, size = session["id"], blob["digest"], blob["size"]
    data = tree.read(digest, "a blob")
    path = f"sessions/{name}/blobs/{digest}"
    assert ada.put(name, digest, data[:1000]).json() == {"offset": 1000, "complete": False}
    there = ada.request("HEAD", path)
    assert (there.headers["upload-offset"], there.headers["upload-length"]) == ("1000", str(size))
    refused = ada.put(name, digest, data[500:], 500)
    assert code(refused) == (409, "M454")
    assert refused.headers["upload-offset"] == "1000"
    assert code(ada.put(name, digest, data[1000:] + b"more", 1000)) == (413, "M458")
    at = int(ada.request("HEAD", path).headers["upload-offset"])
    assert ada.put(name, digest, b"\1" * (size - at), at).json()["code"] == "M305"
    assert ada.request("HEAD", path).headers["upload-offset"] == "0"
    assert code(ada.commit(name)) == (409, "M456")
    assert ada.put(name, digest, data).json()["complete"]
    again = ada.declare(tree, line).json()
    assert digest not in [blob["digest"] for blob in again["missing"]]
    assert code(ada.put(name, "sha256:" + "0" * 64, b"")) == (404, "M450")
    assert ada.put(name, "sha256:../../x", b"").status_code == 400
    ada.upload(tree, again)
    assert ada.commit(name).status_code == 200


def test_two_uploads_of_one_blob_do_not_mix(
    server: Server, ada: Publisher, release: tuple[BlobTree, IndexLine]
) -> None:
    tree, line = release
    session = ada.declare(tree, line).json()
    blob = session["missing"][0]
    spool = spool_of(server.place, session["id"])
    with spool.upload(blob["digest"], blob["size"], 0):
        refused = ada.put(session["id"], blob["digest"], b"x")
    assert code(refused) == (409, "M455")
    assert refused.headers["retry-after"] == "1"


def test_what_is_declared_has_to_agree(ada: Publisher, release: tuple[BlobTree, IndexLine]) -> None:
    tree, line = release
    record = tree.read(parse_digest(line.release), "the record").decode()
    other = replace(line, kind="adapter")
    assert code(ada.declare(tree, other, record=record)) == (422, "M452")
    longer = {"line": line, "record": record + " ", "blobs": []}
    assert code(ada.request("POST", "sessions", content=encode(longer))) == (422, "M452")
    named = {"line": line, "record": record, "blobs": [{"digest": EMPTY, "size": 0}]}
    assert code(ada.request("POST", "sessions", content=encode(named))) == (422, "M452")
    without = {"line": line, "blobs": []}
    assert code(ada.request("POST", "sessions", content=encode(without))) == (422, "M452")
    name = {"line": replace(line, name="M_"), "record": record, "blobs": []}
    assert ada.request("POST", "sessions", content=encode(name)).status_code in (400, 422)
    # What is not said at first is found out in the end.
    session = ada.declare(tree, other).json()
    ada.upload(tree, session)
    assert code(ada.commit(session["id"])) == (422, "M452")
    assert ada.declare(tree, line, record=record).json()["id"] != session["id"]


def test_sessions_are_of_one_account_and_end(
    server: Server, ada: Publisher, bob: Publisher, release: tuple[BlobTree, IndexLine]
) -> None:
    tree, line = release
    session = ada.declare(tree, line).json()
    blob = session["missing"][0]["digest"]
    for answer in (
        bob.request("GET", f"sessions/{session['id']}"),
        bob.put(session["id"], blob, b""),
        bob.commit(session["id"]),
        bob.request("DELETE", f"sessions/{session['id']}"),
        bob.request("GET", "sessions/none"),
    ):
        assert code(answer) == (404, "M450")
    assert bob.declare(tree, line).json()["id"] != session["id"]
    ada.put(session["id"], blob, b"x")
    with server.database.begin() as db:
        row = db.get_one(PublishingSession, session["id"])
        row.expires = now()
    assert code(ada.commit(session["id"])) == (404, "M450")
    assert sweep(server) == 1
    assert sweep(server) == 0
    assert session["id"] not in spooled_sessions(server.place)
    session = ada.declare(tree, line).json()
    assert ada.request("DELETE", f"sessions/{session['id']}").status_code == 204
    assert code(ada.request("GET", f"sessions/{session['id']}")) == (404, "M450")


def test_a_name_is_of_who_published_first(
    server: Server, ada: Publisher, bob: Publisher, tmp_path: Path
) -> None:
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    mine, his = ada.declare(tree, line).json(), bob.declare(tree, line).json()
    for publisher, session in ((ada, mine), (bob, his)):
        publisher.upload(tree, session)
    assert ada.commit(mine["id"]).status_code == 200
    assert code(bob.commit(his["id"])) == (403, "M432")
    other, line = built(write(tmp_path / "2", numbers("a", "b"), version="1.0"), server.place)
    assert code(ada.declare(other, line)) == (409, "M307")
    with server.database.begin() as db:
        db.get_one(Module, "m").archived = "done with it"
    later, line = built(write(tmp_path / "3", TENSORS, version="1.1"), server.place)
    assert code(ada.declare(later, line)) == (409, "M453")


def test_nobody_takes_a_name_whose_releases_are_there_without_an_owner(
    server: Server, ada: Publisher, release: tuple[BlobTree, IndexLine]
) -> None:
    tree, line = release
    assert server.place.folder is not None
    publish_collection(server.place.folder, "m", "0.1")
    assert code(ada.declare(tree, line)) == (403, "M457")
    assert rebuild(server).modules == ["m"]
    assert code(ada.declare(tree, line)) == (403, "M432")


def test_a_version_that_is_too_low_is_refused_from_the_bytes(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    ada.publish(*built(write(tmp_path / "1", TENSORS), server.place))
    other = numbers("a", "b", "c", "d", seed=1)
    tree, line = built(write(tmp_path / "2", other, version="1.0.1"), server.place)
    session = ada.declare(tree, line).json()
    ada.upload(tree, session)
    answer = ada.commit(session["id"])
    assert code(answer) == (409, "M761"), answer.text
    assert len(server.registry().index("m")) == 1
    candidate = ada.declare(tree, line, candidate=True, message="look at it").json()
    ada.upload(tree, candidate)
    done = ada.commit(candidate["id"]).json()
    assert done["candidate"] == 1
    assert ada.commit(candidate["id"]).json() == done
    assert len(server.registry().index("m")) == 1


def test_limits_hold(server: Server, ada: Publisher, bob: Publisher, tmp_path: Path) -> None:
    trees = [
        built(write(tmp_path / str(i), numbers("a", seed=i), version=f"{i}.0"), server.place)
        for i in (1, 2)
    ]
    limits = server.settings.limits
    size = sum(blob["size"] for blob in ada.declare(*trees[0]).json()["missing"])
    for field, most in [
        ("release_bytes", size - 1),
        ("release_blobs", 3),
        ("open_sessions", 1),
        ("account_bytes", 2 * size - 1),
    ]:
        server.settings = replace(server.settings, limits=replace(limits, **{field: most}))
        assert code(ada.declare(*trees[1])) == (413, "M451"), field
    assert bob.declare(*trees[1]).status_code == 200


def test_a_damaged_release_is_refused_and_leaves_nothing(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    """A pack that a record describes wrongly: every digest is right, but for the tensor's."""
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    record = Registry(str(tree.root)).record(line)
    entry = record.tensors["a"]
    record.tensors["a"] = replace(entry, digest=record.tensors["b"].digest)
    wrong = replace(line, release=tree.add(canonical_json(record)))
    session = ada.declare(tree, wrong).json()
    ada.upload(tree, session)
    assert code(ada.commit(session["id"])) == (422, "M305")
    assert server.registry().names() == []
    with server.database.begin() as db:
        assert db.get(Module, "m") is None
    ada.publish(tree, line)


def test_a_change_of_a_tensor_that_no_memory_holds_is_refused_at_once(
    ada: Publisher, release: tuple[BlobTree, IndexLine]
) -> None:
    tree, line = release
    record = Registry(str(tree.root)).record(line)
    entry = record.tensors["a"]
    record.tensors["a"] = replace(
        entry, shape=[1 << 33], digest=EMPTY, encoding=Encoding(method="planes")
    )
    bomb = replace(line, release=tree.add(canonical_json(record)))
    text = canonical_json(record).decode()
    assert code(ada.declare(tree, bomb, record=text)) == (413, "M451")
    session = ada.declare(tree, bomb).json()
    ada.upload(tree, session)
    assert code(ada.commit(session["id"])) == (413, "M451")


def test_downloads_are_counted(
    server: Server, client: TestClient[ServerApp], ada: Publisher, tmp_path: Path
) -> None:
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    ada.publish(tree, line)
    record = server.registry().record(line)
    for digest in (line.release, line.release, *record.packs):
        assert client.get(f"/{blob_path(parse_digest(digest))}").status_code == 200
    server.downloads.write()
    client.get(f"/{blob_path(parse_digest(line.release))}")
    server.downloads.write()
    with server.database.begin() as db:
        rows = [(row.module, row.version, row.count) for row in db.scalars(select(DownloadCount))]
    assert rows == [("m", "1.0", 3)]


def test_the_registry_says_where_its_api_is(server: Server, client: TestClient[ServerApp]) -> None:
    info = client.get("/registry.json").json()
    assert info["api"] == "http://127.0.0.1:8420/api/1/"
    assert info["name"] == "test"


def test_a_module_is_not_published_as_somebody_who_does_not_own_it(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    ada.publish(*built(write(tmp_path / "1", TENSORS), server.place))
    update = built(write(tmp_path / "2", a_little(TENSORS, "b"), version="1.0.1"), server.place)
    assert code(ada.declare(*update, owner="acme")) == (409, "M449")
    assert ada.declare(*update, owner="ada").status_code == 200
