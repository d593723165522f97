"""Connections: what is answered at once is what h11 and the application would say, or is theirs."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.server import connections, reading
from modpkg.server.connections import plain_read
from modpkg.server.private_reading import PrivateFiles
from modpkg.server.state import Server
from tests.modules import publish_collection
from tests.server.live import live_server

HOST = b"Host: x\r\n"
READ = b"GET /index/words.jsonl HTTP/1.1\r\n" + HOST + b"\r\n"
PAGE = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = PAGE[:-2] + b"Connection: close\r\n\r\n"
LOGIN = b"POST /api/1/login HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a module."""
    folder = tmp_path_factory.mktemp("connections") / "registry"
    with live_server(folder) as running:
        publish_collection(folder, "words")
        yield running


def connected(server: Server) -> socket.socket:
    port = int(server.settings.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def ask(server: Server, *lines: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Return the answer to one request: its status, its headers but the date, and its body."""
    with connected(server) as asking:
        asking.sendall(b"\r\n".join(lines))
        answer = HTTPResponse(asking, method=method)
        answer.begin()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        assert headers.pop("date")
        return answer.status, headers, answer.read()


def statuses_of(server: Server, *parts: bytes) -> list[int]:
    """Send parts one after the other, and return the statuses of all answers but to the last."""
    with connected(server) as asking:
        data = b""
        with suppress(ConnectionResetError, BrokenPipeError):  # closed before it took all
            for part in (*parts, LAST):
                asking.sendall(part)
                time.sleep(0.03)
        with suppress(ConnectionResetError):
            while more := asking.recv(1 << 16):
                data += more
    found = re.split(rb"HTTP/1\.1 (\d{3}) ", data)
    assert found[0] == b""
    if found[-1].endswith(b"\r\n\r\nok") and b"connection: close" in found[-1].lower():
        del found[-2:]
    return [int(status) for status in found[1::2]]


@pytest.mark.parametrize(
    ("parts", "statuses"),
    [
        ([READ], [200]),
        ([READ[:20], READ[20:-1], READ[-1:]], [200]),
        ([READ * 3], [200] * 3),
        ([READ, PAGE, READ], [200] * 3),
        ([PAGE + READ + PAGE], [200] * 3),
        ([READ[:-2] + b"Connection: close\r\n\r\n", READ], [200]),
        ([READ.replace(b"GET", b"HEAD"), READ], [200, 200]),
        ([READ.replace(b"words", b"others"), READ], [404, 200]),
        ([READ[:-2] + b"Content-Length: %d\r\n\r\n" % len(READ) + READ], [200]),
        ([READ[:-2] + b"Content-Length: 4\r\n\r\n", b"GET ", READ], [200, 200]),
    ],
)
def test_each_request_is_answered_once_and_in_order(
    parts: list[bytes], statuses: list[int], server: Server
) -> None:
    assert statuses_of(server, *parts) == statuses


@pytest.mark.parametrize(
    "data",
    [
        READ.replace(HOST, b""),
        READ.replace(HOST, HOST * 2),
        b"\x16\x03\x01\0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 300_000 + b"\r\n",
        LOGIN + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LOGIN + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        LOGIN + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        LOGIN + b"Content-Length: +4\r\n\r\nabcd",
        LOGIN + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        LOGIN + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        LOGIN + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_two_servers_may_read_in_two_ways_is_refused_and_ends_the_connection(
    data: bytes, server: Server
) -> None:
    """Request smuggling: what follows is never taken for a request."""
    assert statuses_of(server, data + READ) == [400]


@pytest.mark.parametrize(
    "target",
    [
        b"/index/../registry.json",
        b"/index/..\\registry.json",
        b"/../../../../etc/passwd",
        b"//etc/passwd",
        b"/index/%2e%2e/registry.json",
        b"/index/%252e%252e/registry.json",
        b"/index/..%2fregistry.json",
        b"/index/%c0%ae%c0%ae/registry.json",
        b"/index/words.jsonl;.html",
        b"/index/words.jsonl%00.html",
        b"/index/./words.jsonl",
        b"/INDEX/words.jsonl",
        b"/.server/server.sqlite3",
        b"/index/../.server/server.sqlite3",
        b"/private/index/words.jsonl",
        b"/%2eserver/server.sqlite3",
        b"/static/../.server/server.sqlite3",
        b"/static/..%2f..%2fstate.py",
        b"/blobs/sha256/" + b"a" * 60_000,
        b"http://127.0.0.1/.server/server.sqlite3",
        b"http://other.example/index/../.server/server.sqlite3",
        b"file:///etc/passwd",
        b"*",
    ],
)
def test_no_spelling_of_a_path_reaches_another_file(target: bytes, server: Server) -> None:
    line = b"GET " + target + b" HTTP/1.1\r\n"
    found = statuses_of(server, line + HOST + b"\r\n")
    assert found in ([400], [404], [414], [431], []), found


def test_both_ways_say_the_same(server: Server) -> None:
    tag = ask(server, READ)[1]["etag"].encode()
    for line in (
        b"",
        b"If-None-Match: " + tag + b"\r\n",
        b'If-None-Match: "other"\r\n',
        b"If-None-Match: *\r\n",
        b"Range: bytes=2-5\r\n",
        b"Range: bytes=100000-\r\n",
        b"Authorization: Bearer nobody\r\n",
    ):
        for method in ("GET", "HEAD"):
            read = READ.replace(b"GET", method.encode())[:-2] + line
            at_once = ask(server, read, b"", method=method)
            assert at_once == ask(server, read + b"Te: trailers", b"", b"", method=method)


def test_a_new_version_is_seen_at_once_and_each_read_is_counted(tmp_path: Path) -> None:
    """By a server of its own: another may still be at the reads of other tests."""
    with live_server(tmp_path / "registry") as server:
        for number in range(4):
            publish_collection(tmp_path / "registry", "words", f"1.{number}")
            body = ask(server, READ[:-2] + b"Connection: keep-alive", b"", b"")[2]
            assert f'"version":"1.{number}"'.encode() in body
        counted = 'modpkg_file_reads_total{kind="index",status="200"} 4.0'
        assert counted in server.metrics.text().decode()


def test_a_private_file_is_for_those_who_may_read_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may be somebody is asked about by the application, not answered at once."""
    asked = []
    find = PrivateFiles.find

    def noted(self: PrivateFiles, path: str, *, is_blob: bool) -> reading.StoredVersion | None:
        asked.append(path)
        return find(self, path, is_blob=is_blob)

    monkeypatch.setattr(PrivateFiles, "find", noted)
    secret = READ.replace(b"words", b"secret")
    assert ask(server, secret)[0] == 404
    assert ask(server, secret[:-2] + b"Authorization: Bearer wrong", b"", b"")[0] == 401
    assert asked == []


def seconds_until_closed(server: Server, first: bytes, piece: bytes) -> float:
    begun = time.monotonic()
    with connected(server) as slow, suppress(ConnectionError):
        slow.sendall(first)
        slow.settimeout(0.05)
        while True:
            assert time.monotonic() < begun + 60, "it was not closed"
            try:
                if not slow.recv(1 << 16):
                    break
            except TimeoutError:
                if piece:
                    slow.sendall(piece)
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b""),
        (READ[:20], b""),
        (READ[:20], b"a"),
        (READ, b""),
        (READ, b"G"),
        (PAGE, b"G"),
        (READ[:-2] + b"Content-Length: 100000\r\n\r\n", b"a"),
    ],
)
def test_who_sends_no_head_in_time_is_left(
    first: bytes, piece: bytes, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.8)
    assert seconds_until_closed(server, first, piece) > 0.3


