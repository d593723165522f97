"""What somebody can do with a token, a session or an address that is not his, and with many."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from httpx import Response
from litestar.testing import TestClient
from sqlalchemy import update

from modpkg.core.digests import Digest
from modpkg.core.elsewhere import elsewhere_path, places_document
from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.server.clock import now
from modpkg.server.file_answers import ServerApp
from modpkg.server.state import Server
from modpkg.server.tables import ApiToken
from tests.changing import numbers, write
from tests.server.conftest import sent_with, token_for
from tests.server.live import live_server
from tests.server.publisher import Publisher, built

Release = tuple[BlobTree, IndexLine]


def code(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.fixture
def ada(server: Server, client: TestClient[ServerApp]) -> Publisher:
    return Publisher(client, token_for(server, "ada"))


@pytest.fixture
def release(server: Server, tmp_path: Path) -> Release:
    return built(write(tmp_path / "release", numbers("a", "b")), server.place)


def revoke_all(server: Server) -> None:
    with server.database.begin() as db:
        db.execute(update(ApiToken).values(revoked=now()))


def test_a_revoked_token_ends_an_upload_that_is_under_way(
    server: Server, ada: Publisher, release: Release
) -> None:
    session = ada.declare(*release).json()
    first, *_ = session["missing"]
    data = release[0].read(first["digest"], "a blob")
    assert ada.put(session["id"], first["digest"], data[:10]).status_code == 200
    revoke_all(server)
    assert code(ada.put(session["id"], first["digest"], data[10:], 10)) == (401, "M430")
    assert code(ada.commit(session["id"])) == (401, "M430")
    assert server.registry().names() == []


def test_a_revoked_token_commits_nothing_that_is_uploaded(
    server: Server, ada: Publisher, release: Release
) -> None:
    session = ada.declare(*release).json()
    ada.upload(release[0], session)
    revoke_all(server)
    assert code(ada.commit(session["id"])) == (401, "M430")
    assert server.registry().names() == []


def test_a_session_is_of_one_account_and_commits_once(
    server: Server, client: TestClient[ServerApp], ada: Publisher, release: Release
) -> None:
    bob = Publisher(client, token_for(server, "bob"))
    session = ada.declare(*release).json()["id"]
    for answer in (
        bob.request("GET", f"sessions/{session}"),
        bob.put(session, str(release[1].release), b"x"),
        bob.commit(session),
        bob.request("DELETE", f"sessions/{session}"),
    ):
        assert code(answer) == (404, "M450")
    ada.upload(release[0], ada.declare(*release).json())
    done = ada.commit(session).json()
    assert ada.commit(session).json() == done  # replayed: the same answer, nothing new
    assert len(server.registry().index("m")) == 1
    again = ada.put(session, str(release[1].release), b"x")
    assert again.status_code >= 400


def test_of_two_publishers_of_one_version_one_is_refused(
    server: Server, client: TestClient[ServerApp], ada: Publisher, tmp_path: Path
) -> None:
    releases = [
        built(write(tmp_path / str(n), numbers(*names)), server.place)
        for n, names in enumerate((("a", "b"), ("a", "b", "c")))
    ]
    sessions = [ada.declare(*one).json() for one in releases]
    for (tree, _), session in zip(releases, sessions, strict=True):
        ada.upload(tree, session)
    start = threading.Barrier(2)

    def commit(session: dict[str, str]) -> int:
        start.wait()
        return ada.commit(session["id"]).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(commit, sessions)) == [200, 409]
    (line,) = server.registry().index("m")
    assert line.release in [one.release for _, one in releases]


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path", ["index/m.jsonl", "modules.jsonl", "registry.json", "advisories.jsonl"]
)
def test_nobody_writes_the_files_themselves(
    server: Server, client: TestClient[ServerApp], method: str, path: str, release: Release
) -> None:
    ada = Publisher(client, token_for(server, "ada"))
    ada.publish(*release)
    root = server.place.folder
    assert root is not None
    before = {one: one.read_bytes() for one in root.rglob("*.json*") if one.is_file()}
    answer = client.request(method, f"/{path}", headers=ada.headers, content=b"")
    assert answer.status_code in (403, 404, 405)
    assert before == {one: one.read_bytes() for one in root.rglob("*.json*") if one.is_file()}


def test_an_old_line_does_not_come_back(
    server: Server, ada: Publisher, release: Release, tmp_path: Path
) -> None:
    """A rollback: to declare again what was yanked changes nothing."""
    ada.publish(*release)
    answer = ada.request("POST", "modules/m/yank", json={"version": "1.0", "reason": "wrong"})
    assert answer.status_code == 200, answer.text
    ada.declare(*release)
    assert [line.yanked for line in server.registry().index("m")] == ["wrong"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80\r\nX: y", "a@evil.example"])
def test_what_a_request_calls_the_server_is_not_believed(
    client: TestClient[ServerApp], host: str
) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"}
    headers |= {"Forwarded": "host=evil.example"} | ({} if "\r" in host else {"Host": host})
    for path in ("/", "/login", "/registry.json", "/nothing", "/api/1/me", "/account"):
        answer = client.get(path, headers=headers, follow_redirects=False)
        assert "evil.example" not in answer.text + str(answer.headers)


def test_a_line_break_in_an_address_makes_no_header(client: TestClient[ServerApp]) -> None:
    for path in ("/search?q=a%0d%0aSet-Cookie:%20x=1", "/login?following=/%0d%0aX-Evil:1"):
        answer = client.get(path)
        assert "x-evil" not in answer.headers
        assert "x=1" not in answer.headers.get("set-cookie", "")


def test_answers_for_one_person_are_kept_by_no_cache(
    server: Server, client: TestClient[ServerApp]
) -> None:
    headers = sent_with(token_for(server, "ada"))
    for path in ("/api/1/me", "/api/1/tokens", "/api/1/transfers"):
        answer = client.get(path, headers=headers)
        kept = answer.headers.get("cache-control", "")
        assert "no-store" in kept or "private" in kept, (path, kept)


def test_a_login_gives_a_cookie_of_its_own(client: TestClient[ServerApp]) -> None:
    """Session fixation: what an attacker has put there before means nothing afterwards."""
    client.cookies.set("modpkg", "chosen-by-the-attacker")
    client.post("/api/1/register", json={"name": "ada", "password": "correct horse battery"})
    page = client.get("/login").text
    csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
    fields = {"csrf": csrf, "name": "ada", "password": "correct horse battery"}
    answer = client.post("/login", data=fields, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    cookie = answer.headers["set-cookie"]
    assert "chosen-by-the-attacker" not in cookie
    client.cookies.clear()
    client.cookies.set("modpkg", "chosen-by-the-attacker")
    assert client.get("/account", follow_redirects=False).status_code == 303


def test_two_hundred_slow_clients_keep_nobody_waiting(tmp_path: Path) -> None:
    with live_server(tmp_path / "registry") as server:
        port = int(server.settings.url.rpartition(":")[2])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        try:
            for number, one in enumerate(slow):
                head = (
                    b"POST /api/1/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                )
                one.sendall(head[:30] if number % 2 else head + b"Content-Length: 100\r\n\r\n{")
            with httpx.Client(base_url=server.settings.url, timeout=120) as client:
                for _ in range(20):
                    assert client.get("/registry.json").status_code == 200
                    assert client.get("/api/1/me").status_code == 200
        finally:
            for one in slow:
                one.close()


def test_a_server_asks_no_place_for_a_blob(
    server: Server, ada: Publisher, release: Release
) -> None:
    """SSRF: what a storage lists as another place of a blob is for readers, who judge it."""
    tree, line = release
    session = ada.declare(tree, line).json()
    root = server.place.folder
    assert root is not None
    with socket.create_server(("127.0.0.1", 0)) as place:
        place.settimeout(0.2)
        address = f"https://127.0.0.1:{place.getsockname()[1]}/blob"
        for blob in session["missing"]:
            path = root / elsewhere_path(Digest(blob["digest"]))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(places_document([address]))
        again = ada.declare(tree, line).json()
        assert len(again["missing"]) == len(session["missing"])
        assert ada.commit(session["id"]).status_code >= 400
        with pytest.raises(TimeoutError):
            place.accept()
    assert server.registry().names() == []
