"""Servers that answer a publisher with what they like: nothing goes where it must not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.core.tree import BlobTree
from modpkg.manifest.logins import SentToken
from modpkg.registry import connection, request_tries
from modpkg.registry.place import Blob, BuiltBlob
from modpkg.registry.publishing_client import PublishingClient
from modpkg.registry.server_api import ServerApi
from modpkg.registry.session_records import DeclaredBlob, MissingBlob, SessionRequest
from tests.changing import build_for, numbers, write
from tests.raising import raises
from tests.registry.servers import Handler, Seen, Server, serve

TOKEN = "modpkg_" + "0" * 40
Answers = dict[str, tuple[int, Any]]


class Hostile(Handler):
    """Answers each request with what a test has written down for its method and path."""

    def do_GET(self) -> None:
        state = self.server.state
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        state.seen.append(Seen(self.command, self.path, headers))
        state.bodies.append(body)
        status, answer = state.answers(self.command, self.path)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        offset = {"Upload_Offset": state.held} if self.command == "HEAD" else {}
        self.answer(status, b"" if self.command == "HEAD" else data, **offset)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(request_tries, "_PAUSE", 0.001)
    (tmp_path / "evil").mkdir()
    with serve(tmp_path / "evil", Hostile) as running:
        running.bodies = []  # type: ignore[attr-defined]
        running.held = "0"  # type: ignore[attr-defined]
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "store").mkdir()
    with serve(tmp_path / "store", Hostile) as running:
        running.bodies = []  # type: ignore[attr-defined]
        running.answers = lambda method, path: (200, b"")  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[SessionRequest, dict[Digest, Blob]]:
    folder = tmp_path_factory.mktemp("release")
    line = build_for(write(folder, numbers("a")), folder / "none").line
    tree = BlobTree(folder / "dist")
    paths = [path for path in (folder / "dist/blobs").rglob("*") if path.is_file()]
    blobs: dict[Digest, Blob] = {
        digest: BuiltBlob(digest, "a blob", tree)
        for digest in (Digest(f"sha256:{path.name}") for path in paths)
    }
    declared = [DeclaredBlob(digest, blob.size or 0) for digest, blob in blobs.items()]
    return SessionRequest(line=line, blobs=declared), blobs


Release = tuple[SessionRequest, dict[Digest, Blob]]


def publish(evil: Server, release: Release, session: Any, *more: tuple[int, Any]) -> None:
    """Publish to a server that answers the declaration with a session, and then with the rest."""
    rest = list(more)

    def answers(method: str, path: str) -> tuple[int, Any]:
        if path.endswith("/sessions"):
            return 200, session
        if method in ("HEAD", "GET"):
            return 200, session
        return rest.pop(0) if len(rest) > 1 else rest[0]

    evil.answers = answers  # type: ignore[attr-defined]
    api = ServerApi(evil.url, f"{evil.url}/api/1/", SentToken(TOKEN))
    PublishingClient(api).publish(*release)


def asking(release: Release, url: str = "", **more: Any) -> dict[str, Any]:
    """Return a session that lacks one blob."""
    blob = max(release[0].blobs, key=lambda blob: blob.size)
    missing = {"digest": blob.digest, "size": blob.size, "url": url, **more}
    return {"id": "one", "state": "open", "missing": [missing]}


@pytest.mark.parametrize("name", ["", "../../me", "a/b", "a" * 300, "a?b", "é"])
def test_a_session_is_no_path(name: str, evil: Server, release: Release) -> None:
    with raises("M520", match="no id"):
        publish(evil, release, {"id": name, "state": "open"}, (200, {}))
    assert len(evil.seen) == 1


def test_what_was_not_declared_is_not_sent(evil: Server, release: Release) -> None:
    session = asking(release)
    session["missing"][0]["digest"] = "sha256:" + "0" * 64
    with raises("M317"):
        publish(evil, release, session, (200, {}))
    assert len(evil.seen) == 1


@pytest.mark.parametrize("session", [[], {"id": 3}, {"id": "a", "state": "new"}, b"{", b"[" * 9999])
def test_what_is_no_session_is_a_sentence(session: Any, evil: Server, release: Release) -> None:
    with raises("M520", match="not what this version"):
        publish(evil, release, session, (200, {}))


def test_an_endless_answer_ends(
    evil: Server, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "API_ANSWER_BYTES", 1000)
    with raises("M520", match="over 1000 bytes"):
        publish(evil, release, b" " * 5000, (200, {}))


@pytest.mark.parametrize("held", ["99999999999", "-1", "9" * 40, "x", "1"])
def test_offsets_are_never_beyond_the_end(held: str, evil: Server, release: Release) -> None:
    evil.held = held  # type: ignore[attr-defined]
    for offset in (2**40, 30_000):
        with raises("M520"):
            answer = {"offset": offset, "complete": False}
            publish(evil, release, asking(release, offset=offset), (200, answer))
    size = max(blob.size for blob in release[0].blobs)
    sent = [int(seen.headers["content-length"]) for seen in evil.seen if seen.method == "PUT"]
    assert 0 <= min(sent) <= max(sent) <= size


def test_a_server_that_takes_nothing_is_left(evil: Server, release: Release) -> None:
    with raises("M520", match="takes nothing"):
        publish(evil, release, asking(release), (200, {"offset": 0, "complete": False}))
    assert sum(seen.method == "PUT" for seen in evil.seen) <= request_tries.RETRIES + 1


def test_another_release_in_the_answer_is_refused(evil: Server, release: Release) -> None:
    line = {"name": "m", "version": "1.0", "kind": "base", "release": "sha256:" + "0" * 64}
    with raises("M520", match="another release"):
        publish(evil, release, {"id": "", "state": "committed", "line": line}, (200, {}))
    with raises("M520", match="another release"):
        publish(evil, release, {"id": "a", "state": "open"}, (200, {"line": line}))


def test_what_is_always_lacking_is_given_up(evil: Server, release: Release) -> None:
    refusal = (409, {"code": "M456", "message": "lacks"})
    with raises("M456"):
        publish(evil, release, {"id": "a", "state": "open"}, refusal)


def test_a_store_gets_the_blob_and_not_the_token(
    evil: Server, store: Server, release: Release
) -> None:
    line = json.loads(json.dumps({"name": "m", "version": "1.0", "kind": "base"}))
    line["release"] = release[0].line.release
    session = asking(release, f"{store.url}/bucket/x?X-Amz-Signature=abc", direct=True)
    publish(evil, release, session, (200, {"line": line}))
    (seen,) = store.seen
    assert (seen.method, "authorization" in seen.headers) == ("PUT", False)
    size = max(blob.size for blob in release[0].blobs)
    assert [len(body) for body in store.bodies] == [size]  # type: ignore[attr-defined]
    # Not even where the store is at the origin of the server.
    session = asking(release, f"{evil.url}/bucket/x?sig=abc", direct=True)
    evil.seen.clear()
    publish(evil, release, session, (200, b""), (200, {"line": line}))
    put = next(seen for seen in evil.seen if seen.method == "PUT")
    assert "authorization" not in put.headers


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example/x",
        "file:///etc/passwd",
        "https://u:p@store.example/x",
        "",
        "gopher:x",
    ],
)
def test_a_store_is_asked_over_tls_alone(url: str, evil: Server, release: Release) -> None:
    with raises("M520"):
        publish(evil, release, asking(release, url, direct=True), (200, {}))
    assert sum(seen.method == "PUT" for seen in evil.seen) == 0


def test_a_public_server_sends_nobody_into_a_private_network(
    evil: Server, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ServerApi("https://models.example", "https://models.example/api/1/", SentToken(TOKEN))
    reached: list[Any] = []
    find: Callable[..., Any] = connection.socket.getaddrinfo
    monkeypatch.setattr(
        connection.socket,
        "getaddrinfo",
        lambda host, *rest, **more: find("10.0.0.1", *rest, **more),
    )
    monkeypatch.setattr(connection, "_connected", lambda *where: reached.append(where))
    client = PublishingClient(api)
    digest, blob = next(iter(release[1].items()))
    session = asking(release, "https://inside.example/x", direct=True)
    missing = json.loads(json.dumps(session["missing"][0]))

    with raises("M520", match="private network"):
        client._upload_directly("one", digest, MissingBlob(**missing), blob)
    assert reached == []