def test_who_fetches_no_answers_is_asked_nothing_more(server: Server) -> None:
    """What a connection holds is bounded: the server stops reading what would need answers."""
    with connected(server) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        asking.settimeout(0.3)
        sent = 0
        with suppress(TimeoutError):
            while sent < 400_000:
                asking.send(READ)
                sent += 1
        assert sent < 400_000


def test_who_goes_in_the_middle_of_a_request_is_no_failure_of_the_server(server: Server) -> None:
    """Other tests of this server leave in the middle as well: what counts is one more."""

    def count() -> float:
        series = 'modpkg_requests_total{method="POST",route="/api/1/login",status="400"} '
        found = re.search(re.escape(series) + r"(\S+)", server.metrics.text().decode())
        return float(found[1]) if found else 0.0

    before = count()
    with connected(server) as going:
        going.sendall(LOGIN + b"Content-Length: 100\r\n\r\n{")
    until = time.monotonic() + 60
    while count() <= before:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "modpkg_failures_total 0.0" in server.metrics.text().decode()


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
_NAMES = st.sampled_from(["Host", "Range", "X", "If-None-Match", "TE", "Content-Length", "é", ""])


@given(
    st.sampled_from(["GET", "HEAD", "POST", "get"]),
    st.sampled_from(["/registry.json", "/index/a.jsonl", "/a?b", "a", "/%61", "http://a/b"]),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 "]),
    st.lists(st.tuples(_NAMES, st.sampled_from([":", ": ", " :", ""]), _TEXT), max_size=4),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.sampled_from(["", "GET / HTTP/1.1\r\n\r\n", "\0"]),
)
def test_a_plain_read_is_what_h11_reads(
    method: str,
    path: str,
    version: str,
    headers: list[tuple[str, str, str]],
    end: str,
    after: str,
) -> None:
    lines = [f"{method} {path} {version}", "Host: x", *map("".join, headers)]
    data = ("".join(f"{line}{end}" for line in lines) + end + after).encode()
    read = plain_read(data)
    if read is None:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    found = {name.decode(): value.decode() for name, value in event.headers}
    assert read == (event.method.decode(), event.target.decode(), found)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)


def test_a_head_is_judged_in_one_pass() -> None:
    begun = time.process_time()
    for tail in (b"\r", b"\0", b"x: \xff\r\n\r\n"):
        assert plain_read(b"GET /a HTTP/1.1\r\n" + b"a: \r\n" * 50_000 + tail) is None
    assert time.process_time() - begun < 5
