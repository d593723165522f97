"""Connections that are slow, cut off or folded, to a server that listens; whatever its front is."""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from modpkg.core.digests import blob_path, digest_bytes
from modpkg.registry.session_records import OFFSET
from modpkg.server import connections
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.tables import ApiToken
from tests.changing import numbers, write
from tests.server.conftest import token_for
from tests.server.live import live_server
from tests.server.publisher import Publisher, built

LARGE = 24 << 20
READERS = 16
MOST = 200 << 20
"""How much more memory all readers may take: half of what they asked for, in bytes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with live_server(tmp_path_factory.mktemp("slow") / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.settings.url, timeout=120, trust_env=False) as made:
        yield made


def connected(server: Server) -> socket.socket:
    port = int(server.settings.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def revoke_all(server: Server) -> None:
    with server.database.begin() as db:
        db.execute(update(ApiToken).values(revoked=now()))


def peak() -> int:
    """Return the most memory that this process has taken so far, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_who_does_not_read_his_answer_takes_no_memory_and_keeps_nobody_waiting(
    server: Server, client: httpx.Client
) -> None:
    data = bytes(LARGE)
    digest = digest_bytes(data)
    folder = server.place.folder
    assert folder is not None
    path = folder / blob_path(digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    before = peak()
    head = f"GET /{blob_path(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    readers = [connected(server) for _ in range(READERS)]
    try:
        for one in readers:
            one.sendall(head)
            assert one.recv(12) == b"HTTP/1.1 200"
        for _ in range(10):
            assert client.get("/registry.json").status_code == 200
            assert client.get("/api/1/me").status_code == 200
        assert peak() - before < MOST < READERS * LARGE
    finally:
        for one in readers:
            one.close()
    answer = client.get(f"/{blob_path(digest)}")
    assert digest_bytes(answer.content) == digest


@pytest.mark.parametrize(
    "folded", [b"Content-Length:\r\n 4\r\n", b"X: a\r\n Content-Length: 0\r\nContent-Length: 4\r\n"]
)
def test_a_folded_header_hides_no_request(server: Server, folded: bytes) -> None:
    """A header in two lines is one header, or refused: its body is never taken for a request."""
    login = b"POST /api/1/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    hidden = b"GET /registry.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    body = b'{"":' + hidden
    with connected(server) as asking:
        asking.sendall(login + folded + b"\r\n" + body)
        data = b""
        while more := asking.recv(1 << 16):
            data += more
    # Of its four bytes, which are no JSON, it is answered 400; what follows is a request by itself.
    statuses = [line.split()[1] for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert statuses in ([b"400"], [b"400", b"200"])


def test_a_token_that_is_revoked_in_the_middle_of_a_body_publishes_nothing(
    server: Server, client: httpx.Client, tmp_path: Path
) -> None:
    ada = Publisher(client, token_for(server, "ada"))
    tree, line = built(write(tmp_path / "m", numbers("a", "b")), server.place)
    session = ada.declare(tree, line).json()
    last = session["missing"][-1]
    ada.upload(tree, session | {"missing": session["missing"][:-1]})
    data = tree.read(last["digest"], "a blob")
    lines = [
        f"PUT /api/1/sessions/{session['id']}/blobs/{last['digest']} HTTP/1.1",
        "Host: x",
        f"Authorization: {ada.headers['Authorization']}",
        f"{OFFSET}: 0",
        f"Content-Length: {len(data)}",
        "Connection: close",
    ]
    with connected(server) as sending:
        sending.sendall("\r\n".join([*lines, "", ""]).encode() + data[:10])
        until = time.monotonic() + 60
        while "modpkg_requests_under_way 1.0" not in server.metrics.text().decode():
            assert time.monotonic() < until
            time.sleep(0.01)
        revoke_all(server)
        sending.sendall(data[10:])
        while sending.recv(1 << 16):  # that it was taken, or that it was not
            pass
    refused = ada.commit(session["id"])
    assert (refused.status_code, refused.json()["code"]) == (401, "M430")
    assert server.registry().names() == []
    fresh = Publisher(client, token_for(server, "ada"))
    fresh.publish(tree, line)  # the session is hers still
    assert server.registry().names() == ["m"]


def test_a_byte_a_second_is_cut_off_and_others_are_answered_meanwhile(
    server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connected(server) as slow:
        slow.settimeout(0.05)
        for byte in b"GET /registry.json HTTP/1.1\r\nHost: " + b"x" * 1000:
            assert client.get("/registry.json").status_code == 200
            try:
                slow.sendall(bytes([byte]))
                if not slow.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it was not cut off")
